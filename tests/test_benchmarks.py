"""The benchmark's own arithmetic and the two sides' promises, on toys; no test here measures a time."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from peft import get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from toy_models import CARD, CPU, MORTGAGE, some_letters, tiny_distilbert, tiny_gpt2
from transformers import AutoTokenizer, GPT2Config, GPT2ForSequenceClassification

from benchmarks import data, measure, models, original, run, whole_run
from helpers import CheckFailed
from helpers.models import gpt2_adapter, load_distilbert
from mini.writer import write_complaints

ROOT = Path(__file__).parents[1]
COMPANY = data.values("01_data")["COMPANY"]


@pytest.fixture(scope="module")
def complaints(tmp_path_factory):
    return write_complaints(tmp_path_factory.mktemp("data") / "mini-complaints.parquet")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    return {"distilbert": str(tiny_distilbert(folder)), "gpt2": str(tiny_gpt2(folder))}


def decided_distilbert(checkpoint, labels, seed):
    """Return a toy that is 73 % sure of either class on a text of it; a new head as such hardly tells texts apart."""
    model = load_distilbert(checkpoint, labels, seed).eval()
    tokens = AutoTokenizer.from_pretrained(checkpoint)([CARD, MORTGAGE], padding=True, return_tensors="pt")
    with torch.no_grad():
        card, mortgage = model(**tokens).logits.diff()[:, 0]
        scale = 2 / (card - mortgage)
        model.classifier.weight *= scale
        model.classifier.bias[1] = -scale * (card + mortgage) / 2
    return model


# --- arithmetic


def test_the_operations_of_one_block_by_hand():
    shape = models.Shape(layers=1, width=2, inner=4, causal=False, adapters=10)
    matrices = 4 * 2 * 2 + 2 * 2 * 4  # 32 weights
    forward = 2 * 3 * (matrices + 10)
    backward = 2 * 3 * (matrices - 12 + 2 * 10)  # nothing to train lies below query, key and value
    attention = 6 * (2 * 3 * 3 * 2)
    assert models.operations(shape, tokens=3) == forward + backward + attention == 708
    causal = models.Shape(layers=1, width=2, inner=4, causal=True, adapters=10)
    assert models.operations(causal, tokens=3) == forward + backward + 6 * (2 * 6 * 2)


def test_torch_counts_the_same_operations():
    config = GPT2Config(n_embd=64, n_layer=3, n_head=2, vocab_size=50, pad_token_id=0, attn_implementation="eager")
    model = get_peft_model(GPT2ForSequenceClassification(config), gpt2_adapter(rank=4, alpha=8, dropout=0.0))
    ids = torch.randint(1, 50, (2, 40))
    with FlopCounterMode(display=False) as counted:
        model(input_ids=ids, labels=torch.tensor([0, 1])).loss.backward()
    shape = models.shape_of(model)
    full = models.Shape(**(vars(shape) | {"causal": False}))  # eager attention computes both halves
    assert counted.get_total_flops() == pytest.approx(2 * models.operations(full, 40), rel=0.02)


def test_padding_by_hand():
    assert models.padded_per_real([[4, 2], [1, 1]], widths=[4, 8]) == (8 + 16) / 8


def test_each_part_of_the_batches_is_stood_for_by_its_middle():
    assert models.stratified(list(range(9)), 3) == [1, 4, 7]
    assert models.stratified(list(range(100)), 3) == [16, 50, 83]


def test_a_ratio_is_the_median_of_the_pairs_with_its_spread():
    line = measure.figure("rate", "texts/s", [1, 2, 4], [10, 10, 10], more_is_better=True)
    assert (line["other"], line["series"], line["ratio"], line["spread"]) == (2, 10, 5, [2.5, 10])
    line = measure.figure("time", "s", [8, 9, 10], [2, 3, 1], more_is_better=False)
    assert (line["ratio"], line["spread"]) == (4, [3, 10])
    bound = line | {"bound": ">", "note": "not reached"}
    assert "> 4.00 x" in measure.table([bound]).replace(">4", "> 4") and "not reached" in measure.table([bound])


def test_a_run_is_split_by_its_cells_times_and_pythons_account_of_imports(tmp_path):
    notebook = {
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
        "import time: 1 | 300000 | helpers",
        "import time: 1 | 1200000 | helpers.notebook",
        "said by a cell",
        *["import time: 1 | 500000 | torch"] * 2,
    ]
    executed = tmp_path / "01_data.ipynb"
    executed.write_text(json.dumps(notebook))
    executed.with_suffix(".log").write_text("\n".join(lines))
    assert whole_run.parts_of(executed) == {"start": 2, "imports": 2, "work": 5}


# --- the two sides


def test_the_trainings_compared_are_the_studys_three():
    assert run.TRAININGS == tuple(original.RECIPES) == tuple(models.NOTEBOOKS)


@pytest.mark.parametrize("kind", original.RECIPES)
def test_the_studys_recipe(checkpoints, tmp_path, kind):
    recipe = original.RECIPES[kind]
    model, tokenizer = original.load(kind, checkpoints[recipe.model])
    texts = pd.DataFrame({"text": [CARD, MORTGAGE], "label": [1, 0]})
    tokens = original.tokenise(texts, tokenizer, recipe.max_tokens)
    longest = 512 if kind == "distilbert_lora" else 1024
    assert [len(ids) for ids in tokens["input_ids"]] == [longest] * 2
    assert sum(tokens[0]["attention_mask"]) < 20
    config, arguments = model.peft_config["default"], original.training_arguments(kind, tmp_path)
    assert config.lora_dropout == 0.1 and arguments.learning_rate == 2e-5 and not (arguments.bf16 or arguments.fp16)
    dropout = model.config.attention_dropout if kind == "distilbert_lora" else model.config.attn_pdrop
    assert dropout == 0.1 and arguments.gradient_checkpointing == (kind == "gpt2_qlora")
    assert getattr(model, "is_loaded_in_4bit", False) == (kind == "gpt2_qlora")


@pytest.mark.parametrize("kind", original.RECIPES)
def test_the_series_side_has_the_notebooks_adapters_and_settings(checkpoints, tmp_path, kind):
    setup = models.set_up("series", kind, checkpoints, some_letters(), tmp_path)
    config, given = setup.model.peft_config["default"], data.values(models.NOTEBOOKS[kind])
    assert (config.r, config.lora_alpha, config.lora_dropout) == (given["RANK"], given["ALPHA"], given["DROPOUT"])
    assert len(config.target_modules) == (6 if kind == "distilbert_lora" else 3)
    assert getattr(setup.model, "is_loaded_in_4bit", False) == (kind == "gpt2_qlora")
    assert (setup.arguments.learning_rate, setup.arguments.num_train_epochs) == (
        given["LEARNING_RATE"],
        given["EPOCHS"],
    )
    assert setup.max_tokens == given["MAX_TOKENS"] and setup.arguments.seed == given["SEED"]


@pytest.mark.parametrize("kind", original.RECIPES)
def test_a_step_of_the_series_takes_the_fast_ways_or_is_not_measured(checkpoints, tmp_path, monkeypatch, kind):
    monkeypatch.setattr("helpers.machine.multiplies_bfloat16", lambda: True)  # as most CPUs do, and this one perhaps
    setup = models.set_up("series", kind, checkpoints, some_letters(8), str(tmp_path))
    models.check_ways(setup, [0, 1, 2, 3])
    assert setup.precision == torch.bfloat16
    with pytest.raises(CheckFailed, match="not in torch"):
        models.check_ways(dataclasses.replace(setup, precision=torch.float32), [0, 1])
    setup.model.is_loaded_in_4bit = kind != "gpt2_qlora"
    with pytest.raises(CheckFailed, match="in 4 bits"):
        models.check_ways(setup, [0, 1])
    setup.model.config._attn_implementation = "eager"
    with pytest.raises(CheckFailed, match="attention is not fused"):
        models.check_ways(setup, [0, 1])


@pytest.mark.parametrize("side", run.SIDES)
def test_a_few_batches_are_trained_on_both_sides(checkpoints, monkeypatch, side):
    monkeypatch.setattr(models, "split", lambda *_: (some_letters(240), some_letters(8)))
    monkeypatch.setattr(models, "matrix_rate", lambda *_: 1e9)
    found = models.train_a_few(side, "distilbert_lora", checkpoints, "data", COMPANY, batch_size=4)
    assert found["texts_per_second"] > 0 and found["share_of_matrix_rate"] > 0
    low, high = {"original": (15, 80), "series": (1, 1.15)}[side]
    assert low <= found["padded_per_real"] < high


@pytest.mark.parametrize(("mark", "checks"), [(0.0, 1), (1.1, 8)], ids=str)
def test_a_training_to_quality_ends_at_its_mark_or_its_end(checkpoints, monkeypatch, mark, checks):
    monkeypatch.setattr(models, "split", lambda *_: (some_letters(32), some_letters(8)))
    seen = []
    monkeypatch.setattr(models, "predict", lambda model, *_: seen.append(model) or np.ones(8))
    found = models.until_mark("series", checkpoints["distilbert"], "data", COMPANY, mark, limit_minutes=10)
    assert (found["best"], found["reached"]) == (0.5, mark == 0.0)
    assert len(seen) == checks and found["seconds"] > 0  # after each of the two steps of four epochs


def test_the_watch_asks_every_so_many_steps_and_ends_beyond_its_limit_at_once():
    asked = []
    control = SimpleNamespace(should_training_stop=False)
    watch = models.Watch(lambda: asked.append(step) or 0.5, every=3, mark=0.9, limit=600)
    for step in (1, 2, 3, 4, 5):
        if step == 5:
            watch.seconds.append(601.0)
        watch.on_step_begin()
        watch.on_step_end(None, SimpleNamespace(global_step=step, max_steps=9), control)
        assert control.should_training_stop == (step == 5)
    assert asked == [3, 5] and watch.best == 0.5


def test_the_pipeline_and_the_series_score_the_same_texts_alike(checkpoints, monkeypatch):
    monkeypatch.setattr(models, "split", lambda *_: (some_letters(12), some_letters(8)))
    monkeypatch.setattr(models, "choose_computing", lambda *_: CPU)
    monkeypatch.setattr(models, "load_distilbert", decided_distilbert)
    given = {"checkpoint": checkpoints["distilbert"], "data": "data", "company": COMPANY, "number": 40}
    found = {way: models.score_texts(way, **given) for way in ("series", *models.PIPELINES)}
    assert all(each["texts_per_second"] > 0 and len(each["probability"]) == 40 for each in found.values())
    for way in models.PIPELINES:
        assert found[way]["probability"] == pytest.approx(found["series"]["probability"], abs=0.03)
    assert np.std(found["series"]["probability"]) > 0.1  # or any order of the texts would do


def test_the_series_selects_as_notebook_01_does(complaints):
    found, left = data.select(str(complaints), COMPANY)
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
    train, validation = data.split(str(complaints), COMPANY)
    assert (len(train), len(validation)) == (1600, 400) and validation["label"].mean() == 0.5


def test_both_sides_select_the_same_rows_but_for_blank_texts(complaints):
    found = {side: data.select_large(side, str(complaints), COMPANY) for side in run.SIDES}
    rows = pd.read_parquet(complaints)
    ours = rows[(rows["Company"] == COMPANY) & rows["Product"].isin(["Mortgage", "Credit card or prepaid card"])]
    blank = (ours["Consumer complaint narrative"].str.strip() == "").sum()
    assert blank > 0 and found["original"]["rows"] - found["series"]["rows"] == blank
    assert found["original"]["disk_mb"] > found["series"]["disk_mb"] > 0


@pytest.mark.slow
def test_the_large_file_is_like_the_real_one(complaints, tmp_path):
    path = tmp_path / "large.parquet"
    assert data.generate(str(complaints), COMPANY, str(path), rows=60_500) == {"rows": 60_500}
    source, made = pq.ParquetFile(complaints), pq.ParquetFile(path)
    assert made.schema_arrow.equals(source.schema_arrow.remove_metadata())
    assert made.metadata.num_rows == 60_500 and made.metadata.row_group(0).num_rows == data.GROUP
    rows = made.read().to_pandas()
    words = rows["Consumer complaint narrative"].dropna().str.count(" ")
    assert rows["Complaint ID"].is_unique and 150 < words.median() < 250 and 600 < np.percentile(words, 95) < 850
    assert (rows["Company"] == COMPANY).mean() == pytest.approx(data.COMPANY_SHARE, rel=0.2)
    before = path.stat()
    data.generate(str(complaints), COMPANY, str(path), rows=60_500)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)  # made once


# --- what comes out


def test_the_file_holds_the_machine_the_data_and_each_figure(complaints, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(run.ROWS, "data", lambda *_: [measure.figure("a", "s", [2], [1], False)])
    demo = {"DATASET": "demo/mini-x.parquet", "DISTILBERT": "demo/mini-distilbert-x", "GPT2": "demo/mini-gpt2-x"}
    monkeypatch.setattr(run.mini, "prepare", lambda *_, **__: {"01_data": demo})
    out = tmp_path / "result.json"
    monkeypatch.setattr("sys.argv", ["run.py", "--rows", "data", "--data", str(complaints), "--out", str(out)])
    run.main()
    found = json.loads(out.read_text())
    machine = {
        "processor",
        "cores",
        "threads",
        "memory_gb",
        "load_at_start",
        "instructions",
        "torch_threads",
        "device",
        "precision",
        "versions",
        "commit",
    }
    assert machine <= found["machine"].keys() and found["machine"]["versions"]["torch"].startswith("2.")
    assert found["used"]["data"] == "mini-complaints" and found["scale"] == "mini"
    assert found["used"]["models"] == {
        "distilbert": "mini-distilbert-x",
        "gpt2": "mini-gpt2-x",
        "quality": "mini-distilbert-x",
    }
    assert found["figures"][0]["ratio"] == 2 and found["figures"][0]["row"] == "data"
    assert found["settings"] == {"repeats": 3, "quality_repeats": 1, "batch_size": None, "limit": 30}
    assert measure.about(found) in capsys.readouterr().out


@pytest.mark.parametrize("reached", [True, False])
def test_a_mark_that_the_original_did_not_reach_makes_the_ratio_a_bound(monkeypatch, reached):
    ends = {"original": {"seconds": 120, "best": 0.8, "reached": reached}, "series": {"seconds": 60, "reached": True}}
    monkeypatch.setattr(measure, "in_child", lambda _, side, **__: ends[side])
    material = run.Material({"quality": "here"}, {}, "data", Path("source"), COMPANY, Path("scratch"))
    [line] = run.quality(material, run.Settings(1, 1, None, 2))
    assert line["ratio"] == 2 and ("not reached within 2.0 min, best 0.800" in line.get("note", "")) != reached
    ends["series"]["reached"] = False
    with pytest.raises(CheckFailed, match="the series did not reach"):
        run.quality(material, run.Settings(1, 1, None, 2))


def test_scorers_that_disagree_are_not_compared(monkeypatch):
    answers = {"series": [0.5, 0.5], "defaults": [0.5, 0.505], "batch 32": [0.5, 0.505]}
    child = {"texts_per_second": 1, "peak_mb": 1}
    monkeypatch.setattr(measure, "in_child", lambda _, way, **__: child | {"probability": answers[way]})
    material = run.Material(
        {"distilbert": "one"}, {"distilbert": "other"}, "data", Path("source"), COMPANY, Path("here")
    )
    lines = run.scoring(material, run.Settings(2, 1, None, 1))
    assert [line["unit"] for line in lines] == ["texts/s"] * 2 + ["texts/s", "MB"] * len(run.SIZES)
    answers["batch 32"] = [0.5, 0.6]
    with pytest.raises(
        CheckFailed, match=r"pipeline \(batch 32\) gives other probabilities than the series, by up to 0\.100"
    ):
        run.scoring(material, run.Settings(2, 1, None, 1))


def test_rows_that_differ_are_not_compared(monkeypatch, tmp_path):
    kept = {"original": 1000, "series": 900}
    child = {"seconds": 1, "peak_mb": 1, "disk_mb": 1}
    monkeypatch.setattr(measure, "in_child", lambda _, side="", **__: child | {"rows": kept.get(side)})
    material = run.Material({}, {}, "data", Path("source"), COMPANY, tmp_path)
    with pytest.raises(CheckFailed, match="other rows were selected"):
        run.selecting(material, run.Settings(1, 1, None, 1))
    kept["series"] = 995
    assert [line["unit"] for line in run.selecting(material, run.Settings(1, 1, None, 1))] == ["s", "MB", "MB on disk"]


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
