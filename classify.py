#!/usr/bin/env python3
"""Classify a file of complaints with a trained model and say where each goes: python classify.py MODEL FILE --out routed.csv

MODEL is models/NAME of a run, or its merged/; FILE is any complaint file that the series reads, labelled or not. The output
has a row for each row of the file. A run that was killed goes on with the same command, and --cluster scores on many machines.
"""

import argparse
import json
import logging
import platform
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "notebooks"))  # for helpers

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from scipy.special import expit, logit
from tqdm import tqdm

from driver import Refused, cluster
from helpers.complaints import labels_of
from helpers.files import digest, remove_leftovers, sha256, write_whole
from helpers.handover import Trained, load_for_use, scored, weights_hash
from helpers.machine import Computing, choose_computing
from helpers.scores import logits
from helpers.sources import NARRATIVE, PRODUCT, SourceError, read

PART = 500  # rows that are scored and kept together; no batch crosses two parts, so it does not matter who scores them
PERSON = "a person"
COLUMNS = ["id", "product", "probability", "route", "why"]
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell starts that a spreadsheet would compute
OTHER = -1  # a label that is neither class


def parse() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description="Classify a file of complaints and say where each goes.")
    add = parser.add_argument
    add("model", type=Path, help="a folder models/NAME, or a merged checkpoint: python run_all.py --export NAME")
    add("file", type=Path, help="CSV, JSON, JSON lines or Parquet, zipped or not, or a folder of these")
    add("--out", type=Path, required=True, help="the file to write, .csv or .parquet")
    add("--at-least", type=float, default=0.95, help="the probability from which on no person has to look (.95)")
    add("--prior", type=float, default=0.5, help="the share of class 1 among your complaints, if it is not one half")
    add("--text-column", default=NARRATIVE, help=f"the column of the texts ({NARRATIVE})")
    add("--label-column", default=PRODUCT, help=f"a column of known products, to count what is right ({PRODUCT})")
    add("--id-column", default="Complaint ID", help="a column of ids (Complaint ID); without it, the place in the file")
    add("--encoding", default="utf-8", help="of text without a byte-order mark (utf-8)")
    add("--base", default="", help="the folder of an adapter's base model, if it is not found by name")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--precision", default="auto", help="auto, float32, bfloat16 or float16")
    add("--cluster", metavar="ADDRESS", default="", help="score on this Ray cluster, or the one here: auto")
    options = parser.parse_args()
    if options.out.suffix not in (".csv", ".parquet"):
        parser.error(f"--out {options.out}: the name must end in .csv or .parquet")
    if not 0.5 <= options.at_least <= 1:
        parser.error(f"--at-least {options.at_least}: a probability from 0.5 to 1")
    if not 0 < options.prior < 1:
        parser.error(f"--prior {options.prior}: a share between 0 and 1")
    return options


def parts(options: argparse.Namespace) -> Iterator[pd.DataFrame]:
    """Yield the file's rows as tables of PART rows, the last one shorter, with columns id, text and label, as text or None."""
    columns = {"text": options.text_column, "label?": options.label_column, "own?": options.id_column}
    waiting: pa.Table | None = None
    for table in read(options.file, columns, parameter="FILE", encoding=options.encoding):
        waiting = pa.concat_tables([waiting, table]) if waiting is not None else table
        while len(waiting) >= PART:
            yield as_frame(waiting[:PART])
            waiting = waiting[PART:]
    if waiting is not None and len(waiting):
        yield as_frame(waiting)


def as_frame(table: pa.Table) -> pd.DataFrame:
    """Return a part's rows; their id is the file's own where it has one, else the place, from 0."""
    rows = table.to_pandas()
    own = rows["own?"].where(rows["own?"].notna(), rows["id"].astype(str))
    return pd.DataFrame({"id": own.astype(str), "text": rows["text"].fillna(""), "label": rows["label?"]})


def route(rows: pd.DataFrame, trained: Trained, options: argparse.Namespace, computing: Computing) -> pd.DataFrame:
    """Return a part's output: COLUMNS, and `truth`, the label's id where the file tells it, OTHER for another product."""
    labels = trained.facts["labels"]
    told = rows["text"].str.strip() != ""
    probability, away = np.full(len(rows), np.nan), np.zeros(len(rows))
    if told.any():
        probability[told], away[told] = trained.answers(rows["text"][told].tolist(), computing)
        probability[told] = expit(logits(probability[told]) + logit(options.prior))
    predicted = (probability >= 0.5).astype(int)
    sure = np.where(predicted == 1, probability, 1 - probability)
    why = np.select(
        [~told, away > 1, ~(sure >= options.at_least)], ["no text", "unlike the training", "not confident"], ""
    )
    product = np.where(told, np.array(labels)[predicted], None)
    known = labels_of(trained.facts["classes"] or {label: [label] for label in labels})
    truth = rows["label"].map(lambda name: known.get(name.strip(), OTHER), na_action="ignore")
    made = {"id": rows["id"], "product": product, "probability": sure, "route": np.where(why == "", product, PERSON)}
    return pd.DataFrame(made | {"why": why, "truth": truth.astype("Int64")})


