"""A trained model handed over: by public clients, in a fresh process, from another folder, without the machine it was made on."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import get_peft_model
from stand_in_hub import DISTILBERT, REVISIONS, serving, write_repositories
from toy_models import CPU, LABELS, some_letters, tiny_distilbert, tiny_gpt2

from helpers import CheckFailed
from helpers.handover import FACTS, complete, distance, export, find_base, fit_unlike, load_for_use
from helpers.hub import find_model
from helpers.models import distilbert_adapter, gpt2_adapter, load_base, predict, save_and_reload
from helpers.scores import with_temperature

TEXTS = ["my credit card was charged a fee", "the escrow on my mortgage was raised, and raised again"]
CLASSES = {LABELS[0]: [LABELS[0]], LABELS[1]: [LABELS[1], "Credit card"]}


def hand_over(out, name, model, checkpoint, method="lora", bits=32, revision="0" * 40):
    """Write models/NAME and its result as a notebook does, with an adapter that has learned something."""
    record = {"model": model, "method": method, "bits": bits, "rank": 4, "max_tokens": 48, "precision": "float32"}
    record |= {
        "checkpoint": str(checkpoint),
        "revision": revision,
        "weights": f"models/{name}",
        "seed": 0,
        "train_rows": 30,
    }
    base, tokenizer = load_base(record, LABELS, 0)
    adapter = distilbert_adapter(4, 8, 0.0) if model == "distilbert" else gpt2_adapter(4, 8, 0.0, bits)
    trained = get_peft_model(base, adapter)
    torch.manual_seed(1)
    for key, weight in trained.named_parameters():
        if "lora_B" in key or ("modules_to_save" in key and weight.ndim > 1):
            torch.nn.init.normal_(weight, std=0.2)
    save_and_reload(trained, load_base(record, LABELS, 1)[0], out / record["weights"])
    complete(out / record["weights"], record, LABELS, CLASSES, "toy")
    (out / "results").mkdir(exist_ok=True)
    (out / f"results/{name}.json").write_text(json.dumps({"labels": LABELS, "trainings": [record]}))
    return predict(trained, tokenizer, TEXTS, 48, CPU)


def tables():
    rows = some_letters(60)
    return {"train": rows[:40], "validation": rows[40:].reset_index(drop=True)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the run's folder, the moved bases by kind, what each adapter answers, and what each export said."""
    out, bases, later = (tmp_path_factory.mktemp(name) for name in ("run", "bases", "later"))
    places = {"distilbert": tiny_distilbert(bases), "gpt2": tiny_gpt2(bases)}
    answers = {
        "a": hand_over(out, "a", "distilbert", places["distilbert"]),
        "b": hand_over(out, "b", "gpt2", places["gpt2"]),
        "q": hand_over(out, "q", "gpt2", places["gpt2"], "qlora", 4),
    }
    said = {name: "\n".join(export(out, name, tables(), ["I owe a student loan"] * 5)) for name in answers}
    moved = {kind: Path(shutil.move(place, later / place.name)) for kind, place in places.items()}
    return out, moved, answers, said


CLIENT = """
import json, sys
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
folder, texts = sys.argv[1], json.loads(sys.argv[2])
pipe = pipeline("text-classification", folder, truncation=True, top_k=None, batch_size=2)
told = [{row["label"]: row["score"] for row in rows} for rows in pipe(texts)]
model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
with torch.no_grad():
    both = model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).logits.softmax(1)[:, 1]
print(json.dumps([told, both.tolist(), tokenizer.model_max_length]))
"""

ADAPTER = """
import json, sys
import torch
from peft import AutoPeftModelForSequenceClassification, PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer
base, folder, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
if base:
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2, ignore_mismatched_sizes=True)
    model = PeftModel.from_pretrained(model, folder)
else:
    model = AutoPeftModelForSequenceClassification.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
model.config.pad_token_id = tokenizer.pad_token_id
model.eval()
with torch.no_grad():
    print(json.dumps(model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(1)[:, 1].tolist()))
"""


