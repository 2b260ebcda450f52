"""The appendix on a model in use: on files with and without dates and other products; the corrected share; what a word adds."""

import ast
import json

import matplotlib
import numpy as np
import pandas as pd
import pytest
from test_handover import hand_over, tables
from test_rates import cells
from toy_models import CARD, LABELS, MORTGAGE, tiny_distilbert

from helpers.complaints import DATE, NARRATIVE, PRODUCT


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """Return a run's folder with a tiny trained model."""
    out = tmp_path_factory.mktemp("use")
    hand_over(out, "a", "distilbert", tiny_distilbert(tmp_path_factory.mktemp("base")))
    result = json.loads((out / "results/a.json").read_text())
    result["trainings"][0] |= {"device": "cpu"}
    (out / "results/a.json").write_text(json.dumps(result))
    (out / "data").mkdir()
    parts = [table.assign(split=name) for name, table in tables().items()]
    pd.concat(parts).to_parquet(out / "data/train.parquet")
    return out


def rows(number=60):
    """Return complaints of both classes and of another product, over five years."""
    return pd.DataFrame(
        {
            NARRATIVE: [f"{CARD if i % 2 else MORTGAGE} case {i}" for i in range(number)],
            PRODUCT: [LABELS[i % 2] if i % 5 else "Student loan" for i in range(number)],
            DATE: [f"{2015 + i % 5}-0{1 + i % 9}-11" for i in range(number)],
        }
    )


FILES = {
    "as it should be": (lambda table: table, {"another product", *LABELS}, True),
    "no dates": (lambda table: table.drop(columns=DATE), {"another product", *LABELS}, False),
    "some dates": (
        lambda table: table.assign(**{DATE: table[DATE].where(table.index < 30)}),
        {"another product", *LABELS},
        True,
    ),
    "nothing else": (lambda table: table[table[PRODUCT] != "Student loan"], set(LABELS), True),
}


@pytest.mark.parametrize("change, about, dated", FILES.values(), ids=FILES)
def test_it_runs_on_what_a_file_has(trained_once, tmp_path, monkeypatch, change, about, dated):
    matplotlib.use("agg")
    change(rows()).to_csv(tmp_path / "mine.csv", index=False)
    asked = {"DATASET": str(tmp_path / "mine.csv"), "CONFIG": "", "REVISION": "", "COMPANY": "", "ENCODING": "utf-8"}
    asked |= {"TEXT_COLUMN": NARRATIVE, "LABEL_COLUMN": PRODUCT, "CLASSES": {name: [name] for name in LABELS}}
    result = {"data": "mini-toy", "labels": LABELS, "parameters": asked}
    (trained_once / "results/01_data.json").write_text(json.dumps(result))
    found = {}
    monkeypatch.setattr("helpers.notebook.display", lambda *_, **__: None)
    for source in cells("appendix_use").values():
        exec(source, found)
        found |= {"OUT": str(trained_once), "MODEL": "a"}
    told = json.loads((trained_once / "results/appendix_use.json").read_text())
    assert {row["about"] for row in told["by_product"]} == about and (0 < len(told["trend"]) <= 24) == dated
    assert told["trust"]["all companies"]["texts"] == (found["rows"]["about"] != "another product").sum() > 0
    routed = [line["routed"] for line in told["thresholds"]]
    assert routed == sorted(routed, reverse=True) and len(routed) == 7


@pytest.mark.parametrize("right", [True, False], ids=["a model that knows", "a model worse than a coin"])
def test_only_a_model_better_than_a_coin_tells_shares(trained_once, tmp_path, monkeypatch, capsys, right):
    answers = np.array([0.9 if right else 0.1, 0.1 if right else 0.9])
    monkeypatch.setattr(
        "helpers.handover.Trained.answers",
        lambda _, texts, __: (answers[[int(MORTGAGE in text) for text in texts]], np.zeros(len(texts))),
    )
    test_it_runs_on_what_a_file_has(trained_once, tmp_path, monkeypatch, *FILES["as it should be"])
    told = json.loads((trained_once / "results/appendix_use.json").read_text())
    assert all((period["share"] is not None) == right for period in told["trend"])
    assert ("does no better than a coin" in capsys.readouterr().out) != right


def page(**given):
    """Return the functions that the notebook defines, with what they take from the page."""
    found = {"pd": pd, "np": np, **given}
    for source in cells("appendix_use").values():
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef):
                exec(ast.unparse(node), found)
    return found


def test_a_corrected_share_is_the_true_one_and_its_interval_covers_it():
    exact = page(s=0.9, r=0.8, of_s=0, of_r=0)["true_share"](pd.Series([1] * 55 + [0] * 45))
    assert exact[0] == pytest.approx((0.55 + 0.8 - 1) / 0.7)
    assert exact[1] == pytest.approx(np.sqrt((0.5 * 0.9 * 0.1 + 0.5 * 0.8 * 0.2) / 100) / 0.7)
    chance, covered = np.random.default_rng(0), 0
    for _ in range(1_000):
        s, r = chance.binomial(150, 0.9) / 150, chance.binomial(150, 0.8) / 150
        truth = chance.random(400) < 0.3
        predictions = np.where(truth, chance.random(400) < 0.9, chance.random(400) < 0.2)
        ours = page_of_errors(s, r, 150)(pd.Series(predictions))
        covered += abs(ours[0] - truth.mean()) <= 1.96 * ours[1]
    assert 0.93 <= covered / 1_000 <= 0.97


def page_of_errors(s, r, number):
    """Return true_share with these measured rates, each on so many complaints."""
    return page(s=s, r=r, of_s=s * (1 - s) / number, of_r=r * (1 - r) / number)["true_share"]


class Listens:
    """A model to which one word says everything."""

    def answers(self, texts, computing):
        return np.array([0.9 if "escrow" in text else 0.2 for text in texts]), np.zeros(len(texts))


def test_the_word_that_carries_a_decision_comes_first_with_what_it_adds():
    run = type("Run", (), {"computing": None})
    found = page(trained=Listens(), run=run)["weights_of_words"]("they raised my escrow again")
    assert found.index[0] == "3:escrow" and found.iloc[0] == pytest.approx(0.7) and not found.iloc[1:].any()
