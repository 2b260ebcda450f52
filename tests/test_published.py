"""The published table as a reference: what a mini run pins, and what it says of its own table beside the published one."""

import copy
import json
from pathlib import Path

import pytest

from driver import publish
from helpers import machine

ROOT = Path(__file__).parents[1]


@pytest.fixture
def published():
    return json.loads((ROOT / "results/offline_demo.json").read_text())["comparison"]


def test_equal_rows_are_said_to_be_equal_also_where_the_published_run_has_more(published):
    mine = copy.deepcopy(published)
    mine["test"] = [row for row in mine["test"] if row["method"] not in ("head", "full")]
    assert 5 < len(mine["test"]) < len(published["test"])
    mine["versions"]["python"] = "3.99"  # it did not matter
    assert publish.beside_published(mine, published) == "All 9 rows are those of the published table, byte for byte."


def test_a_row_that_is_not_published_is_called_new_and_no_difference(published):
    mine = copy.deepcopy(published)
    mine["test"].append(mine["test"][0] | {"name": "naive_bayes"})
    said = publish.beside_published(mine, published)
    assert said.startswith(f"All {len(published['test'])} rows are those") and said.endswith("New: naive_bayes.")


def test_other_rows_are_counted_and_what_differs_is_named(published):
    mine = copy.deepcopy(published)
    mine["test"][-1]["accuracy"] += 1e-15
    said = publish.beside_published(mine, published)
    assert said.startswith(f"1 of {len(mine['test'])} rows are not") and "nothing that is pinned: please report" in said
    del mine["numerics"]["MKL_CBWR"]
    mine["numerics"]["instructions"] = "DEFAULT"
    mine["versions"]["torch"] = "2.99"
    said = publish.beside_published(mine, published)
    assert "MKL_CBWR: not set, published with COMPATIBLE" in said
    assert "instructions: DEFAULT, published with AVX2" in said and "torch: 2.99, published with" in said


def test_the_published_run_was_pinned(published):
    assert published["mini"] is True and published["numerics"]["threads"] == 2
    assert published["numerics"]["precision"] == "float32" and published["numerics"]["instructions"] == "AVX2"
    in_results = {name: value for name, value in machine.PINS.items() if name != "OMP_NUM_THREADS"}
    assert in_results and in_results.items() <= published["numerics"].items()


@pytest.mark.parametrize(
    "processor, flags, all_pins",
    [("x86_64", "fpu avx avx2 fma", True), ("AMD64", "fpu avx", False), ("aarch64", "fp asimd bf16", False)],
    ids=["with AVX2", "without", "Arm"],
)
def test_instructions_are_pinned_where_the_cpu_has_them(monkeypatch, tmp_path, processor, flags, all_pins):
    monkeypatch.setattr(machine.platform, "machine", lambda: processor)
    described = tmp_path / "cpuinfo"
    described.write_text(f"flags\t\t: {flags} clflush\n")
    monkeypatch.setattr(machine, "CPUINFO", described)
    assert machine.pins() == (machine.PINS if all_pins else {"OMP_NUM_THREADS": "2"})


def test_variables_are_pinned_unless_another_device_or_precision_is_asked_for(monkeypatch):
    import run_all

    no_card = {"CUDA_VISIBLE_DEVICES": ""}
    on_cpu, on_card = ["-p", "DEVICE", "cpu"], ["-p", "DEVICE", "cuda"]
    cases = (
        (["--mini"], machine.pins() | no_card),
        (["--mini", *on_cpu], no_card),
        (["--mini", *on_card], {}),
        ([], {}),
    )
    for words, expected in (*cases, (on_cpu, no_card), (on_card, {})):
        monkeypatch.setattr("sys.argv", ["run_all.py", *words])
        assert run_all.pins(run_all.parse()) == expected


@pytest.mark.parametrize(
    "data, models, kind",
    [
        ("mini-complaints-1", ["mini-distilbert-1", "mini-gpt2-1"], "demo"),
        ("mini-complaints-1", ["minilm"], "demo"),
        ("complaints", ["minilm", "mini-gpt2-1"], "real"),
        ("complaints", ["minilm"], "real"),
        ("BEE-spoke-data/consumer-finance-complaints", ["distilbert-base-uncased", "gpt2"], "full"),
    ],
)
def test_what_a_result_is_of_is_told_by_its_data_and_its_models(data, models, kind):
    assert publish.kind_of_run({"data": data, "models": models}) == kind
