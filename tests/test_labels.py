"""How many labels it takes: draws that nest, rows that are kept and never trained twice, a stage for each draw."""

import json
import os
import signal
import subprocess
import time

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import MINI, run_mini
from toy import NAMES, ran
from toy_models import CPU, some_letters, tiny_distilbert

from driver.stages import LABELS, select, series
from helpers.complaints import words_in_common
from helpers.draws import KeptDraws
from helpers.files import OWN_DRAWS, append_line, read_lines
from helpers.machine import Computing

WAYS = ["tfidf_logreg", "embedding_logreg", "head", "lora", "full"]


# --- lines ------------------------------------------------------------------------------------------------------------


def test_a_line_that_a_kill_has_torn_is_left_out_and_the_next_one_is_whole(tmp_path):
    path = tmp_path / "folder/rows.jsonl"
    assert read_lines(path) == []
    append_line(path, {"row": 1})
    with open(path, "ab") as file:
        file.write(b'{"row": 2, "tor')
    append_line(path, {"row": 3})
    assert read_lines(path) == [{"row": 1}, {"row": 3}]
    assert path.read_bytes().startswith(b'{"row": 1}\n{"row": 2, "tor\n')


def test_words_in_common_with_a_complaint_are_found_whatever_masks_and_signs_stand_between():
    said = "On XX/XX/2021 I called XXXX about my {$120.00} escrow payment, and nobody there could tell me why it rose"
    others = ["Nothing of the kind.", said]
    quoted = "escrow: 'on 2021 I called about my 120.00 escrow payment AND nobody there could'"
    assert words_in_common(quoted, others) and not words_in_common(quoted, others[:1])
    assert not words_in_common("I called about my escrow payment", others)


def some_function(text):
    """Stand for what learns."""
    return len(text)


def other_function(text):
    """Stand for something else."""
    return len(text) + 1


