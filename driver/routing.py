"""A trained model's answers to a file of complaints: scored in parts, on this machine or a cluster, then routed and written."""

import argparse
import contextlib
import json
import logging
import platform
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from scipy.special import expit, logit
from tqdm import tqdm

from driver import Refused, cluster
from helpers.complaints import labels_of
from helpers.files import digest, is_mini, remove_leftovers, sha256, write_whole
from helpers.handover import Trained, load_for_use, scored, weights_hash
from helpers.machine import Computing, choose_computing
from helpers.scores import logits
from helpers.sources import ID, PRODUCT, read

PART = 500  # rows that are scored and kept together; no batch crosses two parts, so it does not matter who scores them
PERSON = "a person"
COLUMNS = ["id", "product", "probability", "distance", "route", "why"]
SHOWN = (0.8, 0.9, 0.95, 0.98)  # thresholds of which the summary says what they would route
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell starts that a spreadsheet would compute
OTHER = -1  # a label that is neither class
# on these options the scores of a part depend; on --at-least and --prior only where its rows go
SCORED_BY = ("text_column", "label_column", "id_column", "encoding", "base", "device", "precision")


def parts(options: argparse.Namespace) -> Iterator[pd.DataFrame]:
    """Yield the file's rows as tables of PART rows, the last one shorter, with columns id, text and label, as text or None."""
    columns = {"text": options.text_column}
    for ours, named, usual in (("label", options.label_column, PRODUCT), ("own", options.id_column, ID)):
        columns[ours if named else f"{ours}?"] = named or usual  # one that is named must be there
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
    rows = table.to_pandas().rename(columns={"own?": "own", "label?": "label"})
    own = rows["own"].where(rows["own"].notna(), rows["id"].astype(str))
    return pd.DataFrame({"id": own.astype(str), "text": rows["text"].fillna(""), "label": rows["label"]})


def score(rows: pd.DataFrame, trained: Trained, computing: Computing) -> pd.DataFrame:
    """Return what the model says of a part: id, p (of class 1; none without a text), distance, and the label's id as truth.

    The truth is there where the file tells it, OTHER for another product.
    """
    told = rows["text"].str.strip() != ""
    probability, distance = np.full((2, len(rows)), np.nan)
    if told.any():
        probability[told], distance[told] = trained.answers(rows["text"][told].tolist(), computing)
    known = labels_of(trained.facts["classes"] or {label: [label] for label in trained.facts["labels"]})
    truth = rows["label"].map(lambda name: known.get(name.strip(), OTHER), na_action="ignore")
    made = {"id": rows["id"], "p": probability, "distance": distance, "truth": truth.astype("Int64")}
    return pd.DataFrame(made)


def route(scores: pd.DataFrame, labels: list[str], options: argparse.Namespace) -> pd.DataFrame:
    """Return a part's output, COLUMNS, from what the model says of it."""
    told = scores["p"].notna()
    probability = expit(logits(scores["p"].to_numpy()) + logit(options.prior))
    predicted = (probability >= 0.5).astype(int)
    sure = np.where(predicted == 1, probability, 1 - probability)
    why = np.select(
        [~told, scores["distance"] > 1, ~(sure >= options.at_least)],
        ["no text", "unlike the training", "not confident"],
        "",
    )
    product = np.where(told, np.array(labels)[predicted], None)
    made = {"id": scores["id"], "product": product, "probability": sure, "distance": scores["distance"]}
    return pd.DataFrame(made | {"route": np.where(why == "", product, PERSON), "why": why})


def part_file(folder: Path, place: int) -> Path:
    """Return where the scores of a part are kept."""
    return folder / f"{place:07d}.parquet"


def score_part(rows: pd.DataFrame, path: Path, trained: Trained, computing: Computing) -> None:
    """Write a part's scores, whole or not at all."""
    write_whole(path, partial(score(rows, trained, computing).to_parquet, index=False))


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
    sizes = [len(rows) for rows in parts(options)]  # a first pass, which finds what is wrong with the file, too
    made = [part_file(folder, place) for place in range(len(sizes))]
    there = [path.exists() for path in made]
    kept = sum(size for size, is_there in zip(sizes, there, strict=True) if is_there)
    print(f"{sum(sizes):,} rows on {computing}; {kept:,} of them are kept from before.", flush=True)
    with tqdm(total=sum(sizes), initial=kept, unit="row", mininterval=1) as shown:
        for path, is_there, rows in zip(made, there, parts(options), strict=True):
            if not is_there:
                score_part(rows, path, trained, computing)
                shown.update(len(rows))
    return made


class Scorer:
    """Scores parts on a node of a cluster with a model that is loaded once; a part is there whole or not at all."""

    def __init__(self, options: argparse.Namespace, folder: Path, weights: str, wanted: dict[str, str]) -> None:
        """Load the model; ValueError where this machine has another one of that name, other code or other packages."""
        cluster.require(wanted)
        if weights_hash(options.model) != weights:
            raise ValueError(f"{platform.node()} has another model at {options.model}")
        self.folder = folder
        self.trained = load_for_use(options.model, options.base)
        self.computing = agreed_computing(options, folder)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Score the parts at the batch's places; return how many rows each has."""
        rows = [pd.read_parquet(given_file(self.folder, place)) for place in batch["item"]]
        for place, part in zip(batch["item"], rows, strict=True):
            score_part(part, part_file(self.folder, place), self.trained, self.computing)
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


