#!/usr/bin/env python3
"""How fast the series is, beside the recipe of the original study: python benchmarks/run.py

    training   texts a second and peak memory of the three trainings, padding, share of the machine's matrix rate
    quality    seconds of training until the accuracy on validation first reaches .94
    data       selecting the study's rows from 1,689,573: seconds, peak memory, disk
    scoring    texts a second against the text-classification pipeline, and on 200 to 20,000 texts
    run        the mini run by notebook and part, the driver's own share, and a run that has nothing to do
    study      notebooks 01 to 06 with these models on these complaints; it is for a CUDA card, elsewhere it takes hours

Without --models and --data the offline demo's miniatures and complaints are used, and the table says so. Each figure is the
median of several repeats, both sides by turns and each in a process of its own; beside it stand the least and the
greatest. Quiet the machine first: its load at the start is in the file.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "notebooks"))  # for helpers

# only the processes that this one starts load torch and pandas: a child's peak memory counts from its parent's
import mini
from benchmarks import measure, whole_run
from driver.parameters import defaults
from helpers import check
from helpers.files import ROOT, is_mini, short_name, write_whole

NAMES = {"distilbert": "distilbert-base-uncased", "gpt2": "gpt2", "quality": "distilbert-minilm"}
SIDES = ("original", "series")
UNITS = {"seconds": "s", "peak_mb": "MB", "disk_mb": "MB on disk", "texts_per_second": "texts/s"}
UNITS |= {"padded_per_real": "tokens/token", "share_of_matrix_rate": "of GEMM rate"}
MORE_IS_BETTER = ("texts_per_second", "share_of_matrix_rate")
TRAININGS = ("distilbert_lora", "gpt2_lora", "gpt2_qlora")
MARK = 0.94  # accuracy on validation, of the time to quality
LARGE = 1_689_573  # rows, as many as the hub's file has
SIZES = (200, 2_000, 20_000)  # texts


@dataclass(frozen=True)
class Settings:
    """How often is measured, and how long at most."""

    repeats: int
    quality_repeats: int
    batch_size: int | None  # of both sides' training; None: each recipe's own
    limit: float  # minutes of a training to quality


@dataclass(frozen=True)
class Material:
    """What is measured with: models and complaints, given or the offline demo's, and a folder for what is made on the way."""

    models: dict[str, str]  # the folder of each of NAMES
    mini_models: dict[str, str]
    data: str
    source: Path  # the demo's complaints: the large file is made from them, whatever the data
    company: str
    scratch: Path

    @property
    def complaints(self) -> dict[str, str]:
        """Return what the measured functions take of the data."""
        return {"data": self.data, "company": self.company}


def prepare(models: Path | None, data: Path | None) -> Material:
    """Return the material: the folder of models and the file of complaints, or in their place the offline demo's."""
    scratch = ROOT / "runs" / "benchmarks"
    company = str(defaults(ROOT / "notebooks" / "01_data.ipynb")["COMPANY"])
    demo: dict[str, Any] = mini.prepare(None, company, scratch)["01_data"]
    miniatures = {"distilbert": demo["DISTILBERT"], "gpt2": demo["GPT2"]}
    chosen = miniatures | {"quality": miniatures["distilbert"]}
    if models:
        chosen = {part: str(models.resolve() / name) for part, name in NAMES.items()}
    chosen_data = str(data.resolve()) if data else demo["DATASET"]
    return Material(chosen, miniatures, chosen_data, Path(demo["DATASET"]), company, scratch)


# --- the rows of the table: what is run side by side, and what is told of it


def run_both(name: str, function: str, repeats: int, **given: object) -> dict[str, list[dict]]:
    """Return what module:function(side, **given) returns for both sides, by turns, each time in a process of its own."""
    sides = {side: partial(measure.in_child, function, side=side, **given) for side in SIDES}
    return measure.side_by_side(name, sides, repeats)


def compared(name: str, runs: dict[str, list[dict]], *keys: str) -> list[dict]:
    """Return a line of the table for each of these values of both sides' runs."""
    lines = []
    for key in keys:
        other, series = ([run[key] for run in runs[side]] for side in SIDES)
        lines.append(measure.figure(name, UNITS[key], other, series, key in MORE_IS_BETTER))
    return lines


def training(material: Material, settings: Settings) -> list[dict]:
    """Return the figures of the three trainings."""
    given = {"models": material.models, "batch_size": settings.batch_size, **material.complaints}
    figures = []
    for kind in TRAININGS:
        runs = run_both(kind, "benchmarks.models:train_a_few", settings.repeats, kind=kind, **given)
        keys = ("texts_per_second", "peak_mb", "padded_per_real", "share_of_matrix_rate")
        figures += compared(f"training {kind}", runs, *keys)
    return figures


def quality(material: Material, settings: Settings) -> list[dict]:
    """Return the seconds of training to the mark; a training that did not reach it makes the ratio a lower bound."""
    given = {"checkpoint": material.models["quality"], "mark": MARK, "limit_minutes": settings.limit}
    given |= material.complaints
    runs = run_both("time to quality", "benchmarks.models:until_mark", settings.quality_repeats, **given)
    missed = {side: [run for run in runs[side] if not run["reached"]] for side in SIDES}
    check(not missed["series"], f"the series did not reach {MARK}: {missed['series']}")
    [line] = compared(f"training to {MARK} on validation", runs, "seconds")
    if missed["original"]:
        run = max(missed["original"], key=lambda run: run["seconds"])
        line["bound"] = ">"
        line["note"] = f"original: not reached within {run['seconds'] / 60:.1f} min, best {run['best']:.3f}"
    return [line]


