"""Loading, training and scoring on toy checkpoints of a few thousand weights."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from stand_in_hub import write_distilbert, write_gpt2
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.modeling_outputs import SequenceClassifierOutput

from driver import guard
from helpers.hub import find_model, was_fine_tuned
from helpers.machine import Computing
from helpers.models import (
    count_parameters,
    load_base,
    load_distilbert,
    load_gpt2,
    load_gpt2_in_4_bits,
    load_gpt2_tokenizer,
    megabytes_by_part,
    predict,
    save_and_reload,
    tokenise,
    with_weights,
)
from helpers.training import by_epoch, fit, last_whole_checkpoint, logged, training_arguments, training_key

ROOT = Path(__file__).parents[1]
LABELS = ("Mortgage", "Credit card or prepaid card")
CPU = Computing(torch.device("cpu"), torch.float32)
CARD, MORTGAGE = "my credit card was charged a fee", "the escrow on my mortgage was raised"


@pytest.fixture(scope="module")
def distilbert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-distilbert"
    write_distilbert(folder, [CARD, MORTGAGE] * 50)
    return folder


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-gpt2"
    write_gpt2(folder, [CARD, MORTGAGE] * 50)
    return folder


def some_letters(number=24):
    """Return so many letters of five lengths, every other one about a card."""
    texts = [f"{CARD if i % 2 else MORTGAGE} " * (1 + i % 5) for i in range(number)]
    return pd.DataFrame({"text": texts, "label": [i % 2 for i in range(number)]})


@pytest.fixture
def letters():
    return some_letters()


# --- which folder may be loaded


def test_a_checkpoint_of_the_right_architecture_is_found(distilbert, gpt2):
    assert find_model(str(distilbert), "none", "distilbert") == str(distilbert)
    assert find_model(str(gpt2), "none", "gpt2") == str(gpt2)


def test_another_architecture_is_refused_and_the_expected_layers_named(gpt2):
    with pytest.raises(ValueError, match=r"'gpt2' checkpoint.*'distilbert'.*q_lin, k_lin, v_lin, out_lin, lin1, lin2"):
        find_model(str(gpt2), "none", "distilbert")


def test_a_folder_without_a_tokenizer_is_refused(distilbert, tmp_path):
    shutil.copytree(distilbert, tmp_path / "bare")
    (tmp_path / "bare/tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        find_model(str(tmp_path / "bare"), "none", "distilbert")


def test_a_folder_that_is_no_checkpoint_or_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        find_model(str(tmp_path), "none", "gpt2")
    (tmp_path / "config.json").write_text('{"model_type": "gp')
    with pytest.raises(ValueError, match=r"config\.json that cannot be read"):
        find_model(str(tmp_path), "none", "gpt2")
    with pytest.raises(FileNotFoundError, match="not a folder"):
        find_model(str(tmp_path / "nowhere"), "none", "gpt2")


def test_more_tokens_than_positions_are_refused_before_anything_trains(distilbert, gpt2):
    for folder, architecture, positions in ((distilbert, "distilbert", 512), (gpt2, "gpt2", 1024)):
        assert find_model(str(folder), "none", architecture, positions) == str(folder)
        name = architecture.upper()
        with pytest.raises(
            ValueError, match=f"MAX_TOKENS {positions + 1} .*{name} .*-p MAX_TOKENS {positions}, .*-p {name} PATH"
        ):
            find_model(str(folder), "none", architecture, positions + 1)


def test_a_checkpoint_that_was_fine_tuned_is_known_by_its_head(distilbert, gpt2, tmp_path):
    assert not was_fine_tuned(str(distilbert)) and not was_fine_tuned(str(gpt2))
    AutoModelForSequenceClassification.from_pretrained(distilbert, num_labels=5).save_pretrained(tmp_path)
    assert was_fine_tuned(str(tmp_path))


class Bomb:
    """Leaves a file when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_weights_offered_as_a_pickle_are_refused_and_nothing_in_them_is_executed(distilbert, tmp_path):
    folder, trace = tmp_path / "bomb", tmp_path / "executed"
    shutil.copytree(distilbert, folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(ValueError, match=r"no weights in a \.safetensors file.*may hold code and is never loaded"):
        find_model(str(folder), "none", "distilbert")
    with pytest.raises(OSError, match="safetensors"):
        load_distilbert(str(folder), LABELS, 0)
    assert not trace.exists()
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert trace.exists()  # it would have been


def test_an_adapter_offered_as_a_pickle_is_refused_and_nothing_in_it_is_executed(distilbert, letters, tmp_path):
    model, *_ = train_adapter(distilbert, tmp_path / "checkpoints", letters, epochs=1)
    model.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter/adapter_model.safetensors").unlink()
    (tmp_path / "adapter/adapter_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    with pytest.raises(pickle.UnpicklingError):
        PeftModel.from_pretrained(load_distilbert(str(distilbert), LABELS, 0), tmp_path / "adapter")
    assert not (tmp_path / "executed").exists()


# --- what loading promises


def test_the_head_follows_the_seed_and_the_body_does_not(distilbert):
    one, same, other = (load_distilbert(str(distilbert), LABELS, seed) for seed in (1, 1, 2))
    assert torch.equal(one.classifier.weight, same.classifier.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)
    body = "distilbert.transformer.layer.0.attention.q_lin.weight"
    assert torch.equal(one.get_parameter(body), other.get_parameter(body))
    assert one.config.id2label == dict(enumerate(LABELS))


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("kind", ["distilbert", "gpt2"])
def test_a_checkpoint_that_was_fine_tuned_before_gets_a_new_head_all_the_same(kind, classes, request, tmp_path):
    plain = str(request.getfixturevalue(kind))
    used = AutoModelForSequenceClassification.from_pretrained(plain, num_labels=classes, pad_token_id=0)
    head = "classifier.weight" if kind == "distilbert" else "score.weight"
    torch.nn.init.constant_(used.get_parameter(head), 7.0)
    used.save_pretrained(tmp_path)
    shutil.copy(Path(plain) / "tokenizer.json", tmp_path)
    shutil.copy(Path(plain) / "tokenizer_config.json", tmp_path)
    record = {"architecture": kind, "kind": "lora", "revision": ""}
    models = [load_base(record | {"checkpoint": str(folder)}, LABELS, 3)[0] for folder in (plain, tmp_path)]
    assert torch.equal(*(model.get_parameter(head) for model in models))
    assert models[1].get_parameter(head).shape[0] == 2 and models[1].get_parameter(head).abs().max() < 1


def test_gpt2_predicts_for_an_empty_text_too(gpt2):
    tokenizer = load_gpt2_tokenizer(str(gpt2))
    model = load_gpt2(str(gpt2), LABELS, 0, tokenizer.pad_token_id)
    alone = predict(model, tokenizer, [""], 64, CPU)
    assert predict(model, tokenizer, [CARD, "", MORTGAGE], 64, CPU)[1] == pytest.approx(alone[0], abs=1e-6)


def test_predictions_are_the_same_over_several_windows_of_texts(distilbert):
    tokenizer, model = AutoTokenizer.from_pretrained(distilbert), load_distilbert(distilbert, LABELS, 0)
    four = [CARD, MORTGAGE, f"{CARD} {MORTGAGE}", "fee"]
    whole = predict(model, tokenizer, four * 1_001, 64, CPU)  # 4,004 texts: three windows, the last of four
    assert whole.shape == (4_004,) and np.allclose(
        whole.reshape(-1, 4), predict(model, tokenizer, four, 64, CPU), atol=1e-6
    )


def test_right_padding_moves_no_logit_of_gpt2(gpt2):
    tokenizer = load_gpt2_tokenizer(str(gpt2))
    model = load_gpt2(str(gpt2), LABELS, 0, tokenizer.pad_token_id)
    alone = predict(model, tokenizer, [CARD], 64, CPU)
    assert predict(model, tokenizer, [CARD, (MORTGAGE + " ") * 6], 64, CPU)[0] == pytest.approx(alone[0], abs=1e-6)
    tokenizer.padding_side = "left"
    assert abs(predict(model, tokenizer, [CARD, (MORTGAGE + " ") * 6], 64, CPU)[0] - alone[0]) > 1e-6


def test_predictions_come_back_in_the_order_of_the_texts(distilbert, monkeypatch):
    tokenizer, model = AutoTokenizer.from_pretrained(distilbert), load_distilbert(distilbert, LABELS, 0)
    words = [1 + 7 * i % 20 for i in range(20)]  # each number once; three batches on a CPU

    def count(attention_mask, **_):
        """Answer with the number of tokens, so that each text has an answer of its own, in any precision."""
        votes = attention_mask.sum(dim=1, dtype=torch.float32) - 12
        return SequenceClassifierOutput(logits=torch.stack([torch.zeros_like(votes), votes / 4], dim=1))

    monkeypatch.setattr(model, "forward", count)
    texts = ["card " * n for n in words]
    tokens = np.array([len(tokenizer(text)["input_ids"]) for text in texts])
    assert len(set(tokens)) == 20
    assert predict(model, tokenizer, texts, 64, CPU) == pytest.approx(1 / (1 + np.exp((12 - tokens) / 4)), abs=5e-3)


@pytest.mark.parametrize("kind", ["distilbert", "gpt2"])
def test_what_makes_it_fast_moves_answers_and_gradients_by_rounding_only(kind, request):
    folder = str(request.getfixturevalue(kind))
    fast, tokenizer = load_base({"architecture": kind, "kind": "lora", "checkpoint": folder, "revision": ""}, LABELS, 0)
    plain = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=2, attn_implementation="eager", pad_token_id=tokenizer.pad_token_id
    )
    plain.load_state_dict(fast.state_dict())
    texts, labels = [CARD, f"{CARD} {MORTGAGE}", MORTGAGE], torch.tensor([1, 1, 0])
    alone = [tokenizer(text, return_tensors="pt") for text in texts]
    with torch.inference_mode():
        answers = [plain(**one).logits.softmax(dim=1)[0, 1].item() for one in alone]
    assert predict(fast, tokenizer, texts, 64, CPU) == pytest.approx(answers, abs=1e-6)
    fast(**tokenizer(texts, padding=True, return_tensors="pt"), labels=labels).loss.backward()
    for one, label in zip(alone, labels, strict=True):
        (plain(**one, labels=label[None]).loss / len(texts)).backward()
    pairs = [(a, b) for a, b in zip(fast.parameters(), plain.parameters(), strict=True) if b.grad is not None]
    assert len(pairs) > 20 and max(b.grad.abs().max() for _, b in pairs) > 1e-2
    assert all(torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-5) for a, b in pairs)


