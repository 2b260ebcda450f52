"""The one end-to-end run for truth: the README's main job, from nothing to the bar plot, in an output folder of its own."""

import json
import re

import nbformat
import pandas as pd
import pytest
from conftest import ROOT, run_mini

from driver.stages import series
from helpers.verdicts import verdict

NAMES = [stage.name for stage in series([], controls=False)]
BASELINES = ["majority", "keyword", "tfidf_logreg", "distilbert_embedding", "gpt2_embedding", "gpt2_zeroshot"]
MODELS = dict.fromkeys(BASELINES, "baseline") | {"distilbert_lora": "lora", "gpt2_lora": "lora", "gpt2_qlora": "qlora"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(mini_out):
    return {name: json.loads((mini_out / f"results/{name}.json").read_text()) for name in NAMES}


@pytest.fixture(scope="module")
def table(results):
    return pd.DataFrame(results["06_comparing"]["table"]).set_index("name")


def test_all_notebooks_ran_to_their_end_without_an_error(mini_out):
    for name in NAMES:
        page = nbformat.read(mini_out / f"executed/{name}.ipynb", as_version=4)
        code = [cell for cell in page.cells if cell.cell_type == "code"]
        assert len(code) > 5 and all(cell.execution_count for cell in code)
        assert not [o for cell in code for o in cell.outputs if o.output_type == "error"]


def test_no_warning_is_shown_on_a_page(mini_out):
    noise = [
        (name, o.text.strip())
        for name in NAMES
        for cell in nbformat.read(mini_out / f"executed/{name}.ipynb", as_version=4).cells
        if cell.cell_type == "code"
        for o in cell.outputs
        if o.get("name") == "stderr" and not re.search(r"\d+%\|", o.text)
    ]
    assert not noise


def test_the_bar_plot_and_every_figure_is_there(mini_out):
    plots = sorted(path.name for path in (mini_out / "plots").glob("*.png"))
    assert "barplot_perfmetrics.png" in plots
    assert {plot[:2] for plot in plots} == {*(name[:2] for name in NAMES), "ba"}
    assert all((mini_out / "plots" / plot).stat().st_size > 5_000 for plot in plots)


def test_the_table_holds_all_models_with_intervals(table):
    assert table["method"].to_dict() == MODELS
    for _, row in table.iterrows():
        low, high = row["interval"]
        assert 0 <= low < row["accuracy"] < high <= 1 and row["interval"] == row["these models"]  # one seed


def test_every_adapter_learned_and_nobody_is_perfect_or_above_what_anyone_can_expect(table, results):
    adapters = table[table["method"] != "baseline"]
    assert len(adapters) == 3 and adapters["accuracy"].min() >= 0.85
    ceiling = results["02_test_data"]["ceiling"]
    assert 0.95 < ceiling < 1 and table["accuracy"].max() < ceiling + 0.02


def test_six_comparisons_were_declared_before_training_and_are_answered_or_said_not_to_be(results):
    declared, found = results["02_test_data"]["comparisons"], results["06_comparing"]["comparisons"]
    assert len(declared) == len(found) == 6
    assert [row["verdict"] == "not run" for row in found] == [True] * 4 + [False] * 2
    picked = results["06_comparing"]["picked"]
    for said, row in zip(declared, found, strict=True):
        assert (row["one"], row["other"]) == tuple(picked.get(said[side], said[side]) for side in ("one", "other"))
        assert row["margin"] == results["02_test_data"]["margin"] == 0.02
        if row["verdict"] != "not run":
            assert row["low"] < row["difference"] < row["high"]
            assert row["verdict"] == verdict(row["low"], row["high"], row["margin"])
    assert results["06_comparing"]["held_out"] == sum(results["02_test_data"]["rows"].values())


def test_every_result_says_mini_and_what_it_was_made_from(results):
    for name, result in results.items():
        assert result["mini"] is True and result["data"].startswith("mini-complaints-"), name
        assert all(model.startswith("mini-") for model in result["models"])
        assert {
            "parameters",
            "seed",
            "versions",
            "numerics",
            "data_sha256",
            "seconds",
            "peak_memory_mb",
        } <= result.keys()
    assert results["06_comparing"]["data_sha256"]["held_out"] == results["02_test_data"]["data_sha256"]["held_out"]
    hashes = [result["data_sha256"] for result in results.values()]
    assert len({found["train"] for found in hashes if "train" in found}) == 1


def test_predictions_are_kept_as_a_long_table_and_give_the_tables_scores(mini_out, table, results):
    kept = pd.read_parquet(mini_out / "results/predictions.parquet")
    assert set(kept) == {"name", "model", "method", "seed", "draw", "set", "id", "label", "probability"}
    assert not kept.duplicated(["name", "seed", "set", "id"]).any() and set(kept["name"]) == set(MODELS)
    texts = kept[kept["name"] == "gpt2_lora"].groupby("set")["label"]
    assert texts.size().to_dict() == {"extra_test": 300, "test": 200, "validation": 240}
    assert texts.mean()["extra_test"] == 0.5
    right = (kept["probability"] >= 0.5) == kept["label"]
    for sets, key in ((["test"], "test"), (["test", "extra_test"], "table")):
        among = kept["set"].isin(sets)
        found = right[among].groupby(kept["name"]).mean()
        told = {row["name"]: row["accuracy"] for row in results["06_comparing"][key]}
        assert found.to_dict() == pytest.approx(told)


def test_a_second_run_skips_everything_and_changes_no_byte(mini_out):
    before = {
        path: path.read_bytes() for path in mini_out.rglob("*") if path.is_file() and "executed" not in path.parts
    }
    again = run_mini(mini_out)
    assert again.returncode == 0 and again.stdout.count("up to date") == len(NAMES)
    assert len(before) > 20 and all(path.read_bytes() == content for path, content in before.items())


def test_a_changed_parameter_runs_only_what_depends_on_it(mini_out):
    listed = run_mini(mini_out, "--list", "-p", "RANK", "4").stdout
    states = {name: re.search(rf"^{name} +(.*)", listed, re.M)[1] for name in NAMES}
    assert states["01_data"] == states["02_test_data"] == "done"
    assert not [name for name in NAMES[2:] if states[name] == "done"]
    listed = run_mini(mini_out, "--list", "-p", "TEXT", "My card was charged twice").stdout
    states = {name: re.search(rf"^{name} +(.*)", listed, re.M)[1] for name in NAMES}
    assert [name for name in NAMES if states[name] != "done"] == ["appendix_errors", "appendix_use"]


def test_the_nine_lines_of_the_datas_card_route_a_file_with_the_linear_model(mini_out, tmp_path, monkeypatch):
    code = re.search(r"```python\n(.*?)```", (ROOT / "data/README.md").read_text(), re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line]) == 9
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"text": ["my mortgage escrow account", "a charge on my visa card"]}).to_csv("new.csv", index=False)
    exec(code.replace("../runs/mine", str(mini_out)), {})
    assert [round(value) for value in pd.read_csv("routed.csv")["probability"]] == [0, 1]