def selecting(material: Material, settings: Settings) -> list[dict]:
    """Return seconds, peak memory and disk of the selection from a file as large as the hub's."""
    large = material.scratch / f"{material.source.stem}-large.parquet"
    given = {"source": material.source, "company": material.company, "path": large, "rows": LARGE}
    measure.side_by_side("data", {"the large file": partial(measure.in_child, "benchmarks.data:generate", **given)}, 1)
    given = {"path": large, "company": material.company}
    runs = run_both("data", "benchmarks.data:select_large", settings.repeats, **given)
    kept = {side: runs[side][0]["rows"] for side in SIDES}  # the study keeps blank texts
    check(0 <= kept["original"] - kept["series"] <= 0.01 * kept["original"], f"other rows were selected: {kept}")
    return compared(f"selecting from {LARGE:,} rows", runs, "seconds", "peak_mb", "disk_mb")


def scoring(material: Material, settings: Settings) -> list[dict]:
    """Return the pipeline's rates against the series', and the series' own on more and more texts."""
    score = partial(measure.in_child, "benchmarks.models:score_texts", **material.complaints)
    given: dict[str, Any] = {"checkpoint": material.models["distilbert"], "number": SIZES[0]}
    sides = {way: partial(score, way=way, **given) for way in ("defaults", "batch 32", "series")}
    runs = measure.side_by_side("scoring", sides, settings.repeats)
    figures = []
    for way in ("defaults", "batch 32"):
        pairs = zip(runs[way][0]["probability"], runs["series"][0]["probability"], strict=True)
        gap = max(abs(one - other) for one, other in pairs)
        check(gap < 0.01, f"the pipeline ({way}) gives other probabilities than the series, by up to {gap:.3f}")
        pair = {"original": runs[way], "series": runs["series"]}
        figures += compared(f"scoring against the pipeline, {way}", pair, "texts_per_second")
    given = {"way": "series", "checkpoint": material.mini_models["distilbert"]}
    sizes = {f"{number:,} texts": partial(score, number=number, **given) for number in SIZES}
    for size, found in measure.side_by_side("scoring", sizes, settings.repeats).items():
        for key in ("texts_per_second", "peak_mb"):
            name = f"scoring {size}, miniature model"
            figures.append(measure.alone(name, UNITS[key], [run[key] for run in found]))
    return figures


def mini_run(_: Material, settings: Settings) -> list[dict]:
    """Return the seconds of the mini run and its parts, and of a run with nothing to do."""
    runs = measure.side_by_side("the mini run", {"series": whole_run.one_run}, settings.repeats)["series"]
    return [measure.alone(name, unit, [run[name, unit] for run in runs]) for name, unit in runs[0]]


def study(material: Material, settings: Settings) -> list[dict]:
    """Return the seconds of notebooks 01 to 06 with the given models on the given complaints."""
    one_run = partial(whole_run.study, material.models, material.data)
    runs = measure.side_by_side("the study", {"series": one_run}, settings.repeats)["series"]
    return [measure.alone(f"the study: {name}", "s", [run[name] for run in runs]) for name in runs[0]]


ROWS = {
    "training": training,
    "quality": quality,
    "data": selecting,
    "scoring": scoring,
    "run": mini_run,
    "study": study,
}


# --- the command line


def parse() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rows", nargs="+", choices=ROWS, help="which rows to measure (all; the study on a CUDA card only)")
    add("--models", type=Path, metavar="DIR", help=f"folder with {', '.join(NAMES.values())}")
    add("--data", type=Path, metavar="FILE", help="complaints, in the bureau's columns")
    add("--repeats", type=int, default=3, help="of each figure (3)")
    add("--quality-repeats", type=int, default=1, help="of the time to quality, which takes long (1)")
    add("--limit", type=float, default=30, metavar="MINUTES", help="of a training to quality (30)")
    add(
        "--batch-size",
        type=int,
        help="texts in a batch of both sides' training (each recipe's own: 16; GPT-2 8 and 16)",
    )
    add("--out", type=Path, metavar="FILE", help="write the figures as JSON, too")
    add("--show", type=Path, nargs="+", metavar="FILE", help="print such files as a Markdown page, and measure nothing")
    return parser.parse_args()


def main() -> None:
    """Measure the rows that are asked for, print the table, and write the file; or show what earlier runs wrote."""
    options = parse()
    if options.show:
        print(measure.page({path.stem: json.loads(path.read_text()) for path in sorted(options.show)}), end="")
        return
    settings = Settings(options.repeats, options.quality_repeats, options.batch_size, options.limit)
    result: dict[str, Any] = {"machine": measure.machine()}
    material = prepare(options.models, options.data)
    names = {part: Path(folder).name for part, folder in material.models.items()}
    result["scale"] = "mini" if any(map(is_mini, names.values())) else "full size"
    result["used"] = {"data": short_name(material.data), "models": names}
    result |= {"settings": asdict(settings), "figures": []}
    print(measure.about(result))
    for row in options.rows or [row for row in ROWS if row != "study" or result["machine"]["device"] != "cpu"]:
        started = time.perf_counter()
        found = ROWS[row](material, settings)
        print(f"\n{row}, {time.perf_counter() - started:.0f} s\n{measure.table(found)}\n", flush=True)
        result["figures"] += [{"row": row, **line} for line in found]
        if options.out:  # after each row: a row takes long
            write_whole(options.out, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