CHANGES = {
    "nothing": ({}, 0),
    "a docstring": ({"functions": [some_function]}, 0),
    "code": ({"functions": [other_function]}, 1),
    "a setting": ({"settings": {"SEED": 43}}, 1),
    "the precision": ({"computing": Computing(torch.device("cpu"), torch.bfloat16)}, 1),
    "what is judged": ({"sets": {"held_out": some_letters(9)}}, 1),
    "what is labelled": ({"part": some_letters(4)}, 1),
    "the base model": ({"seed": 1}, 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_row_is_found_again_by_all_that_it_depends_on_and_by_nothing_else(tmp_path, monkeypatch, change):
    changed, new = CHANGES[change]

    def kept_draws(seed=0, part=None, **given):
        folder = tmp_path / str(seed) / "tiny-distilbert"
        folder = folder if folder.exists() else tiny_distilbert(folder.parent)
        monkeypatch.setattr("helpers.draws.place", lambda path: tmp_path / "published.jsonl")
        base = {
            "checkpoint": str(folder),
            "revision": "",
            "model": "distilbert",
            "max_tokens": 64,
        }
        usual = {"base": base, "sets": {"held_out": some_letters(10)}, "computing": CPU, "functions": [some_function]}
        kept = KeptDraws(tmp_path / "out", **usual | {"settings": {"SEED": 42}} | given)
        part = some_letters(8) if part is None else part
        row = kept.row(
            {"model": "a", "labels": 8, "draw": 0}, part, lambda: lambda name: np.linspace(0, 1, len(kept.sets[name]))
        )
        return kept, row

    kept, row = kept_draws()
    assert kept.new == 1 and "text" not in row
    right = kept.right(pd.DataFrame([row]), "held_out")
    assert right.shape == (1, 10) and right.mean() == row["held_out"]
    assert kept_draws(**changed)[0].new == new


# --- the driver -------------------------------------------------------------------------------------------------------


def test_a_stage_for_each_draw_and_one_that_needs_them_all():
    stages = {stage.name: stage for stage in series([42, 43], controls=True, draws=3)}
    draws = [f"draws/{draw}/{LABELS}" for draw in range(3)]
    assert [stages[name].values for name in draws] == [{"DRAWS": [draw]} for draw in range(3)]
    assert all(stages[name].needs == ("01_data", "02_test_data") for name in draws)
    assert set(draws) <= set(stages[LABELS].needs) and stages[LABELS].values == {"DRAWS": [0, 1, 2]}
    assert not [name for name in {stage.name for stage in series()} if LABELS in name]
    chosen = [stage.name for stage in select(list(stages.values()), [LABELS], None)]
    assert chosen == [*draws, LABELS]


def test_labels_run_where_they_are_asked_for_and_a_further_draw_alone_is_new(project):
    done = project.run("--labels", "2")
    assert ran(done.stdout)[-3:] == [f"draws/0/{LABELS}", f"draws/1/{LABELS}", LABELS], done.stderr
    assert ran(project.run("--labels", "3").stdout) == [f"draws/2/{LABELS}", LABELS]
    assert LABELS not in project.run().stdout
    refused = project.run("--labels", "2", "-p", "DRAWS", "[1]")
    assert refused.returncode == 2 and "use --labels DRAWS" in refused.stderr
    assert project.run("--labels", "-1").returncode == 2 and len(NAMES) == 9


# --- for real ---------------------------------------------------------------------------------------------------------


FEW = ["-p", "TRAIN_ROWS", "40", "-p", "TEST_ROWS", "40", "-p", "MORE_ROWS", "10", "-p", "MAX_TOKENS", "64"]
COMMAND = ["--only", LABELS, "--labels", "1", "-p", "LABELS", "[8]"]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Return the folder after the draw was killed in its last training and the same command went on, and what was kept then."""
    out = tmp_path_factory.mktemp("labels") / "mini"
    made = run_mini(out, "--only", "01_data", "02_test_data", *FEW)
    assert made.returncode == 0, made.stdout[-2000:] + made.stderr
    command = [*MINI, "--out", out, *COMMAND]
    rows = out / f"draws/0/{OWN_DRAWS}"
    with open(out / "log", "w") as log:
        run = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        until = time.monotonic() + 600
        while len(read_lines(rows)) < 4 and run.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    kept = rows.read_bytes()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return out, kept


@pytest.mark.slow
def test_what_was_finished_before_a_kill_is_not_trained_again(interrupted):
    out, kept = interrupted
    path = out / f"draws/0/{OWN_DRAWS}"
    assert 4 <= len(kept.splitlines()) <= 5 and path.read_bytes().startswith(kept)
    rows = read_lines(path)
    assert [(row["model"], row["labels"], row["draw"]) for row in rows] == [(way, 8, 0) for way in WAYS]
    assert len({row["key"] for row in rows}) == 5
    page = nbformat.read(out / f"executed/{LABELS}.ipynb", 4)
    assert "0 of 5 rows are new" in "".join(o.get("text", "") for c in page.cells for o in c.get("outputs", []))


@pytest.mark.slow
def test_the_curve_holds_every_draw_without_text_and_the_keyword_rule_needs_no_label(interrupted):
    out, _ = interrupted
    result = json.loads((out / f"results/{LABELS}.json").read_text())
    assert [row["model"] for row in result["curve"]] == WAYS
    assert set(result["curve"][0]) >= {"model", "labels", "draw", "accuracy", "precision", "cpu"}
    assert all(0.3 < row["accuracy"] < 1 for row in result["curve"])
    by_name = {row["model"]: row for row in result["summary"]}
    assert by_name.keys() == {*WAYS, "keyword"} and by_name["keyword"]["labels"] == 0
    assert all(row["interval"][0] <= row["accuracy"] <= row["interval"][1] for row in by_name.values())
    assert {row["one"] for row in result["comparisons"]} == set(WAYS[1:]) and len(result["sentences"]) == 4
    assert max(map(len, (out / f"draws/0/{OWN_DRAWS}").read_text().splitlines())) < 700


@pytest.mark.slow
def test_a_draw_made_anew_comes_out_the_same(interrupted):
    out, _ = interrupted
    path = out / f"draws/0/{OWN_DRAWS}"
    before = [row | {"seconds": 0} for row in read_lines(path)]
    path.unlink()
    assert subprocess.run([*MINI, "--out", out, *COMMAND, "--force"], capture_output=True).returncode == 0
    assert [row | {"seconds": 0} for row in read_lines(path)] == before