def test_the_body_in_four_bits_is_really_in_four_bits(gpt2):
    tokenizer = load_gpt2_tokenizer(str(gpt2))
    full = load_gpt2(str(gpt2), LABELS, 0, tokenizer.pad_token_id)
    four = load_gpt2_in_4_bits(str(gpt2), LABELS, 0, tokenizer.pad_token_id, torch.float32)
    matrices = [w for name, w in four.named_parameters() if name.endswith("c_fc.weight")]
    assert len(matrices) == four.config.n_layer
    assert all(w.dtype == torch.uint8 and w.quant_state.quant_type == "nf4" and w.quant_state.nested for w in matrices)
    assert torch.equal(full.score.weight, four.score.weight) and four.score.weight.dtype == torch.float32
    assert count_parameters(full)["all"] == count_parameters(four)["all"]
    sizes = pd.DataFrame({"full": megabytes_by_part(full), "four": megabytes_by_part(four)})
    ratio = sizes["full"] / sizes["four"]
    assert 6 < ratio["blocks: matrices"] < 8 and ratio["embeddings"] == 1


def test_the_unused_copy_of_the_head_is_not_counted(distilbert):
    config = LoraConfig(
        task_type="SEQ_CLS", r=2, target_modules=["q_lin"], modules_to_save=["pre_classifier", "classifier"]
    )
    plain = count_parameters(load_distilbert(distilbert, LABELS, 0))
    wrapped = count_parameters(get_peft_model(load_distilbert(distilbert, LABELS, 0), config))
    assert wrapped["all"] == plain["all"] + wrapped["trained in the adapter"]
    assert 0 < wrapped["trained in the head"] < plain["all"] and wrapped["trained in the adapter"] > 0
    assert wrapped["trained in the body"] == 0 and plain["trained in the head"] == wrapped["trained in the head"]
    assert plain["all"] == plain["trained in the head"] + plain["trained in the body"]


