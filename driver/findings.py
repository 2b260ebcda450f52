"""What a run found, in three sentences made from its results: quality, cost, and which model is worth it."""

from typing import Any

from helpers.scores import sentence

NAMES = {  # how a sentence calls a baseline
    "majority": "guessing the commonest class",
    "keyword": "the keyword rule",
    "tfidf_logreg": "the linear model (TF-IDF and logistic regression)",
    "distilbert_embedding": "a logistic regression on frozen DistilBERT embeddings",
    "gpt2_embedding": "a logistic regression on frozen GPT-2 embeddings",
    "gpt2_zeroshot": "GPT-2 without any training",
}


def named(name: str) -> str:
    """Return how a sentence calls a model."""
    return NAMES.get(name, f"`{name}`")


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
        f"{named(adapter)}, reaches a mean accuracy of {accuracy(rows[adapter])} and the best baseline, {named(baseline)}, "
        f"{accuracy(rows[baseline])}: {sentence(pair, 'the adapter', 'the baseline')}."
    )


def cost(result: dict[str, Any]) -> str:
    """Return the sentence on what LoRA and 4 bits save, and whether the quality holds; without controls, on 4 bits alone."""
    parts = []
    for model in ("distilbert", "gpt2"):
        pair = comparison(result, f"{model}_lora", f"{model}_full")
        if pair["verdict"] != "not run":
            lora, full = (result["costs"][f"{model}_{method}"] for method in ("lora", "full"))
            share = lora["trainable parameters"] / full["trainable parameters"]
            one = f"`{model}_lora` trains {100 * share:.0f} % of the parameters of full fine-tuning and"
            parts.append(sentence(pair, one, "it"))
    parts.append(sentence(comparison(result, "gpt2_qlora", "gpt2_lora"), "in 4 bits, `gpt2_qlora`", "`gpt2_lora`"))
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "." if not text.startswith("`") else text + "."


def advice(result: dict[str, Any]) -> str:
    """Return the sentence on which model is worth it here."""
    adapter, baseline = (result["picked"][side] for side in ("adapter", "baseline"))
    pair = comparison(result, adapter, baseline)
    seconds = result["costs"][adapter]["training, s"]
    if pair["verdict"] == "better":
        points = f"{100 * pair['difference']:.1f} points"
        return f"Here the adapter is worth its {seconds:,.0f} s of training where {points} of accuracy matter."
    return f"Here a language model is not shown to be worth its {seconds:,.0f} s of training: take {named(baseline)}."


def comparison(result: dict[str, Any], one: str, other: str) -> dict[str, Any]:
    """Return the declared comparison of two models."""
    return next(pair for pair in result["comparisons"] if (pair["one"], pair["other"]) == (one, other))


def sentences(result: dict[str, Any]) -> str:
    """Return the three sentences on what a run found."""
    return " ".join([quality(result), cost(result), advice(result)])
