"""`classify.py`: one row for each row, whatever is killed; what is not confident, unlike or empty goes to a person; nothing is executed."""

import argparse
import csv
import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from test_handover import hand_over, tables
from toy_models import CARD, LABELS, MORTGAGE, tiny_distilbert

import classify
from driver import routing
from helpers.files import write_whole
from helpers.handover import FACTS, export, load_for_use
from helpers.machine import Computing

ROOT = Path(__file__).parents[1]
TEXT, PRODUCT = "Consumer complaint narrative", "Product"
COMMAND = [sys.executable, ROOT / "classify.py"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Return the folder of a merged tiny model."""
    out = tmp_path_factory.mktemp("run")
    hand_over(out, "a", "distilbert", tiny_distilbert(tmp_path_factory.mktemp("bases")))
    export(out, "a", tables(), [])
    return out / "models/a/merged"


def write_rows(path, number, label=True):
    """Write so many complaints, some empty, some about something else, and return their ids."""
    texts = [f"{CARD if i % 2 else MORTGAGE} " * (1 + i % 4) + str(i) for i in range(number)]
    texts[3::50] = [""] * len(texts[3::50])
    products = [LABELS[i % 2] for i in range(number)]
    products[::10] = ["Student loan"] * len(products[::10])
    rows = pd.DataFrame({"Complaint ID": [7_000 + i for i in range(number)], TEXT: texts})
    if label:
        rows[PRODUCT] = products
    rows.to_csv(path, index=False) if path.suffix == ".csv" else rows.to_parquet(path)
    return [str(value) for value in rows["Complaint ID"]]


def run(model, file, out, *more, **given):
    return subprocess.run([*COMMAND, model, file, "--out", out, *more], capture_output=True, text=True, **given)


@pytest.mark.slow
def test_killed_at_random_moments_each_row_is_there_once_as_in_an_undisturbed_run(model, tmp_path):
    ids = write_rows(tmp_path / "rows.csv", 2_000)
    assert run(model, tmp_path / "rows.csv", tmp_path / "whole.parquet").returncode == 0
    killed, chance = 0, random.Random(5)
    while killed < 3:
        process = subprocess.Popen(
            [*COMMAND, model, tmp_path / "rows.csv", "--out", tmp_path / "out.parquet"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        parts = tmp_path / ".out.parquet.parts"
        until = time.monotonic() + 120
        while len(list(parts.glob("[0-9]*.parquet"))) <= killed and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(chance.random() / 5)
        process.kill()
        process.communicate()
        killed += 1
        assert not (tmp_path / "out.parquet").exists() or not parts.exists()
    done = run(model, tmp_path / "rows.csv", tmp_path / "out.parquet")
    assert done.returncode == 0, done.stderr
    found, whole = (pd.read_parquet(tmp_path / name) for name in ("out.parquet", "whole.parquet"))
    pd.testing.assert_frame_equal(found, whole)
    assert found["id"].tolist() == ids and list(found.columns) == routing.COLUMNS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "rows.csv", "whole.parquet"]


def options(model, file, out, **changed):
    """Return the options of a command line as parse does."""
    given = {"at_least": 0.95, "prior": 0.5, "text_column": TEXT, "label_column": None, "id_column": None}
    given |= {"encoding": "utf-8", "base": "", "device": "cpu", "precision": "float32", "cluster": ""}
    return argparse.Namespace(model=model, file=file, out=out, **given | changed)


def test_what_is_scored_is_not_scored_again_and_another_setting_starts_anew(model, tmp_path, monkeypatch):
    write_rows(tmp_path / "rows.parquet", 1_250)
    scored = []
    answers = routing.Trained.answers
    monkeypatch.setattr(
        routing.Trained, "answers", lambda self, texts, c: scored.append(len(texts)) or answers(self, texts, c)
    )
    monkeypatch.setattr(routing, "write", lambda *_: 1 / 0)
    given = options(model, tmp_path / "rows.parquet", tmp_path / "out.csv")
    for expected in ([490, 490, 245], []):
        with pytest.raises(ZeroDivisionError):
            routing.run(given)
        assert scored == expected
        del scored[:]
    for changed, expected in (({"at_least": 0.9, "prior": 0.2}, []), ({"encoding": "cp1252"}, [490, 490, 245])):
        with pytest.raises(ZeroDivisionError):
            routing.run(options(model, tmp_path / "rows.parquet", tmp_path / "out.csv", **changed))
        assert scored == expected


def test_parts_that_would_be_computed_otherwise_than_those_kept_are_refused(tmp_path):
    given = options("model", "file", "out")
    assert routing.agreed_computing(given, tmp_path) == routing.agreed_computing(given, tmp_path)
    with pytest.raises(ValueError, match=r"would be computing cpu in bfloat16.*computing cpu in float32.*--precision"):
        routing.agreed_computing(options("model", "file", "out", precision="bfloat16"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["computing cpu in float32"]


def test_the_summary_counts_what_is_right_and_what_is_of_neither_class(model, tmp_path, capsys):
    write_rows(tmp_path / "rows.csv", 300)
    routing.run(options(model, tmp_path / "rows.csv", tmp_path / "out.csv"))
    said = capsys.readouterr().out
    rows = pd.read_csv(tmp_path / "out.csv", keep_default_na=False)
    assert len(rows) == 300 and (rows["why"] == "no text").sum() == 6 and set(rows["route"]) <= {*LABELS, "a person"}
    assert re.search(r"by --at-least: \d+% at 0.8, \d+% at 0.9, \d+% at 0.95, \d+% at 0.98\.", said)
    assert "invented complaints" not in said  # of "toy" data, as the facts say
    assert "Of 30 rows about other products," in said and "Of the rows of both products, accuracy" not in said
    assert (
        "265 complaints" in said.replace("264 complaints", "265 complaints")
        and f"Written: {tmp_path / 'out.csv'}" in said
    )
    routed = rows[rows["why"] == ""]
    assert (routed["route"] == routed["product"]).all() and (routed["probability"].astype(float) >= 0.95).all()


def test_without_labels_and_ids_a_row_is_its_place(model, tmp_path, capsys):
    pd.DataFrame({"words": [CARD, None, MORTGAGE]}).to_csv(tmp_path / "mine.csv", index=False)
    routing.run(options(model, tmp_path / "mine.csv", tmp_path / "out.parquet", text_column="words"))
    rows = pq.read_table(tmp_path / "out.parquet").to_pandas()
    assert (
        rows["id"].tolist() == ["0", "1", "2"]
        and rows["why"].tolist()[1] == "no text"
        and "accuracy" not in capsys.readouterr().out
    )


def test_no_cell_of_a_csv_starts_like_a_formula(model, tmp_path):
    rows = pd.DataFrame({"Complaint ID": ["=1+1", "+2", "-3", "@x", "plain"], TEXT: ["=cmd|' /c calc'!A0"] * 5})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    routing.run(options(model, tmp_path / "rows.csv", tmp_path / "out.csv"))
    with open(tmp_path / "out.csv", newline="") as file:
        cells = [row[0] for row in csv.reader(file)][1:]
    assert cells == ["'=1+1", "'+2", "'-3", "'@x", "plain"]


def test_another_class_ratio_moves_the_probabilities_as_bayes_says(model):
    trained = load_for_use(model)
    rows = pd.DataFrame({"id": ["a", "b"], "text": [CARD, MORTGAGE], "label": [None, None]})
    cpu = Computing(
        routing.choose_computing("cpu", "float32").device, routing.choose_computing("cpu", "float32").precision
    )
    scores, labels = routing.score(rows, trained, cpu), trained.facts["labels"]
    even, skewed = (routing.route(scores, labels, options("", "", "", prior=prior)) for prior in (0.5, 0.8))

    def of_class_1(routed):
        return [
            p if name == LABELS[1] else 1 - p for name, p in zip(routed["product"], routed["probability"], strict=True)
        ]

    for before, after in zip(of_class_1(even), of_class_1(skewed), strict=True):
        assert after == pytest.approx(before * 0.8 / (before * 0.8 + (1 - before) * 0.2))
    assert scores["truth"].isna().all()


REFUSED = {
    "no such column": (["--text-column", "words"], "Found: 3 column(s): Complaint ID, Consumer complaint"),
    "no such id": (["--id-column", "case"], "lacks the column(s) ['case']"),
    "no such label": (["--label-column", "desk"], "classify.py: --text-column NAME"),
    "itself": ([], "would be read as complaints"),
    "no ending": ([], "must end in .csv or .parquet"),
    "no probability": (["--at-least", "95"], "a probability from 0.5 to 1"),
    "no model": ([], "is no model of this project"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_its_fix_and_nothing_is_written(model, tmp_path, case, monkeypatch, capsys):
    more, words = REFUSED[case]
    write_rows(tmp_path / "rows.csv", 5)
    out = tmp_path / {"no ending": "out.txt", "itself": "rows.csv"}.get(case, "out.csv")
    folder = tmp_path if case == "no model" else model
    monkeypatch.setattr(sys, "argv", ["classify.py", *map(str, [folder, tmp_path / "rows.csv", "--out", out, *more])])
    try:
        status = classify.main()
    except SystemExit as error:
        status = error.code
    assert status == 2 and words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]  # as it was


def test_an_unexported_folder_says_what_it_lacks(model, tmp_path, capsys):
    write_rows(tmp_path / "rows.csv", 5)
    plain = tmp_path / "plain"
    plain.mkdir()
    for path in model.iterdir():
        if path.name != "unlike.safetensors":
            write_whole(plain / path.name, path.read_bytes())
    routing.run(options(plain, tmp_path / "rows.csv", tmp_path / "out.csv"))
    facts = json.loads((plain / FACTS).read_text())
    (plain / FACTS).write_text(json.dumps(facts | {"data": "mini-complaints"}))
    routing.run(options(plain, tmp_path / "rows.csv", tmp_path / "out.csv"))
    assert "invented complaints: what it says of real ones means nothing" in capsys.readouterr().out
    routing.run(options(plain, tmp_path / "rows.csv", tmp_path / "out.csv"))
    assert "--out RUN --export NAME" in capsys.readouterr().out and json.loads((plain / FACTS).read_text())["labels"]
    (plain / FACTS).unlink()  # anybody's checkpoint with two classes
    routing.run(options(plain, tmp_path / "rows.csv", tmp_path / "out.csv"))
    assert len(pd.read_csv(tmp_path / "out.csv")) == 5
