"""What a run found, in sentences made from its results: which model is worth it, quality, and cost."""

from typing import Any

from helpers import minilm
from helpers.sources import is_mini
from helpers.verdicts import sentence

NAMES = {  # how a sentence calls a baseline
    "majority": "guessing the commonest class",
    "keyword": "the keyword rule",
    "tfidf_logreg": "the linear model (TF-IDF and logistic regression)",
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


def cost(result: dict[str, Any]) -> str:
    """Return the sentences on what LoRA and 4 bits save, and whether the quality holds; without controls, on 4 bits alone."""
    parts = []
    for model in ("distilbert", "gpt2"):
        lora, full, head = (f"{model}_{method}" for method in ("lora", "full", "head"))
        pair = comparison(result, lora, full)
        if pair["verdict"] != "not run":
            share = ratio(result, lora, full, "trainable parameters")
            times = ratio(result, lora, full, "training, s")
            one = f"{named(lora, result)} trains {100 * share:.0f} % of the parameters of full fine-tuning in {times:.1f} times its time and"
            parts.append(sentence(pair, one, "it"))
            parts.append(sentence(comparison(result, lora, head), "it", "the new head trained alone"))
    pair = comparison(result, "gpt2_qlora", "gpt2_lora")
    said = sentence(pair, f"in 4 bits, {named('gpt2_qlora', result)}", named("gpt2_lora", result))
    parts.append(f"{said}, in {ratio(result, 'gpt2_qlora', 'gpt2_lora', 'training, s'):.1f} times its time")
    return " ".join(f"{part[0].upper()}{part[1:]}." for part in parts)


def ratio(result: dict[str, Any], one: str, other: str, cost: str) -> float:
    """Return how many times as much of a cost one model has as the other."""
    return result["costs"][one][cost] / result["costs"][other][cost]


def advice(result: dict[str, Any]) -> str:
    """Return the sentence on which model is worth it here."""
    adapter, baseline = (result["picked"][side] for side in ("adapter", "baseline"))
    pair = comparison(result, adapter, baseline)
    seconds = result["costs"][adapter]["training, s"]
    if pair["verdict"] == "better":
        points = f"{100 * pair['difference']:.1f} points"
        return f"Here the adapter is worth its {seconds:,.0f} s of training where {points} of accuracy matter."
    return f"Here a language model is not shown to be worth its {seconds:,.0f} s of training: take {named(baseline, result)}."


def comparison(result: dict[str, Any], one: str, other: str) -> dict[str, Any]:
    """Return the declared comparison of two models."""
    return next(pair for pair in result["comparisons"] if (pair["one"], pair["other"]) == (one, other))


def sentences(result: dict[str, Any]) -> str:
    """Return the sentences on what a run found, the answer first and in bold."""
    return " ".join([f"**{advice(result)}**", quality(result), cost(result)])


def labels(result: dict[str, Any]) -> str:
    """Return the sentences on how many labels it takes: the best pretrained way beside the linear model, few labels and many."""
    text = few_and_many(result, "held_out", "held-out complaints")
    rule = next((row for row in result["summary"] if (row["set"], row["model"]) == ("held_out", "keyword")), None)
    if rule:
        text += f" A keyword rule, written by people who know the task, has {told(rule)} without a label."
    said = [
        f"`{about.removesuffix(' on held_out')}` is {words}"
        for about, words in result["sentences"].items()
        if "held_out" in about
    ]
    text += f" Beside the linear model, {'; '.join(said)}."
    return (
        f"{text} {few_and_many(result, 'other', 'complaints from elsewhere')}" if "other" in result["texts"] else text
    )


def few_and_many(result: dict[str, Any], name: str, called: str) -> str:
    """Return the sentence on the best pretrained way and the linear model on one set, with the fewest labels and with the most."""
    rows: dict[int, dict[str, dict]] = {}
    for row in result["summary"]:
        if row["set"] == name and row["labels"]:
            rows.setdefault(row["labels"], {})[row["model"]] = row
    parts = []
    for number in (min(rows), max(rows)):
        models = dict(rows[number])
        linear = models.pop("tfidf_logreg")
        best = max(models.values(), key=lambda row: row["accuracy"])
        parts.append(
            f"with {number:,} labelled complaints the pretrained way that scores highest, `{best['model']}`, has a mean "
            f"accuracy of {told(best)}, and the linear model {told(linear)}"
        )
    return f"On {result['texts'][name]:,} {called}, {'; '.join(parts)}."


def told(row: dict[str, Any]) -> str:
    """Return an accuracy with its 95 % interval: 0.961 (0.940 to 0.975)."""
    low, high = row["interval"]
    return f"{row['accuracy']:.3f} ({low:.3f} to {high:.3f})"