@contextlib.contextmanager
def sole_writer(folder: Path, out: Path) -> Iterator[None]:
    """Hold the folder of parts; Refused when another run does."""
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise Refused(f"another run is writing {out}. Wait for it, or give another --out.") from None


def write(made: list[Path], labels: list[str], options: argparse.Namespace) -> Counter:
    """Route the parts, write them as one file, whole or not at all, and return what they hold, as `count` counts it.

    In a CSV no cell starts like a formula.
    """
    found: Counter = Counter()

    def routed() -> Iterator[pd.DataFrame]:
        for part in made:
            scores = pd.read_parquet(part)
            rows = route(scores, labels, options)
            found.update(count(rows, scores["truth"], labels))
            yield rows

    def as_csv(path: Path) -> None:
        with open(path, "w", newline="", encoding="utf-8") as file:
            file.write(",".join(COLUMNS) + "\n")
            for rows in routed():
                text = rows.select_dtypes(exclude="number").columns
                rows[text] = rows[text].map(lambda cell: f"'{cell}" if str(cell).startswith(FORMULA) else cell)
                rows.to_csv(file, index=False, header=False)

    def as_parquet(path: Path) -> None:
        numbers = ("probability", "distance")
        schema = pa.schema([(name, pa.float64() if name in numbers else pa.string()) for name in COLUMNS])
        with pq.ParquetWriter(path, schema) as writer:
            for rows in routed():
                writer.write_table(pa.Table.from_pandas(rows, schema, preserve_index=False))

    write_whole(options.out, as_csv if options.out.suffix == ".csv" else as_parquet)
    return found


def count(rows: pd.DataFrame, truth: pd.Series, labels: list[str]) -> dict[Any, int]:
    """Return how many rows a part has: of each route and why, by what other thresholds would route, and by the file's own labels."""
    to_desk, alike = rows["why"] == "", rows["why"].isin(["", "not confident"])
    ours, other = truth.isin([0, 1]) & rows["product"].notna(), truth == OTHER
    right = ours & (rows["product"] == truth.map(dict(enumerate(labels))))
    found: dict[Any, Any] = {
        "rows": len(rows),
        "ours": ours,
        "right": right,
        "other": other,
        "other to a desk": other & to_desk,
    }
    found |= {"ours to a desk": ours & to_desk, "right to a desk": right & to_desk}
    found |= {threshold: alike & (rows["probability"] >= threshold) for threshold in SHOWN}
    return rows.groupby(["route", "why"]).size().to_dict() | {name: int(np.sum(each)) for name, each in found.items()}


def summary(found: Counter) -> list[str]:
    """Return what came of it in lines: rows by route, other thresholds, and, where the file tells products, what is right."""
    number, known, routed, others = (found[name] for name in ("rows", "ours", "ours to a desk", "other"))
    routes = [(key, rows) for key, rows in found.most_common() if isinstance(key, tuple)]
    lines = [f"{rows:10,} ({rows / number:4.0%})  to {', '.join(filter(None, key))}" for key, rows in routes]
    if number:
        shares = ", ".join(f"{found[threshold] / number:.0%} at {threshold:g}" for threshold in SHOWN)
        lines.append(f"Without a person would go, by --at-least: {shares}.")
    if known:
        lines.append(f"Of the rows of both products, {scored('all', found['right'], known)}.")
    if routed:
        told = scored("their", found["right to a desk"], routed)
        lines.append(f"Routed without a person: {routed / known:.1%} of them; {told}.")
    if others:
        share = found["other to a desk"] / others
        lines.append(f"Of {others:,} rows about other products, {share:.1%} were routed to a desk.")
    return lines


def run(options: argparse.Namespace) -> None:
    """Classify the file; Refused, ValueError or OSError says what does not fit."""
    trained = load_for_use(options.model, options.base)
    if not trained.unlike:
        print(
            "This folder holds no temperature and nothing about unlike texts; what has both: python run_all.py --out RUN --export NAME"
        )
    if is_mini(trained.facts["data"]):
        print("This model was trained on the demo's invented complaints: what it says of real ones means nothing.")
    given = {name: str(vars(options)[name]) for name in SCORED_BY}
    weights = weights_hash(options.model)
    key = digest([weights, sha256(options.file), given, PART, sha256(Path(__file__))])
    folder = options.out.with_name(f".{options.out.name}.parts")
    folder.mkdir(parents=True, exist_ok=True)
    with sole_writer(folder, options.out):
        remove_leftovers(folder)
        about = folder / "about.json"
        if not about.exists() or json.loads(about.read_text()) != key:
            for path in [*folder.glob("*.parquet"), *folder.glob("computing *")]:  # of another file, model or setting
                path.unlink()
            write_whole(about, json.dumps(key))
        try:
            made = (
                score_on_cluster(options, folder, weights) if options.cluster else score_parts(trained, options, folder)
            )
        except BaseException:
            if not any(folder.glob("[0-9]*.parquet")):
                shutil.rmtree(folder)
            raise
        print("\n".join(summary(write(made, trained.facts["labels"], options))))
    shutil.rmtree(folder)
    print(f"Written: {options.out}")