def part_file(folder: Path, place: int) -> Path:
    """Return where the output of a part is kept."""
    return folder / f"{place:07d}.parquet"


def score_part(
    rows: pd.DataFrame, path: Path, trained: Trained, options: argparse.Namespace, computing: Computing
) -> None:
    """Write a part's output, whole or not at all."""
    write_whole(path, partial(route(rows, trained, options, computing).to_parquet, index=False))


def agreed_computing(options: argparse.Namespace, folder: Path) -> Computing:
    """Return what all parts are computed on and in; ValueError where those kept were computed otherwise."""
    computing = choose_computing(options.device, options.precision)
    note = folder / f"computing {computing}"
    for _ in range(2):  # before and after it is said: another machine may have said something else meanwhile
        if others := {path.name for path in folder.glob("computing *")} - {note.name}:
            note.unlink(missing_ok=True)
            raise ValueError(
                f"Here parts would be {note.name}, and other parts are {', '.join(others)}. Pass the same --device and --precision everywhere."
            )
        note.touch()
    return computing


def score_parts(trained: Trained, options: argparse.Namespace, folder: Path) -> list[Path]:
    """Score each part that is not kept in the folder yet, and return the parts' files in order."""
    computing = agreed_computing(options, folder)
    total = sum(len(rows) for rows in parts(options))  # a first pass, which finds what is wrong with the file, too
    made = []
    print(f"{total:,} rows on {computing}.", flush=True)
    with tqdm(total=total, unit="row", mininterval=1) as shown:
        for place, rows in enumerate(parts(options)):
            made.append(part_file(folder, place))
            if made[-1].exists():
                shown.initial += len(rows)
            else:
                score_part(rows, made[-1], trained, options, computing)
            shown.update(len(rows))
    return made


class Scorer:
    """Scores parts on a node of a cluster with a model that is loaded once; a part is there whole or not at all."""

    def __init__(self, options: argparse.Namespace, folder: Path, weights: str, wanted: dict[str, str]) -> None:
        """Load the model; ValueError where this machine has another one of that name, other code or other packages."""
        cluster.require(wanted)
        if weights_hash(options.model) != weights:
            raise ValueError(f"{platform.node()} has another model at {options.model}")
        self.options, self.folder = options, folder
        self.trained = load_for_use(options.model, options.base)
        self.computing = agreed_computing(options, folder)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Score the parts at the batch's places; return how many rows each has."""
        rows = [pd.read_parquet(given_file(self.folder, place)) for place in batch["item"]]
        for place, part in zip(batch["item"], rows, strict=True):
            score_part(part, part_file(self.folder, place), self.trained, self.options, self.computing)
        return {"rows": np.array([len(part) for part in rows])}


def given_file(folder: Path, place: int) -> Path:
    """Return where a part's rows wait for a node of a cluster."""
    return folder / f"given-{place:07d}.parquet"


def score_on_cluster(options: argparse.Namespace, folder: Path, weights: str) -> list[Path]:
    """Score each part that is not kept in the folder yet on the nodes of a Ray cluster, and return the parts' files in order.

    `weights` is the model's hash, by which a node knows that it has the same.
    """
    folder = folder.resolve()  # nodes have other working directories
    base = str(Path(options.base).resolve()) if Path(options.base).is_dir() and options.base else options.base
    asked = cluster.connect(options.cluster, folder, show=False)
    asked |= {"num_gpus": 0} if options.device == "cpu" else {}
    import ray

    options = argparse.Namespace(**vars(options) | {"model": options.model.resolve(), "base": base})

    made: list[Path] = []
    waiting: dict[int, int] = {}
    for place, rows in enumerate(parts(options)):
        made.append(part_file(folder, place))
        if not made[-1].exists():
            waiting[place] = len(rows)
            write_whole(given_file(folder, place), partial(rows.to_parquet, index=False))
    there = ray.cluster_resources()
    models = int(there["GPU"] if asked["num_gpus"] else there["CPU"] // asked["num_cpus"])
    print(f"{sum(waiting.values()):,} rows in {len(waiting):,} parts for up to {models} models.", flush=True)
    if waiting:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars, context.raise_original_map_exception = False, True
        context.max_consecutive_actor_init_deaths = cluster.RETRIES
        scored_parts = ray.data.from_items(list(waiting), override_num_blocks=len(waiting)).map_batches(
            Scorer,
            fn_constructor_args=(options, folder, weights, cluster.identity()),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=models),
            max_restarts=cluster.RETRIES,
            max_task_retries=cluster.RETRIES,
            **asked,
        )
        with tqdm(total=sum(waiting.values()), unit="row", mininterval=1) as shown:
            try:
                for batch in scored_parts.iter_batches(batch_size=None):
                    shown.update(int(batch["rows"].sum()))
            except ray.exceptions.RayError as error:
                raise ValueError(cluster.last_line(error)) from None
    return made


