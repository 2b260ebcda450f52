"""A trained model handed over: its folder with base, tokenizer, label names and card, and merged into a plain checkpoint."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from statsmodels.stats.proportion import proportion_confint
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BatchEncoding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from helpers import check, minilm
from helpers.baselines import embed, mean_over_tokens
from helpers.complaints import labels_of
from helpers.files import ROOT, digest, is_local, place, plain, sha256, short_name, write_folder_whole, write_whole
from helpers.hub import find_model
from helpers.machine import Computing
from helpers.models import in_batches, load_base, load_gpt2_tokenizer, predict, with_weights
from helpers.scores import best_temperature, predicted, with_temperature
from helpers.sources import read

FACTS = "training.json"  # what a model's folder says of itself, for programs
METHODS = {"lora": "LoRA", "qlora": "QLoRA", "full": "full fine-tuning", "head": "training its head alone"}
UNLIKE = "unlike.safetensors"  # what tells texts that are unlike those of the training


def weights_hash(folder: Path) -> str:
    """Return one hash over a checkpoint's weights, whatever else lies beside them."""
    return digest([(path.name, sha256(path)) for path in sorted(folder.glob("*.safetensors"))])


def complete(folder: Path, record: dict[str, Any], labels: Sequence[str], classes: dict | None, data: str) -> None:
    """Make the folder of trained weights one that works anywhere: base by name, tokenizer, facts, model card.

    The base is named by its hub id and revision, or, where it is local, by its name and its weights' hash, never by a path.
    """
    base = Path(find_model(record["checkpoint"], record["revision"], record["model"]))
    on_hub = not is_local(record["checkpoint"]) and record["checkpoint"] != minilm.NAME
    named = {"checkpoint": short_name(record["checkpoint"]), "revision": record["revision"] if on_hub else None}
    config = folder / "adapter_config.json"
    if config.exists():
        settings = json.loads(config.read_text())
        settings |= {"base_model_name_or_path": named["checkpoint"], "revision": named["revision"]}
        write_whole(config, json.dumps(settings, indent=1))
    tokenizer = load_gpt2_tokenizer(str(base)) if record["model"] == "gpt2" else AutoTokenizer.from_pretrained(base)
    tokenizer.model_max_length = record["max_tokens"]
    tokenizer.save_pretrained(folder)
    kept = ("model", "method", "bits", "rank", "max_tokens", "precision", "seed", "train_rows", "weights")
    facts = {key: record[key] for key in kept} | named
    facts |= {"base_sha256": weights_hash(base), "labels": list(labels), "classes": classes, "data": data}
    write_whole(folder / FACTS, json.dumps(plain(facts), indent=1))
    write_whole(folder / "README.md", card(facts, []))


def find_base(facts: dict[str, Any], given: str = "") -> str:
    """Return the folder of the base model that a model's facts name: the one given, the project's own, or the hub's.

    FileNotFoundError or ValueError says which base is needed, and how to pass it.
    """
    name, wanted = facts["checkpoint"], facts["base_sha256"]
    own = [*ROOT.glob(f"mini/checkpoints/{name}"), *ROOT.glob(f"runs/**/{name}")]
    if not given and not own and facts["revision"] is None and name != minilm.NAME:
        raise FileNotFoundError(
            f"The base model {name}, whose weights have the hash {wanted[:12]}…, is not here. Pass its folder: --base FOLDER."
        )
    asked = given or (str(own[0]) if own else name)
    folder = find_model(asked, facts["revision"] or "", facts["model"])
    if weights_hash(Path(folder)) != wanted:
        raise ValueError(
            f"--base {folder} holds other weights than those that {name} was trained on (hash {wanted[:12]}…). Pass that model's folder."
        )
    return folder