# --- training


def train_adapter(
    checkpoint, folder, letters, seed=0, epochs=2, batch_size=8, dropout=0.0, rate=1e-2, before=None, computing=CPU
):
    """Train a tiny adapter; `before` is called with the batch before each pass through the model in training."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=2,
        lora_dropout=dropout,
        target_modules=["q_lin", "v_lin"],
        modules_to_save=["pre_classifier", "classifier"],
    )
    model = get_peft_model(load_distilbert(str(checkpoint), LABELS, seed), config)
    if before:
        model.register_forward_pre_hook(lambda m, _, batch: before(batch) if m.training else None, with_kwargs=True)
    tokens = tokenise(letters, tokenizer, 64)
    log = fit(model, tokenizer, tokens, tokens, training_arguments(folder, rate, epochs, batch_size, seed, computing))
    return model, tokenizer, log


def test_training_is_logged_by_epoch_and_the_adapter_comes_back_whole(distilbert, letters, tmp_path):
    model, tokenizer, log = train_adapter(distilbert, tmp_path / "checkpoints", letters)
    assert list(log) == ["training loss", "validation loss", "accuracy", "f1", "seconds", "micro-batch"]
    assert log.index.tolist() == [1, 2] and (log["seconds"] > 0).all() and (log["micro-batch"] == 8).all()
    answers = predict(model, tokenizer, letters["text"], 64, CPU)
    fresh = load_distilbert(str(distilbert), LABELS, seed=9)
    size, reloaded = save_and_reload(model, fresh, tmp_path / "adapter")
    assert np.allclose(predict(reloaded, tokenizer, letters["text"], 64, CPU), answers, atol=1e-6)
    assert size > 0
    assert {file.name for file in (tmp_path / "adapter").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_the_same_seed_gives_the_same_training_and_another_does_not(distilbert, letters, tmp_path):
    logs = [train_adapter(distilbert, tmp_path / str(i), letters, seed)[2] for i, seed in enumerate((1, 1, 2))]
    logs = [log.drop(columns="seconds") for log in logs]
    assert logs[0].equals(logs[1])
    assert not logs[0].equals(logs[2])


@pytest.mark.parametrize("kind", ["distilbert", "gpt2_qlora"])
def test_a_training_in_bfloat16_runs_on_any_cpu_and_learns_what_one_in_float32_learns(kind, request, letters, tmp_path):
    def trained(precision):
        computing, four_bits = Computing(torch.device("cpu"), precision), kind == "gpt2_qlora"
        record = {"architecture": kind.partition("_")[0], "kind": "qlora" if four_bits else "lora", "revision": ""}
        record |= {"precision": str(precision)[6:], "checkpoint": str(request.getfixturevalue(record["architecture"]))}
        model, tokenizer = load_base(record, LABELS, 0)
        targets, head = (["c_attn"], ["score"]) if four_bits else (["q_lin"], ["pre_classifier", "classifier"])
        model = get_peft_model(
            model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=targets, modules_to_save=list(head))
        )
        seen = []
        model.get_submodule(f"base_model.model.{head[-1]}").register_forward_hook(
            lambda m, i, out: seen.append(out.dtype)
        )
        tokens = tokenise(letters, tokenizer, 64)
        arguments = training_arguments(tmp_path / str(precision), 1e-2, 2, 8, 0, computing)
        assert arguments.device.type == "cpu" and arguments.bf16 == (precision == torch.bfloat16)
        log = fit(model, tokenizer, tokens, tokens, arguments)
        assert seen and set(seen) == {precision}  # in the training's passes and in those of its validation
        del seen[:]
        probabilities = predict(model, tokenizer, letters["text"], 64, computing)
        assert seen and set(seen) == {precision}
        return log, probabilities

    (rough, near), (exact, same) = trained(torch.bfloat16), trained(torch.float32)
    assert np.allclose(rough["validation loss"], exact["validation loss"], atol=0.1)
    assert 0 < abs(near - same).max() < 0.2


def test_the_log_keeps_whole_epochs_only():
    log = [
        {"epoch": 1, "loss": 0.7},
        {"epoch": 1, "eval_loss": 0.6, "eval_accuracy": 0.5, "eval_f1": 0.4, "seconds": 3.0, "micro_batch": 8},
        {"epoch": 2, "loss": 0.5},
    ]
    assert by_epoch(log).to_dict("index") == {
        1: {"training loss": 0.7, "validation loss": 0.6, "accuracy": 0.5, "f1": 0.4, "seconds": 3.0, "micro-batch": 8}
    }


@pytest.mark.parametrize("trained", ["head", "full"])
def test_what_was_trained_without_an_adapter_comes_back_whole(distilbert, letters, tmp_path, trained):
    tokenizer, model = AutoTokenizer.from_pretrained(distilbert), load_distilbert(str(distilbert), LABELS, 0)
    model.base_model.requires_grad_(trained == "full")
    tokens = tokenise(letters, tokenizer, 64)
    fit(model, tokenizer, tokens, tokens, training_arguments(tmp_path / "checkpoints", 1e-2, 1, 8, 0, CPU))
    answers = predict(model, tokenizer, letters["text"], 64, CPU)
    fresh = load_distilbert(str(distilbert), LABELS, seed=9)
    _, reloaded = save_and_reload(model, fresh, tmp_path / "model")
    assert np.array_equal(predict(reloaded, tokenizer, letters["text"], 64, CPU), answers)
    saved = set(load_file(tmp_path / "model/trained.safetensors"))
    head = {name for name in saved if name.startswith(("pre_classifier", "classifier"))}
    assert len(head) == 4 and (saved == head) == (trained == "head")


def test_weights_of_another_model_are_refused(distilbert, gpt2, tmp_path):
    save_file({"score.weight": torch.zeros(2, 2)}, tmp_path / "trained.safetensors")
    with pytest.raises(ValueError, match=r"does not fit the base.*score\.weight"):
        with_weights(load_distilbert(str(distilbert), LABELS, 0), tmp_path)


def test_the_same_adapter_sits_on_four_bits_and_on_full_precision(gpt2, letters, tmp_path):
    tokenizer = load_gpt2_tokenizer(str(gpt2))
    base = load_gpt2_in_4_bits(str(gpt2), LABELS, 0, tokenizer.pad_token_id, torch.float32)
    config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["c_attn", "c_proj"], modules_to_save=["score"])
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    answers = predict(model, tokenizer, letters["text"], 64, CPU)
    model.save_pretrained(tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*fan_in_fan_out")  # how each body stores its matrices is told
        four = with_weights(
            load_gpt2_in_4_bits(str(gpt2), LABELS, 1, tokenizer.pad_token_id, torch.float32), tmp_path / "adapter"
        )
        full = with_weights(load_gpt2(str(gpt2), LABELS, 1, tokenizer.pad_token_id), tmp_path / "adapter")
    assert np.allclose(predict(four, tokenizer, letters["text"], 64, CPU), answers, atol=1e-6)
    elsewhere = predict(full, tokenizer, letters["text"], 64, CPU)
    assert 1e-6 < abs(elsewhere - answers).max() < 0.2  # another body, and yet the same adapter


# --- a training that is killed goes on after its last whole epoch (promise 16)

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = sys.argv[1:4]
from test_modelling import dying_at, some_letters, train_adapter
train_adapter(sys.argv[4], Path(sys.argv[5]), some_letters(), epochs=3, dropout=0.3, before=dying_at(int(sys.argv[6])))
"""