def join(made: list[Path], out: Path) -> None:
    """Write the parts as one file, whole or not at all; in a CSV no cell starts like a formula."""

    def as_csv(path: Path) -> None:
        with open(path, "w", newline="", encoding="utf-8") as file:
            file.write(",".join(COLUMNS) + "\n")
            for part in made:
                rows = pd.read_parquet(part, columns=COLUMNS)
                text = rows.select_dtypes(exclude="number").columns
                rows[text] = rows[text].map(lambda cell: f"'{cell}" if str(cell).startswith(FORMULA) else cell)
                rows.to_csv(file, index=False, header=False)

    def as_parquet(path: Path) -> None:
        schema = pq.read_schema(made[0]) if made else pa.schema([(name, pa.string()) for name in COLUMNS])
        schema = pa.schema([schema.field(name) for name in COLUMNS])
        schema = schema.set(1, pa.field("product", pa.string()))  # a part without any text has none
        with pq.ParquetWriter(path, schema) as writer:
            for part in made:
                writer.write_table(pq.read_table(part, columns=COLUMNS).cast(schema))

    write_whole(out, as_csv if out.suffix == ".csv" else as_parquet)


def summary(made: list[Path], labels: list[str]) -> list[str]:
    """Return what came of it in lines: rows by route, and, where the file tells products, what is right."""
    routes: dict[str, int] = {}
    right = sure_right = routed = known = others = others_routed = 0
    for part in made:
        rows = pd.read_parquet(part)
        for key, count in (
            (rows["route"] + rows["why"].map(lambda why: f", {why}" if why else "")).value_counts().items()
        ):
            routes[key] = routes.get(key, 0) + int(count)
        to_desk = rows["why"] == ""
        others += int((rows["truth"] == OTHER).sum())
        others_routed += int(((rows["truth"] == OTHER) & to_desk).sum())
        ours = rows[rows["truth"].isin([0, 1]) & rows["product"].notna()]
        correct = ours["product"] == ours["truth"].map(dict(enumerate(labels)))
        known, right = known + len(ours), right + int(correct.sum())
        routed += int((ours["why"] == "").sum())
        sure_right += int((correct & (ours["why"] == "")).sum())
    lines = [f"{count:10,}  to {route}" for route, count in sorted(routes.items(), key=lambda item: -item[1])]
    if known:
        lines.append(f"Of the rows of both products, {scored('all', right, known)}.")
        if routed:
            lines.append(
                f"Routed without a person: {routed / known:.1%} of them; {scored('their', sure_right, routed)}."
            )
    if others:
        lines.append(f"Of {others:,} rows about other products, {others_routed / others:.1%} were routed to a desk.")
    return lines


def run(options: argparse.Namespace) -> None:
    """Classify the file; ValueError, OSError or Timeout says what does not fit."""
    trained = load_for_use(options.model, options.base)
    if not trained.unlike:
        print(
            "This folder holds no temperature and nothing about unlike texts: python run_all.py --export NAME adds both."
        )
    given: dict[str, Any] = {
        name: str(value) for name, value in vars(options).items() if name not in ("file", "model", "out", "cluster")
    }
    weights = weights_hash(options.model)
    key = digest([weights, sha256(options.file), given, PART, sha256(Path(__file__))])
    folder = options.out.with_name(f".{options.out.name}.parts")
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock", timeout=0):
        remove_leftovers(folder)
        about = folder / "about.json"
        if not about.exists() or json.loads(about.read_text()) != key:
            for path in [*folder.glob("*.parquet"), *folder.glob("computing *")]:  # of another file, model or setting
                path.unlink()
            write_whole(about, json.dumps(key))
        made = score_on_cluster(options, folder, weights) if options.cluster else score_parts(trained, options, folder)
        join(made, options.out)
        print("\n".join(summary(made, trained.facts["labels"])))
    shutil.rmtree(folder)
    print(f"Written: {options.out}")


def main() -> int:
    """Run, and return the exit status: 0 done, 2 refused, 130 interrupted."""
    options = parse()
    try:
        run(options)
        return 0
    except Timeout:
        print(
            f"classify.py: another run is writing {options.out}. Wait for it, or give another --out.", file=sys.stderr
        )
    except (Refused, SourceError, ValueError, OSError) as error:
        print(f"classify.py: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nInterrupted. What is scored is kept; to go on, type the same command again.", file=sys.stderr)
        return 130
    return 2


if __name__ == "__main__":
    sys.exit(main())
