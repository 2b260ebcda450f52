"""What a run found, in sentences: made from its results, whatever they are."""

import json
from pathlib import Path

import pytest

from driver import findings

ROOT = Path(__file__).parents[1]


def result(verdict="not significant", difference=0.0, controls=True):
    """Return a result in which every comparison has this verdict."""
    names = {"tfidf_logreg": "baseline", "distilbert_lora": "lora", "gpt2_lora": "lora", "gpt2_qlora": "qlora"}
    pairs = [("gpt2_qlora", "gpt2_lora"), ("gpt2_lora", "tfidf_logreg")]
    if controls:
        names |= {"distilbert_full": "full", "gpt2_full": "full"}
        pairs += [("distilbert_lora", "distilbert_full"), ("gpt2_lora", "gpt2_full")]
    rows = [
        {"name": name, "method": method, "accuracy": 0.9, "intervals": {"accuracy": [0.88, 0.92]}}
        for name, method in names.items()
    ]
    costs = {
        name: {"trainable parameters": 1000 if method == "full" else 50, "training, s": 30.0}
        for name, method in names.items()
    }
    costs["tfidf_logreg"] = {"training, s": 1.5}
    told = [{"one": a, "other": b, "verdict": verdict, "difference": difference} for a, b in pairs]
    return {
        "held_out": rows,
        "held_out_texts": 1200,
        "picked": "gpt2_lora",
        "costs": costs,
        "held_out_comparisons": told,
    }


@pytest.mark.parametrize(
    ("verdict", "difference", "says", "advice"),
    [
        ("better", 0.021, "is better than the linear model (+2.1 points)", "worth its cost (1.5 s against 30 s"),
        ("worse", -0.034, "is worse than the linear model (-3.4 points)", "is not worth its cost"),
        (
            "not significant",
            0.004,
            "is not significantly different from the linear model (+0.4",
            "is not worth its cost",
        ),
    ],
    ids=["better", "worse", "undecided"],
)
def test_the_verdict_decides_what_is_said_of_quality_and_of_worth(verdict, difference, says, advice):
    text = findings.sentences(result(verdict, difference))
    assert says in text and advice in text
    assert "On 1,200 held-out complaints" in text and "0.900 (95 % interval 0.880 to 0.920)" in text


@pytest.mark.parametrize(
    ("verdict", "held"), [("worse", "is worse than"), ("not significant", "is not significantly different from")]
)
def test_what_lora_saves_stands_beside_whether_the_quality_holds(verdict, held):
    text = findings.cost(result(verdict, -0.01))
    assert text.count("trains 5 % of the parameters of full fine-tuning") == 2
    assert text.count(held) == 3 and text.count("(-1.0 points)") == 3


def test_without_controls_only_the_comparison_that_was_made_is_told():
    text = findings.cost(result(controls=False))
    assert text.startswith("With its base model in 4 bits, `gpt2_qlora`") and "full fine-tuning" not in text


def test_the_published_result_can_be_told_in_sentences():
    published = json.loads((ROOT / "results/offline_demo.json").read_text())
    text = findings.sentences(published)
    assert f"{published['held_out_texts']:,}" in text and published["picked"] in text and text.count(".") > 3
