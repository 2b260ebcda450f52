"""What a run found, in sentences: made from its results, whatever they are."""

import json
from pathlib import Path

import pytest

from driver import findings, publish
from helpers.verdicts import SAID, VERDICTS, sentence

ROOT = Path(__file__).parents[1]


def result(verdict="undecided", difference=0.0, controls=True, seeds=5):
    """Return a result in which every comparison has this verdict."""
    names = {"tfidf_logreg": "baseline", "distilbert_lora": "lora", "gpt2_lora": "lora", "gpt2_qlora": "qlora"}
    names |= {f"{model}_{way}": way for model in ("distilbert", "gpt2") for way in ("full", "head") if controls}
    rows = [
        {
            "name": name,
            "method": method,
            "accuracy": 0.9,
            "interval": [0.88, 0.92],
            "seeds": 1 + (seeds - 1) * (method != "baseline"),
        }
        for name, method in names.items()
    ]
    costs = {
        name: {
            "trainable parameters": {"full": 1000, "baseline": None}.get(method, 50),
            "training, s": {"full": 20.0, "baseline": None}.get(method, 30.0),
        }
        for name, method in names.items()
    }
    pairs = [("gpt2_qlora", "gpt2_lora"), ("gpt2_lora", "tfidf_logreg")]
    pairs += [(f"{model}_lora", f"{model}_{way}") for model in ("distilbert", "gpt2") for way in ("full", "head")]
    told = {
        "margin": 0.02,
        "difference": difference,
        "low": difference - 0.01,
        "high": difference + 0.01,
        "seeds": seeds,
    }
    return {
        "data": "mini-complaints",
        "models": ["mini-distilbert", "mini-gpt2"],
        "table": rows,
        "held_out": 1200,
        "picked": {"adapter": "gpt2_lora", "baseline": "tfidf_logreg"},
        "costs": costs,
        "comparisons": [
            {
                "one": a,
                "other": b,
                **told,
                "verdict": verdict if controls or b[-4:] not in ("full", "head") else "not run",
            }
            for a, b in pairs
        ],
    }


@pytest.mark.parametrize(
    ("verdict", "difference", "says", "advice"),
    [
        ("better", 0.021, "is better than the baseline (+2.1 points, 90 % interval +1.1 to +3.1)", "worth its 30 s of training where 2.1 points"),
        ("worse within the margin", -0.014, "but not shown to be so by more than 2 points (-1.4 points", "is not shown to be worth"),
        ("equivalent within the margin", 0.004, "is equivalent to the baseline within 2 points (+0.4", "is not shown to be worth"),
        ("undecided", -0.015, "may be worse than the baseline by more than 2 points, or better", "take the linear model"),
    ],
    ids=["better", "worse", "equivalent", "undecided"],
)  # fmt: skip
def test_the_verdict_decides_what_is_said_of_quality_and_of_worth(verdict, difference, says, advice):
    text = findings.sentences(result(verdict, difference))
    assert says in text and advice in text
    assert "On 1,200 held-out complaints" in text and "0.900 (95 % interval 0.880 to 0.920, 5 seeds)" in text


def test_there_is_a_sentence_for_every_verdict_and_one_seed_is_said_to_be_one():
    assert SAID.keys() == VERDICTS.keys() | {"not run"}
    row = {"margin": 0.02, "difference": 0.01, "low": 0.0, "high": 0.02, "seeds": 1}
    told = [sentence(row | {"verdict": verdict}, "one", "other") for verdict in SAID]
    assert len(set(told)) == len(SAID) and all(text.startswith("one ") and "other" in text for text in told)
    assert all("one seed, so this is about these two trained models" in text for text in told[:-1])
    assert "one seed" not in sentence(row | {"verdict": "better", "seeds": 5}, "one", "other")


def test_each_declared_comparison_has_its_verdict_and_what_it_costs_beside_the_other():
    rows = publish.verdict_rows(result("worse within the margin", -0.014))
    assert len(rows) == 6 and {row["verdict"] for row in rows} == {"worse within the margin"}
    [full] = [row for row in rows if row["comparison"] == "`gpt2_lora` − `gpt2_full`"]
    assert list(full.values())[1:] == ["-1.4 (-2.4 to -0.4)", "worse within the margin", "5 %", "1.5 ×"]
    [linear] = [row for row in rows if row["comparison"].endswith("`tfidf_logreg`")]
    assert list(linear.values())[3:] == ["", ""]  # the linear model's cost was not measured


def test_many_times_the_parameters_are_told_as_times():
    found = result()
    found["costs"]["gpt2_lora"]["trainable parameters"] = 9650
    assert [row for row in publish.verdict_rows(found) if list(row.values())[3] == "193 ×"]


def test_without_controls_only_the_comparisons_that_were_made_are_told():
    rows = publish.verdict_rows(result(controls=False))
    assert [row["comparison"] for row in rows] == ["`gpt2_qlora` − `gpt2_lora`", "`gpt2_lora` − `tfidf_logreg`"]


def test_the_published_result_can_be_told_in_sentences():
    published = json.loads((ROOT / "results/offline_demo.json").read_text())["comparison"]
    text = findings.sentences(published)
    assert f"{published['held_out']:,}" in text and published["picked"]["adapter"] in text


def label_curve(*rows):
    """Return a result of the labels from rows of set, number, the linear model's and the head's accuracy, verdict."""
    summary, pairs = [], []
    for name, number, linear, head, verdict in rows:
        for model, value in (("tfidf_logreg", linear), ("head", head)):
            summary.append({"set": name, "model": model, "labels": number, "accuracy": value, "interval": [0, 1]})
        pair = {"set": name, "labels": number, "one": "head", "verdict": verdict}
        pairs.append(pair | {"difference": head - linear, "margin": 0.02})
    summary.append({"set": "held_out", "model": "keyword", "labels": 0, "accuracy": 0.9, "interval": [0.8, 0.95]})
    texts = {"held_out": 200} | ({"other": 77} if any(row[0] == "other" for row in rows) else {})
    return {"summary": summary, "comparisons": pairs, "texts": texts}


FEW, SOME = ("held_out", 8, 0.7, 0.8, "better"), ("held_out", 32, 0.8, 0.85, "undecided")
MANY = ("held_out", 1600, 0.95, 0.96, "equivalent within the margin")


def test_of_the_labels_it_is_told_where_pretraining_pays_and_from_where_on_it_does_not():
    text = findings.labels(label_curve(FEW, SOME, MANY))
    assert "better than the linear model with 8 labelled complaints; from 1,600 on no way is more than 2 points" in text
    assert "on 200 held-out complaints, over draws" in text and "has 0.900 (0.800 to 0.950) without a label" in text
    ahead = findings.labels(label_curve(FEW, SOME))
    assert "up to 32 one or another is more than 2 points ahead" in ahead
    level = findings.labels(label_curve(MANY))
    assert "with no number of labelled complaints tried; from 1,600 on" in level


def test_the_table_of_labels_has_a_number_a_row_and_what_is_better_in_bold():
    elsewhere = ("other", 8, 0.6, 0.75, "undecided")
    rows = publish.label_rows(label_curve(FEW, MANY, elsewhere))
    assert rows == [
        {"labelled complaints": "8", "`tfidf_logreg`": "0.700 / 0.600", "`head`": "**0.800** / 0.750"},
        {"labelled complaints": "1,600", "`tfidf_logreg`": "0.950", "`head`": "0.960"},
    ]
    assert "after the stroke, on 77 from elsewhere" in findings.labels(label_curve(FEW, elsewhere))
