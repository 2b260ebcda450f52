"""What a run found, in three sentences made from its results: quality, cost, and which model is worth it."""

from typing import Any

BASELINE = "tfidf_logreg"
SAID = {  # of the first model of a pair, by the verdict of the comparison
    "better": "is better than",
    "worse": "is worse than",
    "not significant": "is not significantly different from",
}


def named(name: str) -> str:
    """Return how a sentence calls a model."""
    return "the linear model (TF-IDF and logistic regression)" if name == BASELINE else f"`{name}`"


def accuracy(row: dict[str, Any]) -> str:
    """Return an accuracy with its 95 % interval: .961 (.940 to .975)."""
    low, high = row["intervals"]["accuracy"]
    return f"{row['accuracy']:.3f} (95 % interval {low:.3f} to {high:.3f})"


def quality(result: dict[str, Any]) -> str:
    """Return the sentence on the adapter that validation picks, beside the linear model."""
    rows = {row["name"]: row for row in result["held_out"]}
    picked = result["picked"]
    pair = comparison(result, picked, BASELINE)
    return (
        f"On {result['held_out_texts']:,} held-out complaints the adapter (the LoRA weights) that scores best on validation, {named(picked)}, reaches an "
        f"accuracy of {accuracy(rows[picked])} and {named(BASELINE)} {accuracy(rows[BASELINE])}: the adapter "
        f"{SAID[pair['verdict']]} the linear model ({100 * pair['difference']:+.1f} points)."
    )


def cost(result: dict[str, Any]) -> str:
    """Return the sentence on what LoRA and 4 bits save, and whether the quality holds; without controls, on 4 bits alone."""
    parts = []
    for model in ("distilbert", "gpt2"):
        pair = comparison(result, f"{model}_lora", f"{model}_full")
        if pair:
            lora, full = (result["costs"][f"{model}_{method}"] for method in ("lora", "full"))
            share = lora["trainable parameters"] / full["trainable parameters"]
            parts.append(
                f"`{model}_lora` trains {100 * share:.0f} % of the parameters of full fine-tuning and {held(pair, 'it')}"
            )
    pair = comparison(result, "gpt2_qlora", "gpt2_lora")
    parts.append(f"with its base model in 4 bits, `gpt2_qlora` {held(pair, '`gpt2_lora`')}")
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "." if not text.startswith("`") else text + "."


def held(pair: dict[str, Any], pair_name: str) -> str:
    """Return what a comparison says of the first model beside the other: is worse than it (-1.2 points)."""
    return f"{SAID[pair['verdict']]} {pair_name} ({100 * pair['difference']:+.1f} points)"


def advice(result: dict[str, Any]) -> str:
    """Return the sentence on which model is worth it here."""
    pair = comparison(result, result["picked"], BASELINE)
    seconds = result["costs"][BASELINE]["training, s"], result["costs"][result["picked"]]["training, s"]
    times = f"{seconds[0]:.1f} s against {seconds[1]:,.0f} s of training"
    if pair["verdict"] == "better":
        return f"Here the adapter is worth its cost ({times}) where {100 * pair['difference']:.1f} points matter."
    return f"Here a language model is not worth its cost: the linear model takes {times}."


def comparison(result: dict[str, Any], one: str, other: str) -> dict[str, Any]:
    """Return the comparison of two models on all held-out complaints, an empty one where it was not made."""
    pairs = result["held_out_comparisons"]
    return next((pair for pair in pairs if (pair["one"], pair["other"]) == (one, other)), {})


def sentences(result: dict[str, Any]) -> str:
    """Return the three sentences on what a run found."""
    return " ".join([quality(result), cost(result), advice(result)])