@dataclasses.dataclass(frozen=True)
class Trained:
    """A model ready for use: with its tokenizer, its facts, and what tells texts unlike its own."""

    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase
    facts: dict[str, Any]
    unlike: dict[str, torch.Tensor]

    def answers(self, texts: Sequence[str], computing: Computing) -> tuple[np.ndarray, np.ndarray]:
        """Return each text's probability of class 1 and how far it lies from the training's texts, both (texts,).

        The probability is calibrated in a merged folder, whose weights hold the temperature. The distance is in units of that which 95 % of the validation texts keep to; 0 where the folder does not tell.
        """

        def both(batch: BatchEncoding) -> torch.Tensor:
            output = self.model(**batch, output_hidden_states=True)
            probability = output.logits.double().softmax(dim=1)[:, 1:]
            return torch.cat([probability, mean_over_tokens(output.hidden_states[-1], batch)], dim=1)

        found = in_batches(both, self.model, self.tokenizer, texts, self.facts["max_tokens"], computing)
        away = distance(found[:, 1:], self.unlike) if self.unlike else np.zeros(len(found))
        return found[:, 0], away


def load_for_use(folder: Path, base: str = "") -> Trained:
    """Return the trained model of a folder of this project, or of any merged checkpoint with two classes.

    ValueError says what the folder lacks.
    """
    facts_file = folder / FACTS
    if (folder / "config.json").exists():
        model = AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)
        names = [model.config.id2label[i] for i in range(model.config.num_labels)]
        tokenizer = AutoTokenizer.from_pretrained(folder)
        limit = min(tokenizer.model_max_length, model.config.max_position_embeddings)
        facts = {"labels": names, "max_tokens": limit, "classes": None, "data": ""}
        facts |= json.loads(facts_file.read_text()) if facts_file.exists() else {}
        unlike = load_file(folder / UNLIKE) if (folder / UNLIKE).exists() else {}
        if len(names) != 2:
            raise ValueError(f"{folder} has the classes {names}: this program routes between two.")
        return Trained(model, tokenizer, facts, unlike)
    if not facts_file.exists():
        raise ValueError(f"{folder} is no model of this project: it has neither config.json nor {FACTS}.")
    facts = json.loads(facts_file.read_text())
    found = {**facts, "checkpoint": find_base(facts, base), "revision": ""}
    model, tokenizer = load_base(found, tuple(facts["labels"]), facts["seed"])
    return Trained(with_weights(model, folder), tokenizer, facts, {})


def fit_unlike(vectors: np.ndarray, labels: np.ndarray, judged: np.ndarray) -> dict[str, torch.Tensor]:
    """Return what `distance` needs: each class's mean vector, the shared precision matrix, and the limit on validation.

    It is Mahalanobis' distance to the nearer class, as Lee et al. (2018) use it to find what a classifier was not trained for.
    The covariance is drawn a little towards a multiple of the identity, because there are few texts for so many numbers.
    """
    means = np.stack([vectors[labels == label].mean(axis=0) for label in (0, 1)])
    covariance = np.cov((vectors - means[labels]).T)
    width = len(covariance)
    covariance += 1e-3 * np.trace(covariance) / width * np.eye(width)
    found = {"means": means, "precision": np.linalg.inv(covariance), "limit": np.ones(1)}
    unlike = {name: torch.tensor(value) for name, value in found.items()}
    unlike["limit"] = torch.tensor([np.quantile(distance(judged, unlike), 0.95)])
    return unlike


def distance(vectors: np.ndarray, unlike: dict[str, torch.Tensor]) -> np.ndarray:
    """Return each vector's distance to the nearer class, over the limit, shape (texts,)."""
    precision = unlike["precision"].numpy()
    away = [vectors - mean for mean in unlike["means"].numpy()]
    squared = np.min([np.einsum("ij,jk,ik->i", each, precision, each) for each in away], axis=0)
    return np.sqrt(squared) / unlike["limit"].numpy()


