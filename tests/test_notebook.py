"""A notebook's run: what it reads, writes and records, and which of a page's names are its parameters."""

import json

import numpy as np
import pandas as pd
import pytest

from helpers import CheckFailed
from helpers.notebook import Run


def test_a_run_reads_writes_and_records(tmp_path, capsys):
    page = {
        "SEED": 1,
        "OUT": str(tmp_path),
        "RANK": 4,
        "helper": len,
        "CANDIDATES": 3000,
        "CLASSES": {"a": ["x"], "b": ["y"]},
    }
    run = Run("02_test_data", page)
    run.made_from("mini-complaints-1.parquet")
    run.write_table("test", pd.DataFrame({"id": [1]}))
    with pytest.raises(FileNotFoundError, match=r"an earlier notebook makes it.*run_all\.py --out"):
        run.read_table("train")
    run.save_result(answer=np.array([1, 2]))
    found = json.loads((tmp_path / "results/02_test_data.json").read_text())
    assert (
        found["mini"] is True
        and found["parameters"] == {"CLASSES": page["CLASSES"], "RANK": 4, "SEED": 1}
        and found["labels"] == ["a", "b"]
        and found["answer"] == [1, 2]
    )
    assert found["data_sha256"].keys() == {"test"} and found["seconds"] >= 0 and found["peak_memory_mb"]["host"] > 0
    assert "the offline demo (--mini)" in capsys.readouterr().out


def test_a_further_seed_reads_the_series_data_and_its_own_results(tmp_path, monkeypatch):
    monkeypatch.setenv("RUN_ALL_SERIES", str(tmp_path))
    further = tmp_path / "seeds" / "7"
    for folder in (tmp_path / "data", tmp_path / "results", further / "results"):
        folder.mkdir(parents=True)
    pd.DataFrame({"text": ["a"]}).to_parquet(tmp_path / "data/train.parquet")
    for folder, name, text in (
        (tmp_path, "02_test_data", "2"),
        (tmp_path, "04_gpt2_lora", "4"),
        (tmp_path, "appendix_rates", "1"),
        (further, "04_gpt2_lora", "7"),
    ):
        (folder / f"results/{name}.json").write_text(text)
    run = Run("05_gpt2_qlora", {"OUT": str(further), "SEED": 7})
    assert run.read_table("train")["text"].tolist() == ["a"]
    assert (run.read_result("02_test_data"), run.read_result("04_gpt2_lora")) == (2, 7)
    controls = Run("appendix_controls", {"OUT": str(further), "SEED": 7})
    assert (controls.read_result("04_gpt2_lora"), controls.read_result("appendix_rates")) == (7, 1)
    top = Run("06_comparing", {"OUT": str(tmp_path), "SEED": 42})
    assert (top.read_result("04_gpt2_lora"), top.read_result("seeds/7/04_gpt2_lora")) == (4, 7)


def test_a_folder_called_seeds_is_a_folder_like_any_other(tmp_path):
    (tmp_path / "data").mkdir()
    pd.DataFrame({"text": ["a"]}).to_parquet(tmp_path / "data/train.parquet")
    run = Run("03_distilbert_lora", {"OUT": str(tmp_path / "seeds" / "mine"), "SEED": 1})
    with pytest.raises(FileNotFoundError, match="seeds/mine/data/train"):
        run.read_table("train")


def test_the_held_out_complaints_open_for_their_judges_alone(tmp_path):
    (tmp_path / "data").mkdir()
    pd.DataFrame({"text": ["a"]}).to_parquet(tmp_path / "data/held_out.parquet")
    for notebook in ("03_distilbert_lora", "appendix_controls"):
        with pytest.raises(CheckFailed, match="must not open"):
            Run(notebook, {"OUT": str(tmp_path), "SEED": 1}).read_table("held_out")
    assert len(Run("06_comparing", {"OUT": str(tmp_path), "SEED": 1}).read_table("held_out")) == 1