def dying_at(number):
    """Return a function that kills this process, as kill -9 does, when it is called for the so manieth time."""
    calls = iter(range(1, number + 1))
    return lambda _: os.kill(os.getpid(), signal.SIGKILL) if next(calls) == number else None


def train_three(checkpoint, folder, before=None, **changes):
    """Train three epochs of three steps, as KILLED does; return the trained weights and the log."""
    given = {"letters": some_letters(), "epochs": 3, "dropout": 0.3} | changes
    model, _, log = train_adapter(checkpoint, folder, before=before, **given)
    return {name: w.detach().clone() for name, w in model.named_parameters() if w.requires_grad}, log


def killed_in_pass(number, checkpoint, folder):
    """Leave in the folder what a training leaves that was killed in that pass through the model."""
    places = [ROOT, ROOT / "notebooks", ROOT / "tests"]
    command = [sys.executable, "-c", KILLED, *places, checkpoint, folder, number]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.fixture(scope="module")
def undisturbed(distilbert, tmp_path_factory):
    """Return the weights and the log of three epochs, and the folder with their checkpoints."""
    folder = tmp_path_factory.mktemp("undisturbed") / "checkpoints"
    return *train_three(distilbert, folder), folder


@pytest.fixture(scope="module")
def left_by_the_killed(distilbert, tmp_path_factory):
    """Return the folder of a training that was killed in the second step of its second epoch, and a copy of it."""
    folder = tmp_path_factory.mktemp("killed") / "checkpoints"
    killed_in_pass(5, distilbert, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-3", "complaint_scores"]
    shutil.copytree(folder, folder.with_name("copy"))
    return folder


@pytest.fixture
def killed(left_by_the_killed):
    """Return the folder as the killed training left it."""
    shutil.rmtree(left_by_the_killed)
    shutil.copytree(left_by_the_killed.with_name("copy"), left_by_the_killed)
    return left_by_the_killed


def same(one, other):
    """Check that two trainings ended with the same weights, bit for bit, and the same log but for the time."""
    assert one[0].keys() == other[0].keys() and len(one[0]) > 8
    assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])
    assert one[1].drop(columns="seconds").equals(other[1].drop(columns="seconds"))


