"""The appendices on learning rates and on controls: how a grid grows, and which comparisons are refused as unfair."""

import ast
import json
from itertools import pairwise
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from helpers import CheckFailed
from helpers.files import sha256

ROOT = Path(__file__).parents[1]
SETTINGS = {"MAX_TOKENS": 64, "EPOCHS": 2, "BATCH_SIZE": 8, "PRECISION": "float32", "SEED": 7, "LEARNING_RATE": 3e-4}
SETTINGS |= {"RANK": 8, "ALPHA": 16}
MODELS = {"distilbert": "03_distilbert_lora", "gpt2": "04_gpt2_lora"}


def cells(notebook):
    """Return the sources of a notebook's code cells by their ids, in order."""
    page = nbformat.read(ROOT / f"notebooks/{notebook}.ipynb", 4)
    return {cell.id: cell.source for cell in page.cells if cell.cell_type == "code"}


@pytest.fixture(scope="module")
def page():
    """Return the functions that the notebook on learning rates defines, by name."""
    found = {"pd": pd, "np": np, "pairwise": pairwise}
    for source in cells("appendix_rates").values():
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef):
                exec(ast.unparse(node), found)
    return found


@pytest.mark.parametrize(
    "losses, further",
    [
        ({2e-5: 0.6, 6.3e-5: 0.5, 2e-4: 0.4}, 6.3e-4),
        ({2e-5: 0.4, 6.3e-5: 0.5, 2e-4: 0.6}, 6.3e-6),
        ({2e-5: 0.6, 6.3e-5: 0.5, 2e-4: 0.6}, None),
        ({6.3e-5: 0.5, 2e-4: 0.4, 2e-5: 0.6, 6.3e-4: float("nan")}, None),  # in the order in which they were tried
    ],
    ids=["largest", "smallest", "inside", "diverged beyond"],
)
def test_a_grid_grows_by_a_step_where_its_best_is_at_an_edge(page, losses, further):
    assert page["next_rate"](pd.Series(losses)) == further


def test_a_ratio_is_known_up_to_the_larger_step_beside_it(page):
    rates = [2e-4, 2e-5, 6.3e-4, 2e-3, 2e-2]
    assert page["step_at"](2e-4, rates) == pytest.approx(10)
    assert page["step_at"](6.3e-4, rates) == pytest.approx(2e-3 / 6.3e-4)
    assert page["step_at"](2e-2, rates) == pytest.approx(10)


@pytest.mark.parametrize(
    "losses, chosen",
    [
        ({2e-4: 0.31, 6.3e-4: 0.28, 6.3e-3: 0.69, 2e-3: 0.24}, 6.3e-4),  # beyond 2e-3 is a cliff
        ({2e-4: 0.31, 6.3e-4: 0.28, 6.3e-3: float("nan"), 2e-3: 0.24}, 6.3e-4),
        ({2e-4: 0.62, 6.3e-4: 0.29, 6.3e-3: 0.27, 2e-3: 0.23}, 2e-3),
    ],
    ids=["cliff", "diverged", "valley"],
)
def test_a_control_keeps_a_step_away_from_a_cliff(page, losses, chosen):
    assert page["safe_rate"](pd.Series(losses)) == chosen


@pytest.fixture
def controls(tmp_path):
    """Return what runs the beginning of the controls' notebook after one result was changed."""
    (tmp_path / "data").mkdir()
    rows = {"text": ["a", "b"], "label": [0, 1], "split": ["train", "validation"]}
    pd.DataFrame(rows).to_parquet(tmp_path / "data/train.parquet")
    results = {"01_data": {"data": "mini-complaints", "labels": ["a", "b"]}}
    for model, notebook in MODELS.items():
        row = {"model": model, "checkpoint": f"mini-{model}", "device": "cpu", "precision": "float32", "weights": "x"}
        results[notebook] = {"parameters": SETTINGS, "trainings": [row]}
    results["appendix_rates"] = {
        "data_sha256": {"train": sha256(tmp_path / "data/train.parquet")},
        "models": [f"mini-{model}" for model in MODELS],
        "chosen": {model: {"head": 1e-2, "lora": 1e-3, "full": 1e-4} for model in MODELS},
        "settings": dict.fromkeys(MODELS, SETTINGS | {"SEED": 1}),  # the map is of the first seed
    }

    def begin(notebook="", seed=7, **changes):
        for name, result in results.items():
            path = tmp_path / f"results/{name}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(result | (changes if name == notebook else {})))
        found = {}
        for id, source in cells("appendix_controls").items():
            exec(source, found)
            found |= {"SEED": seed, "OUT": str(tmp_path)}
            if id == "controls-04a":
                return found["table"]

    return begin


def test_a_control_has_the_adapters_settings_and_a_learning_rate_of_its_own_map(controls):
    table = controls()
    assert table.loc["EPOCHS"].tolist() == [2, 2]
    assert table.loc["learning rate, head"].tolist() == [1e-2, 1e-2]
    assert table.loc["learning rate, full"].tolist() == [1e-4, 1e-4]


UNFAIR = {
    "another seed": ({"seed": 8}, r"03 and 04 have the seeds \{7\}, not 8"),
    "adapters of two seeds": ({"notebook": "04_gpt2_lora", "parameters": SETTINGS | {"SEED": 8}}, "have the seeds"),
    "a map on other complaints": ({"notebook": "appendix_rates", "data_sha256": {"train": "0"}}, "other complaints"),
    "a map with other models": ({"notebook": "appendix_rates", "models": ["a", "b"]}, "other models"),
    "a map of more epochs": (
        {"notebook": "appendix_rates", "settings": dict.fromkeys(MODELS, SETTINGS | {"EPOCHS": 3})},
        "other settings",
    ),
}


@pytest.mark.parametrize("change, words", UNFAIR.values(), ids=UNFAIR)
def test_an_unfair_control_is_refused_before_it_is_trained(controls, change, words):
    with pytest.raises(CheckFailed, match=words):
        controls(**change)