def in_fresh_process(client, folder, *arguments, **variables):
    """Return what the client prints, run as its user would: elsewhere, and without this project on its path."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    command = [sys.executable, "-c", client, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=own)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a", "b", "q"])
def test_a_merged_model_is_loaded_by_public_clients_with_its_label_names(made, tmp_path, name):
    out, _, answers, _ = made
    moved = shutil.copytree(out / f"models/{name}/merged", tmp_path / "elsewhere")
    told, both, limit = in_fresh_process(CLIENT, tmp_path, moved, json.dumps(TEXTS))
    temperature = json.loads((moved / FACTS).read_text())["temperature"]
    near = (
        1e-4 if name != "q" else 0.2
    )  # the one that was trained on 4 bits answers a little differently in full precision
    assert np.allclose(both, with_temperature(answers[name], temperature), atol=near) and limit == 48
    assert [row[LABELS[1]] for row in told] == pytest.approx(both, abs=1e-5) and set(told[0]) == set(LABELS)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("a", "distilbert"), ("b", "gpt2")])
def test_an_adapter_is_loaded_on_its_local_base_wherever_that_is_now(made, tmp_path, name, kind):
    out, moved, answers, _ = made
    folder = shutil.copytree(out / f"models/{name}", tmp_path / "elsewhere")
    assert in_fresh_process(ADAPTER, tmp_path, moved[kind], folder, json.dumps(TEXTS)) == pytest.approx(
        answers[name], abs=1e-4
    )


def test_nothing_in_a_folder_names_a_place_of_the_machine_it_was_made_on(made):
    out, _, _, _ = made
    files = [path for path in out.glob("models/**/*") if path.suffix in (".json", ".md")]
    assert len(files) > 20
    assert not [path for path in files if "/tmp" in path.read_text() or str(out.parent) in path.read_text()]
    config = json.loads((out / "models/a/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny-distilbert"


@pytest.mark.slow
def test_an_adapter_whose_base_is_on_the_hub_is_loaded_by_its_id_and_revision(tmp_path, monkeypatch):
    repositories = write_repositories(tmp_path / "hub")
    local = repositories / "models" / DISTILBERT / REVISIONS[DISTILBERT]
    answers = hand_over(tmp_path, "h", "distilbert", local)
    record = json.loads((tmp_path / "results/h.json").read_text())["trainings"][0]
    monkeypatch.setattr("helpers.handover.find_model", lambda *asked: str(local))  # as the hub's snapshot would be
    record |= {"checkpoint": DISTILBERT, "revision": REVISIONS[DISTILBERT]}
    complete(tmp_path / "models/h", record, LABELS, CLASSES, "toy")
    config = json.loads((tmp_path / "models/h/adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (DISTILBERT, REVISIONS[DISTILBERT])
    folder = shutil.copytree(tmp_path / "models/h", tmp_path / "elsewhere/h")
    with serving(repositories) as hub:
        variables = {"HF_ENDPOINT": hub.url, "no_proxy": "127.0.0.1", "HF_HOME": str(tmp_path / "home")}
        found = in_fresh_process(ADAPTER, tmp_path, "", folder, json.dumps(TEXTS), **variables)
    assert found == pytest.approx(answers, abs=1e-4)


def test_the_base_is_known_by_its_weights_and_asked_for_by_name(made, tmp_path):
    out, moved, _, _ = made
    facts = json.loads((out / f"models/a/{FACTS}").read_text())
    assert find_base(facts, str(moved["distilbert"])) == find_model(str(moved["distilbert"]), "", "distilbert")
    with pytest.raises(
        FileNotFoundError, match=r"base model tiny-distilbert, whose weights have the hash .*--base FOLDER"
    ):
        find_base(facts)
    other = tiny_distilbert(tmp_path)
    weights = other / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    with pytest.raises(ValueError, match="holds other weights"):
        find_base(facts, str(other))


def test_an_adapter_and_its_merged_model_answer_alike_in_use(made):
    out, moved, answers, _ = made
    adapter = load_for_use(out / "models/b", str(moved["gpt2"]))
    merged = load_for_use(out / "models/b/merged")
    temperature = merged.facts["temperature"]
    alone, away = adapter.answers(TEXTS, CPU)
    assert np.allclose(alone, answers["b"], atol=1e-5) and (away == 0).all()
    told, away = merged.answers(TEXTS, CPU)
    assert np.allclose(told, with_temperature(answers["b"], temperature), atol=1e-4) and (away > 0).all()


def test_a_merge_that_changes_answers_is_refused(made, monkeypatch):
    out, moved, _, _ = made
    monkeypatch.setattr("helpers.handover.best_temperature", lambda *_: 2.0)
    monkeypatch.setattr("helpers.handover.with_temperature", lambda probability, temperature: probability)
    result = json.loads((out / "results/a.json").read_text())
    result["trainings"][0]["checkpoint"] = str(moved["distilbert"])
    (out / "results/a2.json").write_text(json.dumps(result))
    (out / "results/a.json").rename(out / "results/hidden")
    try:
        with pytest.raises(CheckFailed, match="answers differently"):
            export(out, "a", tables(), [])
    finally:
        (out / "results/hidden").rename(out / "results/a.json")
        (out / "results/a2.json").unlink()


def test_the_card_says_what_was_measured_and_what_the_model_does_not_know(made):
    out, _, _, said = made
    text = (out / "models/q/merged/README.md").read_text()
    assert "`tiny-gpt2`, a local checkpoint whose weights have the SHA-256" in text and "base in 4 bits" in text
    assert (
        "validation accuracy" in text and "of 5 complaints about other products" in text and "temperature" in said["q"]
    )
    assert "beside the 4 bits it was trained on, probabilities differ by" in text and "license: mit" in text
    assert (
        "merged and adapter answer alike" in said["a"] and "not scored yet" in (out / "models/a/README.md").read_text()
    )


def test_what_lies_far_from_both_classes_is_far():
    random = np.random.default_rng(0)
    labels = np.arange(400) % 2
    near = random.normal(size=(400, 6)) + 5 * labels[:, None]
    unlike = fit_unlike(near[:300], labels[:300], near[300:])
    assert (distance(near[300:], unlike) <= 1).mean() == pytest.approx(0.95, abs=0.011)
    assert (distance(near[:10] + 20, unlike) > 1).all()
