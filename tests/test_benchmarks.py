"""The benchmark's own arithmetic and the two sides' promises, on toys; no test here measures a time."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, get_peft_model
from stand_in_hub import write_distilbert, write_gpt2
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2ForSequenceClassification

from benchmarks import measure, pages, run, series, study, training, whole_run
from benchmarks.generate import COMPANY_SHARE, GROUP, generate
from mini.writer import write_complaints

ROOT = Path(__file__).parents[1]
COMPANY = "BANK OF AMERICA, NATIONAL ASSOCIATION"
TEXTS = ["my credit card was charged a fee", "the escrow on my mortgage was raised"]


@pytest.fixture(scope="module")
def complaints(tmp_path_factory):
    return write_complaints(tmp_path_factory.mktemp("data") / "mini-complaints.parquet")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    write_distilbert(folder / "distilbert", TEXTS * 50)
    write_gpt2(folder / "gpt2", TEXTS * 50)
    return folder


# --- arithmetic


def test_the_operations_of_one_block_by_hand():
    shape = training.Shape(layers=1, width=2, inner=4, causal=False, adapters=10)
    matrices = 4 * 2 * 2 + 2 * 2 * 4  # 32 weights
    forward = 2 * 3 * (matrices + 10)
    backward = 2 * 3 * (matrices - 12 + 2 * 10)  # nothing to train lies below query, key and value
    attention = 6 * (2 * 3 * 3 * 2)
    assert training.operations(shape, tokens=3) == forward + backward + attention == 708
    causal = training.Shape(layers=1, width=2, inner=4, causal=True, adapters=10)
    assert training.operations(causal, tokens=3) == forward + backward + 6 * (2 * 6 * 2)


def test_torch_counts_the_same_operations():
    config = GPT2Config(n_embd=64, n_layer=3, n_head=2, vocab_size=50, pad_token_id=0, attn_implementation="eager")
    adapters = LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)
    model = get_peft_model(GPT2ForSequenceClassification(config), adapters)
    ids = torch.randint(1, 50, (2, 40))
    with FlopCounterMode(display=False) as counted:
        model(input_ids=ids, labels=torch.tensor([0, 1])).loss.backward()
    shape = training.shape_of(model)
    full = training.Shape(**(vars(shape) | {"causal": False}))  # eager attention computes both halves
    assert counted.get_total_flops() == pytest.approx(2 * training.operations(full, 40), rel=0.02)


def test_padding_by_hand():
    assert training.padded_per_real([[4, 2], [1, 1]], widths=[4, 8]) == (8 + 16) / 8


def test_each_part_of_the_batches_is_stood_for_by_its_middle():
    assert training.stratified(list(range(9)), 3) == [1, 4, 7]
    assert training.stratified(list(range(100)), 3) == [16, 50, 83]


def test_a_ratio_is_the_median_of_the_pairs_with_its_spread():
    line = measure.figure("rate", "texts/s", [1, 2, 4], [10, 10, 10], more_is_better=True)
    assert (line["other"], line["series"], line["ratio"], line["spread"]) == (2, 10, 5, [2.5, 10])
    line = measure.figure("time", "s", [8, 9, 10], [2, 3, 1], more_is_better=False)
    assert (line["ratio"], line["spread"]) == (4, [3, 10])
    bound = line | {"bound": ">", "note": "not reached"}
    assert "> 4.00 x" in measure.table([bound]).replace(">4", "> 4") and "not reached" in measure.table([bound])


def test_a_run_is_split_by_its_cells_times_and_pythons_account_of_imports():
    page = {
        "metadata": {"papermill": {"start_time": "2026-01-01T00:00:00"}},
        "cells": [
            {"cell_type": "code", "metadata": {"papermill": {"start_time": "2026-01-01T00:00:02", "duration": 3.0}}},
            {"cell_type": "markdown", "metadata": {}},
            {"cell_type": "code", "metadata": {"papermill": {"start_time": "2026-01-01T00:00:05", "duration": 4.0}}},
        ],
    }
    lines = [
        "import time: 1 | 900000 | ipykernel",
        "import time: 1 | 700000 |   pandas",
        "import time: 1 | 1500000 | helpers",
    ]
    log = "\n".join([*lines, "said by a cell", *["import time: 1 | 500000 | modelling"] * 2])
    assert whole_run.split(page, log) == {"start": 2, "imports": 2, "work": 5}
    assert whole_run.seconds_said("mini data and models … 1 min 02 s\n") == 62
    assert whole_run.seconds_said("mini data and models … 3.5 s\n") == 3.5


# --- the two sides


@pytest.mark.parametrize("kind", study.RECIPES)
def test_the_studys_recipe(models, tmp_path, kind):
    model, tokenizer = study.load(kind, str(models / kind.partition("_")[0]))
    tokens = study.tokenise(pd.DataFrame({"text": TEXTS, "label": [1, 0]}), tokenizer, study.RECIPES[kind].max_tokens)
    longest = 512 if kind.startswith("distilbert") else 1024
    assert [len(ids) for ids in tokens["input_ids"]] == [longest] * 2
    assert sum(tokens[0]["attention_mask"]) < 20
    config, arguments = model.peft_config["default"], study.training_arguments(kind, tmp_path)
    assert config.lora_dropout == 0.1 and arguments.learning_rate == 2e-5 and not (arguments.bf16 or arguments.fp16)
    dropout = model.config.attention_dropout if kind.startswith("distilbert") else model.config.attn_pdrop
    assert dropout == 0.1 and arguments.gradient_checkpointing == (kind == "gpt2_qlora")
    assert getattr(model, "is_loaded_in_4bit", False) == (kind == "gpt2_qlora")


@pytest.mark.parametrize("kind", pages.PAGES)
def test_the_series_side_has_the_pages_adapters(models, kind):
    model, _ = series.load(kind, str(models / kind.partition("_")[0]))
    config, given = model.peft_config["default"], pages.values(kind)
    assert (config.r, config.lora_alpha, config.lora_dropout) == (given["RANK"], given["ALPHA"], given["DROPOUT"])
    assert len(config.target_modules) == (6 if kind.startswith("distilbert") else 3)


def test_the_series_selects_as_notebook_01_does(complaints):
    left, found = pages.select(str(complaints), COMPANY)
    rows = pd.read_parquet(complaints)
    told = rows["Consumer complaint narrative"].fillna("").str.strip() != ""
    ours = told & (rows["Company"] == COMPANY)
    counts = [
        len(rows),
        told.sum(),
        ours.sum(),
        (ours & rows["Product"].isin(["Mortgage", "Credit card or prepaid card"])).sum(),
    ]
    assert list(left.values()) == counts and len(found) == counts[-1]
    train, validation = pages.letters(str(complaints), COMPANY)
    assert (len(train), len(validation)) == (1600, 400) and validation["label"].mean() == 0.5


def test_the_large_file_is_like_the_real_one(complaints, tmp_path):
    path = generate(complaints, COMPANY, tmp_path / "large.parquet", rows=60_500)
    source, made = pq.ParquetFile(complaints), pq.ParquetFile(path)
    assert made.schema_arrow.equals(source.schema_arrow.remove_metadata())
    assert made.metadata.num_rows == 60_500 and made.metadata.row_group(0).num_rows == GROUP
    rows = made.read().to_pandas()
    words = rows["Consumer complaint narrative"].dropna().str.count(" ")
    assert rows["Complaint ID"].is_unique and 150 < words.median() < 250 and 600 < np.percentile(words, 95) < 850
    assert (rows["Company"] == COMPANY).mean() == pytest.approx(COMPANY_SHARE, rel=0.2)
    assert generate(complaints, COMPANY, path).stat().st_mtime == path.stat().st_mtime  # made once


# --- what comes out


def test_the_file_holds_the_machine_the_data_and_each_figure(complaints, tmp_path, monkeypatch):
    monkeypatch.setattr(run.rows, "ALL", {"data": lambda options: [measure.figure("a", "s", [2], [1], False)]})
    monkeypatch.setattr(
        run.kit, "values", lambda *_: {"01_data": dict.fromkeys(("DATASET", "DISTILBERT", "GPT2"), "mini-x")}
    )
    out = tmp_path / "result.json"
    monkeypatch.setattr("sys.argv", ["run.py", "--rows", "data", "--data", str(complaints), "--out", str(out)])
    run.main()
    found = json.loads(out.read_text())
    machine = {
        "processor",
        "cores",
        "threads",
        "memory_gb",
        "torch_threads",
        "device",
        "precision",
        "versions",
        "commit",
    }
    assert machine <= found["machine"].keys() and found["machine"]["versions"]["torch"].startswith("2.")
    assert found["used"]["data"] == "mini-complaints" and found["scale"] == "mini"
    assert found["figures"][0]["ratio"] == 2 and found["figures"][0]["row"] == "data"


def test_the_page_of_results_says_what_the_committed_files_say():
    files = sorted((ROOT / "benchmarks/results").glob("*.json"))
    assert len(files) >= 5
    results = {path.stem: json.loads(path.read_text()) for path in files}
    page = (ROOT / "benchmarks/results/README.md").read_text()
    assert page == measure.page(results)
    assert all(line["name"] in page for result in results.values() for line in result["figures"])


def test_a_childs_failure_is_told():
    with pytest.raises(RuntimeError, match=r"no_such_function"):
        measure.in_child("benchmarks.measure:no_such_function")