def find_training(out: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the record of the training whose weights lie in models/NAME, and the result file that it stands in.

    FileNotFoundError lists the names there are.
    """
    names = []
    for path in sorted((out / "results").glob("*.json")):
        result = json.loads(path.read_text())
        for record in result.get("trainings", []) if isinstance(result, dict) else []:
            names.append(record["weights"].removeprefix("models/"))
            if names[-1] == name:
                return record, result
    raise FileNotFoundError(
        f"{out / 'results'} knows no trained model {name}. There are: {', '.join(names) or 'none'}."
    )


def merged_model(record: dict[str, Any], labels: tuple[str, ...], folder: Path, temperature: float) -> PreTrainedModel:
    """Return the plain model, in full precision, that answers as the trained one does with its logits over the temperature.

    An adapter that was trained on 4 bits is merged into the weights before they were rounded: merged into 4 bits, its small
    updates would be rounded away.
    """
    model = with_weights(load_base(record | {"bits": 32}, labels, record["seed"])[0], folder)
    if isinstance(model, PeftModel):
        model = model.merge_and_unload()
    last = model.classifier if record["model"] == "distilbert" else model.score
    with torch.no_grad():
        for weight in last.parameters():
            weight /= temperature
    return model


def export(out: Path, name: str, tables: dict[str, Any], others: Sequence[str]) -> list[str]:
    """Write models/NAME/merged/, a plain checkpoint with label names, tokenizer and card, and return what was checked, in lines.

    `tables` are the training and the validation complaints, `others` texts of neither class, on which the card says how many
    the model would route. CheckFailed when the merged model does not answer as the trained one.
    """
    record, result = find_training(out, name)
    labels, folder = tuple(result["labels"]), out / record["weights"]
    computing = Computing(torch.device("cpu"), torch.float32)
    train, validation = tables["train"], tables["validation"]
    texts, truth = validation["text"].tolist(), validation["label"].to_numpy()
    limit = record["max_tokens"]
    model, tokenizer = load_base(record, labels, record["seed"])
    own = predict(with_weights(model, folder), tokenizer, texts, limit, computing)
    temperature = best_temperature(truth, own)
    plain_model = merged_model(record, labels, folder, temperature)
    tokenizer.model_max_length = limit
    plain_model.config.pad_token_id = tokenizer.pad_token_id
    answers = predict(plain_model, tokenizer, texts, limit, computing)
    gap = float(abs(answers - with_temperature(own, temperature)).max())
    lines = [f"temperature {temperature:.2f}, fitted on {len(texts):,} validation complaints"]
    if record["bits"] == 32:
        check(gap < 1e-4, f"merged, {name} answers differently, by up to {gap:.2g}")
        lines.append(f"merged and adapter answer alike: probabilities differ by {gap:.1g} at most")
    else:
        flips = int((predicted(answers) != predicted(own)).sum())
        lines.append(
            f"merged into full precision; beside the 4 bits it was trained on, probabilities differ by {gap:.2g} at most, "
            f"and {flips} of {len(texts):,} predictions"
        )
    vectors = [embed(plain_model, tokenizer, part["text"].tolist(), limit, computing) for part in (train, validation)]
    unlike = fit_unlike(vectors[0], train["label"].to_numpy(), vectors[1])
    right = int((predicted(answers) == truth).sum())
    lines.append(scored("validation", right, len(texts)))
    facts = json.loads((folder / FACTS).read_text()) | {"temperature": temperature}

    def write(target: Path) -> None:
        plain_model.save_pretrained(target)
        tokenizer.save_pretrained(target)
        save_file({key: value.contiguous() for key, value in unlike.items()}, target / UNLIKE)
        (target / FACTS).write_text(json.dumps(plain(facts), indent=1))

    merged = folder / "merged"
    write_folder_whole(merged, write)
    if len(others):
        lines.append(routed_others(load_for_use(merged), others, computing))
    compared = out / "results/06_comparing.json"
    if compared.exists():
        table = json.loads(compared.read_text())["table"]
        lines += [
            f"held-out accuracy {row['accuracy']:.3f} (95 % interval {row['interval'][0]:.3f} to {row['interval'][1]:.3f}), mean "
            f"over {row['seeds']} seed(s)"
            for row in table
            if row["name"] == f"{record['model']}_{record['method']}"
        ]
    write_whole(merged / "README.md", card(facts, lines))
    return [*lines, f"written to {merged}"]


def export_from_run(out: str | Path, name: str) -> list[str]:
    """Export models/NAME of the run in this folder, with what the run tells of its data; return what was checked, in lines.

    FileNotFoundError says that there is no finished run in the folder.
    """
    if not (Path(out) / "data/train.parquet").exists():
        raise FileNotFoundError(f"There is no finished run in {out}. Say which one: --mini, or --out DIR.")
    table = pd.read_parquet(Path(out) / "data/train.parquet")
    tables = {part: rows.reset_index(drop=True) for part, rows in table.groupby("split")}
    asked = json.loads((Path(out) / "results/01_data.json").read_text())["parameters"]
    columns = {"product": asked["LABEL_COLUMN"], "text": asked["TEXT_COLUMN"]}
    local = is_local(asked["DATASET"])
    others = narratives_of_others(asked["DATASET"], asked["CLASSES"], columns) if local else []
    return export(Path(out), name, tables, others)


def scored(where: str, right: int, number: int) -> str:
    """Return an accuracy with Wilson's interval in words."""
    low, high = proportion_confint(right, number, method="wilson")
    return f"{where} accuracy {right / number:.3f} (95 % interval {low:.3f} to {high:.3f}, {number:,} complaints)"


def routed_others(trained: Trained, texts: Sequence[str], computing: Computing, at_least: float = 0.95) -> str:
    """Return in words how many texts of neither class the model would route at a probability of .95, and if unlike ones wait."""
    probability, away = trained.answers(texts, computing)
    sure, near = np.maximum(probability, 1 - probability) >= at_least, away <= 1
    return (
        f"of {len(texts):,} complaints about other products {sure.mean():.0%} have a probability of {at_least:g} or more; "
        f"{(sure & near).mean():.0%} are routed once unlike texts go to a person"
    )


def card(facts: dict[str, Any], lines: Sequence[str]) -> str:
    """Return the model card of a trained model: what it is for, how it was trained, how good it is, its limits, how to load it."""
    base, merged = facts["checkpoint"], "temperature" in facts
    get = {
        True: f"`{base}` on the Hugging Face hub, at revision `{facts['revision']}`",
        False: f"`{base}`, a local checkpoint whose weights have the SHA-256 `{facts['base_sha256']}`",
    }[facts["revision"] is not None]
    if base == minilm.NAME:
        get += f"; {minilm.ABOUT}; {minilm.INSTALL}"
    load = (
        'pipe = pipeline("text-classification", FOLDER, truncation=True)'
        if merged
        else "model = AutoPeftModelForSequenceClassification.from_pretrained(FOLDER)"
        if facts["revision"]
        else "model = PeftModel.from_pretrained(base, FOLDER)  # base: the checkpoint named above, with two classes"
    )
    hub_base = f"base_model: {base}\n" if facts["revision"] else ""  # a local name would be taken for one on the hub
    found = "\n".join(f"- {line}" for line in lines) or "- not scored yet: `python run_all.py --export NAME` does so"
    return f"""---
license: mit
pipeline_tag: text-classification
{hub_base}---
# {base}, {METHODS[facts["method"]]}: two kinds of consumer complaints

**Task.** Tell `{facts["labels"][0]}` (0) from `{facts["labels"][1]}` (1) in complaints written in English.

**Base.** {get}.

**Trained** by {METHODS[facts["method"]]} on {facts["train_rows"]:,} complaints of `{facts["data"]}`, truncated at {
        facts["max_tokens"]
    } tokens, base in {facts["bits"]} bits, seed {facts["seed"]}.

**Measured**

{found}

**Limits.** It knows two classes and puts every text into one of them, complaints about anything else too. It was trained on complaints
about one company, with both classes equally often; probabilities hold for such texts. Personal details were masked. A person decides
where it matters.

**Load**

```python
{load}
```

Or classify a file: `python classify.py FOLDER complaints.csv --out routed.csv`.
"""


def narratives_of_others(
    path: str, classes: dict[str, list[str]], columns: dict[str, str], most: int = 1_000
) -> list[str]:
    """Return up to so many texts of a local data set that are of none of the classes, the first ones."""
    known = labels_of(classes)
    texts: list[str] = []
    for part in read(place(path), columns):
        rows = part.to_pandas()
        rows = rows[
            ~rows["product"].str.strip().isin(known)
            & rows["product"].notna()
            & (rows["text"].fillna("").str.strip() != "")
        ]
        texts += rows["text"].tolist()
        if len(texts) >= most:
            break
    return texts[:most]
