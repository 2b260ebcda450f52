"""The rows of the table: what is run side by side, and what is told of it. Only the processes that this starts load torch."""

import time
from argparse import Namespace
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from benchmarks import measure, selecting, whole_run
from benchmarks.generate import ROWS, generate

SIDES = ("study", "series")
MARK = 0.94  # accuracy on validation, of the time to quality
SIZES = (200, 2_000, 20_000)  # letters


def of(runs: dict[str, list[dict]], name: str) -> list[list[float]]:
    """Return the values of that name, the study's and then the series'."""
    return [[run[name] for run in runs[side]] for side in SIDES]


def training(options: Namespace) -> list[dict]:
    """Return the figures of the three trainings."""
    figures = []
    for kind in ("distilbert_lora", "gpt2_lora", "gpt2_qlora"):
        given = {"kind": kind, "checkpoint": options.models[kind.partition("_")[0]], "data": options.data}
        given |= {"company": options.company, "batch_size": options.batch_size}
        train = partial(measure.in_child, "benchmarks.training:train_a_few", **given)
        runs = measure.side_by_side(kind, {side: partial(train, side=side) for side in SIDES}, options.repeats)
        name = f"training {kind}"
        figures += [
            measure.figure(name, "texts/s", *of(runs, "texts_per_second"), more_is_better=True),
            measure.figure(name, "MB", *of(runs, "peak_mb"), more_is_better=False),
            measure.figure(name, "tokens/token", *of(runs, "padded_per_real"), more_is_better=False),
            measure.figure(name, "of GEMM rate", *of(runs, "share_of_matrix_rate"), more_is_better=True),
        ]
    return figures


def quality(options: Namespace) -> list[dict]:
    """Return the seconds of training to the mark; a training that did not reach it makes the ratio a lower bound."""
    given = {"checkpoint": options.models["quality"], "data": options.data, "company": options.company}
    train = partial(measure.in_child, "benchmarks.quality:until_mark", **given, mark=MARK, limit_minutes=options.limit)
    sides = {side: partial(train, side=side) for side in SIDES}
    runs = measure.side_by_side("time to quality", sides, options.quality_repeats)
    line = measure.figure(f"training to {MARK} on validation", "s", *of(runs, "seconds"), more_is_better=False)
    missed = {side: [run for run in runs[side] if not run["reached"]] for side in SIDES}
    if missed["series"]:
        raise RuntimeError(f"the series did not reach {MARK}: {missed['series']}")
    if missed["study"]:
        run = max(missed["study"], key=lambda run: run["seconds"])
        line["bound"] = ">"
        line["note"] = f"study: not reached within {run['seconds'] / 60:.1f} min, best {run['best']:.3f}"
    return [line]


def data(options: Namespace) -> list[dict]:
    """Return seconds, peak memory and disk of the selection."""
    print("  data: the large file … ", end="", flush=True)
    started = time.perf_counter()
    path = options.scratch / f"{options.source.stem}-large.parquet"
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:  # a child's peak memory counts from its parent's
        pool.submit(generate, options.source, options.company, path).result()
    print(f"{time.perf_counter() - started:.1f} s", flush=True)
    sides = {side: partial(selecting.in_fresh_cache, f"by_{side}", path, options.company) for side in SIDES}
    runs = measure.side_by_side("data", sides, options.repeats)
    kept = {side: runs[side][0]["rows"] for side in SIDES}  # the study keeps blank letters
    assert 0 <= kept["study"] - kept["series"] <= 0.01 * kept["study"], f"other rows were selected: {kept}"
    return [
        measure.figure(f"selecting from {ROWS:,} rows", unit, *of(runs, name), more_is_better=False)
        for name, unit in (("seconds", "s"), ("peak_mb", "MB"), ("disk_mb", "MB on disk"))
    ]


def scoring(options: Namespace) -> list[dict]:
    """Return the pipeline's rates against the series', and the series' own on more and more letters."""
    given = {"data": options.data, "company": options.company}
    compare = partial(
        measure.in_child,
        "benchmarks.scoring:side_by_side",
        checkpoint=options.models["distilbert"],
        **given,
        repeats=options.repeats,
    )
    found = measure.side_by_side("scoring, all by turns", {"all": compare}, 1)["all"][0]
    figures = [
        measure.figure(f"scoring against the pipeline, {side}", "texts/s", found[side], found["series"], True)
        for side in ("defaults", "batch 32")
    ]
    grow = partial(measure.in_child, "benchmarks.scoring:growth", checkpoint=options.mini_models["distilbert"], **given)
    sides = {texts: partial(grow, texts=texts) for texts in SIZES}
    for texts, runs in measure.side_by_side("scoring more", sides, options.repeats).items():
        name = f"scoring {texts:,} texts, miniature model"
        figures += [
            measure.alone(name, "texts/s", [run["rate"] for run in runs]),
            measure.alone(name, "MB", [run["peak_mb"] for run in runs]),
        ]
    return figures


def run(options: Namespace) -> list[dict]:
    """Return the seconds of the mini run and its parts, and of a run with nothing to do."""
    runs = measure.side_by_side("the mini run", {"series": whole_run.one_run}, options.repeats)["series"]
    figures = [
        measure.alone("the mini run after an installation", "s", [run["total"] for run in runs]),
        measure.alone("the driver's own share of it", "%", [100 * run["driver"] / run["total"] for run in runs]),
        measure.alone("the same run again, nothing to do", "s", [run["again"] for run in runs]),
        measure.alone("of the run: the offline kit", "s", [run["kit"] for run in runs]),
    ]
    for notebook, parts in runs[0]["notebooks"].items():
        for part in parts:
            values = [run["notebooks"][notebook][part] for run in runs]
            figures.append(measure.alone(f"of the run: {notebook}, {part}", "s", values))
    return figures


ALL = {"training": training, "quality": quality, "data": data, "scoring": scoring, "run": run}
