"""What a run found, in sentences made from its results: which model is worth it, its quality, and how many labels it takes."""

from typing import Any

from helpers import minilm
from helpers.files import is_mini
from helpers.verdicts import sentence

LINEAR = "tfidf_logreg"
NAMES = {  # how a sentence calls a baseline
    "majority": "guessing the commonest class",
    "keyword": "the keyword rule",
    LINEAR: "the linear model (TF-IDF and logistic regression)",
    "distilbert_embedding": "a logistic regression on frozen DistilBERT embeddings",
    "gpt2_embedding": "a logistic regression on frozen GPT-2 embeddings",
    "gpt2_zeroshot": "GPT-2 without any training",
}


def base_of(model: str, result: dict[str, Any]) -> str:
    """Return the name of the base model that stands for distilbert or gpt2 in a result, "" for any other."""
    return dict(zip(("distilbert", "gpt2"), result["models"], strict=False)).get(model, "")


def shown(name: str, result: dict[str, Any]) -> str:
    """Return a model's name, on real complaints with its base model's own name in it where that is no DistilBERT or GPT-2."""
    model, _, method = name.partition("_")
    base = base_of(model, result)
    if base == minilm.NAME:
        return f"{minilm.NAME}_{method}"
    return f"mini-{model}_{method}" if is_mini(base) and not is_mini(result["data"]) else name


def named(name: str, result: dict[str, Any]) -> str:
    """Return how a sentence calls a model."""
    other = shown(name, result)
    return NAMES[name] if name in NAMES and other == name else f"`{other}`"


def accuracy(row: dict[str, Any]) -> str:
    """Return a mean accuracy with its 95 % interval: .961 (95 % interval .940 to .975, 5 seeds)."""
    low, high = row["interval"]
    seeds = f", {row['seeds']} seeds" if row["seeds"] > 1 else ""
    return f"{row['accuracy']:.3f} (95 % interval {low:.3f} to {high:.3f}{seeds})"


def quality(result: dict[str, Any]) -> str:
    """Return the sentence on the adapter that validation picks, beside the baseline that it picks."""
    rows = {row["name"]: row for row in result["table"]}
    adapter, baseline = (result["picked"][side] for side in ("adapter", "baseline"))
    pair = comparison(result, adapter, baseline)
    return (
        f"On {result['held_out']:,} held-out complaints the adapter (the LoRA weights) that scores best on validation, "
        f"{named(adapter, result)}, reaches a mean accuracy of {accuracy(rows[adapter])} and the baseline that scores best there, "
        f"{named(baseline, result)}, {accuracy(rows[baseline])}: {sentence(pair, 'the adapter', 'the baseline')}."
    )


def advice(result: dict[str, Any]) -> str:
    """Return the sentence on which model is worth it here."""
    adapter, baseline = (result["picked"][side] for side in ("adapter", "baseline"))
    pair = comparison(result, adapter, baseline)
    seconds = result["costs"][adapter]["training, s"]
    if pair["verdict"] == "better":
        points = f"{100 * pair['difference']:.1f} points"
        return (
            f"With all labels, the adapter is worth its {seconds:,.0f} s of training where {points} of accuracy matter."
        )
    said = f"With all labels, a language model is not shown to be worth its {seconds:,.0f} s of training"
    return f"{said}: take {named(baseline, result)}."


def comparison(result: dict[str, Any], one: str, other: str) -> dict[str, Any]:
    """Return the declared comparison of two models."""
    return next(pair for pair in result["comparisons"] if (pair["one"], pair["other"]) == (one, other))


def sentences(result: dict[str, Any]) -> str:
    """Return the sentences on what a run found, the answer first and in bold."""
    return f"**{advice(result)}** {quality(result)}"


def labels(result: dict[str, Any]) -> str:
    """Return the sentences on how many labels it takes: where pretraining pays, up to where, and what the keyword rule has."""
    pairs = result["comparisons"]
    numbers = sorted({pair["labels"] for pair in pairs})
    better = sorted({pair["labels"] for pair in pairs if pair["set"] == "held_out" and pair["verdict"] == "better"})
    level = [n for n in numbers if all(p["difference"] < p["margin"] for p in pairs if p["labels"] >= n)]
    points = f"{100 * pairs[0]['margin']:g} points"
    pays = f"with {listed(better)} labelled complaints" if better else "with no number of labelled complaints tried"
    until = f"from {level[0]:,} on no way is" if level else f"up to {numbers[-1]:,} one or another is"
    sentences = [
        f"**A pretrained model is better than the linear model {pays}; {until} more than {points} ahead in the mean.**",
        f"The table has each way's mean accuracy on {result['texts']['held_out']:,} held-out complaints",
    ]
    if "other" in result["texts"]:
        sentences[-1] += f" and, after the stroke, on {result['texts']['other']:,} from elsewhere"
    sentences[-1] += f", over draws of the labelled ones; in bold is what is better than `{LINEAR}`, the linear model."
    if rule := [told(row) for row in result["summary"] if row["model"] == "keyword"]:
        sentences.append(
            f"A keyword rule, written by people who know the task, has {' / '.join(rule)} without a label."
        )
    return " ".join(sentences)


def listed(numbers: list[int]) -> str:
    """Return numbers as a sentence lists alternatives: 8, 16 or 1,600."""
    *rest, last = (f"{number:,}" for number in numbers)
    return f"{', '.join(rest)} or {last}" if rest else last


def told(row: dict[str, Any]) -> str:
    """Return an accuracy with its 95 % interval: 0.961 (0.940 to 0.975)."""
    low, high = row["interval"]
    return f"{row['accuracy']:.3f} ({low:.3f} to {high:.3f})"