def test_a_training_killed_in_epoch_2_goes_on_after_epoch_1_and_ends_with_the_same_weights(
    distilbert, undisturbed, killed, capsys
):
    first = logged(killed / "checkpoint-3")["log_history"][-1]["seconds"]
    passes = []
    resumed = train_three(distilbert, killed, before=passes.append)
    assert "Going on after epoch 1, whose checkpoint is whole." in capsys.readouterr().out
    assert len(passes) == 6  # the steps of epochs 2 and 3
    same(resumed, undisturbed)
    assert resumed[1]["seconds"].tolist()[0] == first  # epoch 1 took what it took in the run that was killed


def test_a_training_in_four_bits_goes_on_too(gpt2, tmp_path, capsys):
    def trained():
        tokenizer = load_gpt2_tokenizer(str(gpt2))
        config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["c_attn", "c_fc"], lora_dropout=0.3)
        model = get_peft_model(load_gpt2_in_4_bits(str(gpt2), LABELS, 0, tokenizer.pad_token_id, torch.float32), config)
        tokens = tokenise(some_letters(), tokenizer, 64)
        log = fit(model, tokenizer, tokens, tokens, training_arguments(tmp_path, 1e-2, 3, 8, 0, CPU))
        return {name: w.detach() for name, w in model.named_parameters() if w.requires_grad}, log

    whole = trained()
    for step in (6, 9):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    same(trained(), whole)
    assert "Going on after epoch 1" in capsys.readouterr().out


def test_a_training_killed_after_its_last_epoch_is_not_done_again(distilbert, undisturbed, capsys):
    passes = []
    again = train_three(distilbert, undisturbed[2], before=passes.append)
    assert passes == [] and "Going on after epoch 3" in capsys.readouterr().out
    same(again, undisturbed)
    assert again[1].equals(undisturbed[1])


def cut(path):
    """Cut the file's second half off."""
    os.truncate(path, path.stat().st_size // 2)


def flip(path):
    """Flip one bit in the middle of the file, its size and times kept."""
    times, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


HURT = {
    "weights cut": ("adapter_model.safetensors", cut),
    "one bit of the optimiser": ("optimizer.pt", flip),
    "random state lost": ("rng_state.pth", Path.unlink),
    "no seal: killed while saving": ("seal.json", Path.unlink),
    "half a seal": ("seal.json", cut),
}


@pytest.mark.parametrize("file, hurt", HURT.values(), ids=HURT.keys())
def test_a_checkpoint_that_is_not_whole_is_removed_and_the_one_before_used(
    distilbert, undisturbed, tmp_path, file, hurt, capsys
):
    folder = tmp_path / "checkpoints"
    train_three(distilbert, folder)
    hurt(folder / "checkpoint-9" / file)
    hurt(folder / "checkpoint-6" / file)
    capsys.readouterr()
    same(train_three(distilbert, folder), undisturbed)
    assert "Going on after epoch 1" in capsys.readouterr().out


def test_a_whole_checkpoint_is_of_no_use_when_the_best_one_before_it_is_damaged(distilbert, undisturbed, tmp_path):
    folder = tmp_path / "checkpoints"
    train_three(distilbert, folder)
    key = json.loads((folder / "checkpoint-9/seal.json").read_text())["key"]
    best = Path(logged(folder / "checkpoint-9")["best_model_checkpoint"])
    assert best.name != "checkpoint-9" and last_whole_checkpoint(folder, key) == folder / "checkpoint-9"
    flip(best / "adapter_model.safetensors")
    found = last_whole_checkpoint(folder, key)
    assert found is None or logged(found)["best_model_checkpoint"] != str(best)
    same(train_three(distilbert, folder), undisturbed)


def test_the_drivers_sweep_takes_a_half_written_seal_and_leaves_whole_checkpoints(killed):
    (killed / "checkpoint-3/.seal.999999999.tmp.json").write_text('{"key"')
    guard.sweep(killed.parent)
    assert last_whole_checkpoint(killed, json.loads((killed / "checkpoint-3/seal.json").read_text())["key"])


FOREIGN = {
    "another seed": {"seed": 1},
    "another rate": {"rate": 2e-2},
    "more epochs": {"epochs": 4},
    "another dropout": {"dropout": 0.1},
    "another batch": {"batch_size": 12},
}


@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_checkpoint_of_another_training_is_never_used(distilbert, killed, change, capsys):
    train_three(distilbert, killed, **change)
    assert "Going on" not in capsys.readouterr().out


def key_of(checkpoint, folder, letters, monkeypatch):
    """Return the key of a training that is not carried out."""
    monkeypatch.setattr(
        "helpers.training.train_whole", lambda trainer: keys.append(training_key(trainer, "page")) or [LINE]
    )
    keys = []
    train_adapter(checkpoint, folder, letters)
    return keys[0]


LINE = {"epoch": 1, "loss": 1, "eval_loss": 1, "eval_accuracy": 1, "eval_f1": 1, "seconds": 1, "micro_batch": 1}


def test_the_key_knows_data_frozen_weights_code_and_versions(distilbert, letters, tmp_path, monkeypatch):
    def key(checkpoint=distilbert, rows=letters):
        return key_of(checkpoint, tmp_path / "checkpoints", rows, monkeypatch)

    plain = key()
    assert plain == key()
    assert plain != key(rows=letters.assign(label=1 - letters["label"]))
    assert plain != key(rows=letters.assign(text=letters["text"] + " fee"))
    shutil.copytree(distilbert, tmp_path / "other" / distilbert.name)
    model = AutoModelForMaskedLM.from_pretrained(distilbert)
    model.distilbert.embeddings.word_embeddings.weight.data[0, 0] += 1
    model.save_pretrained(tmp_path / "other" / distilbert.name)
    assert plain != key(tmp_path / "other" / distilbert.name)
    with monkeypatch.context() as patch:
        patch.setattr("importlib.metadata.version", lambda package: "0")
        assert plain != key()
    shutil.copytree(ROOT / "notebooks/helpers", tmp_path / "helpers")
    with monkeypatch.context() as patch:
        patch.setattr("helpers.training.__file__", str(tmp_path / "helpers/training.py"))
        assert plain == key()
        (tmp_path / "helpers/scores.py").open("a").write("# changed")
        assert plain != key()
    for changed, now in ((torch, ("get_num_threads", lambda: 99)), (torch.backends.cpu, ("get_cpu_capability", str))):
        with monkeypatch.context() as patch:
            patch.setattr(changed, *now)
            assert plain != key()


# --- out of memory (promise 22), simulated: what a card with a small memory would say


def small_memory(letters, after=0):
    """Return a function that raises CUDA's error for a batch of more letters, once so many have passed; it notes sizes."""

    def check(batch):
        sizes.append(len(batch["input_ids"]))
        if sizes[-1] > letters and len(sizes) > after:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    sizes = check.sizes = []
    return check


def near(one, other):
    """Check that two trainings ended with the same weights but for rounding."""
    for name in one[0]:
        assert torch.allclose(one[0][name], other[0][name], atol=1e-5, rtol=1e-4), name
    assert np.allclose(one[1][["training loss", "f1"]], other[1][["training loss", "f1"]], atol=1e-5)


def test_out_of_memory_halves_the_micro_batch_and_the_training_ends_as_it_would_have(distilbert, tmp_path, capsys):
    settings = {"dropout": 0, "letters": some_letters(28)}  # the last step of an epoch has four letters
    large = train_three(distilbert, tmp_path / "large", **settings)
    memory = small_memory(3, after=2)  # the weights have moved by then
    small = train_three(distilbert, tmp_path / "small", before=memory, **settings)
    assert memory.sizes[:5] == [8, 8, 8, 4, 2] and max(memory.sizes[4:]) == 2
    assert "going on with 2 letters at a time" in capsys.readouterr().out
    assert small[1]["micro-batch"].tolist() == [2, 2, 2] and large[1]["micro-batch"].tolist() == [8, 8, 8]
    near(small, large)


def test_steps_of_uneven_passes_weigh_every_letter_alike(gpt2, tmp_path):
    letters = some_letters(22)  # steps of 8, 8 and 6: the last is 4 and 2 at a time

    def trained(memory):
        tokenizer = load_gpt2_tokenizer(str(gpt2))
        config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["c_attn"], fan_in_fan_out=True)
        model = get_peft_model(load_gpt2(str(gpt2), LABELS, 0, tokenizer.pad_token_id), config)
        model.register_forward_pre_hook(lambda m, _, b: memory(b) if m.training else None, with_kwargs=True)
        arguments = training_arguments(tmp_path / str(len(list(tmp_path.iterdir()))), 1e-3, 2, 8, 0, CPU)
        arguments.max_grad_norm = 0  # clipping would hide a gradient that is too large
        arguments.optim = "sgd"  # and so would Adam
        tokens = tokenise(letters, tokenizer, 64)
        log = fit(model, tokenizer, tokens, tokens, arguments)
        return {name: w.detach() for name, w in model.named_parameters() if w.requires_grad}, log

    near(trained(small_memory(4)), trained(small_memory(8)))


def test_out_of_memory_in_epoch_2_goes_on_after_epoch_1(distilbert, tmp_path, capsys):
    log = train_three(distilbert, tmp_path, before=small_memory(4, after=4))[1]
    assert log["micro-batch"].tolist() == [8, 4, 4]
    said = capsys.readouterr().out
    assert "going on with 4 letters" in said and "Going on after epoch 1" in said


def test_out_of_memory_with_one_letter_is_an_error_with_a_mend(distilbert, tmp_path):
    with pytest.raises(torch.OutOfMemoryError, match=r"one letter at a time \(CUDA out of memory.*-p MAX_TOKENS 256"):
        train_three(distilbert, tmp_path, before=small_memory(0))


def test_a_killed_training_of_few_letters_at_a_time_goes_on_with_as_few(distilbert, tmp_path):
    train_three(distilbert, tmp_path, before=small_memory(4))
    for step in (6, 9):
        shutil.rmtree(tmp_path / f"checkpoint-{step}")
    memory = small_memory(4)
    log = train_three(distilbert, tmp_path, before=memory)[1]
    assert max(memory.sizes) == 4 and log["micro-batch"].tolist() == [4, 4, 4]
