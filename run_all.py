#!/usr/bin/env python3
"""Run the six notebooks in order, skip what is up to date, and show the result: python run_all.py --mini

A notebook is finished when its manifest, OUT/executed/NAME.json, says so and every file listed there still has its hash.
The rooms of this driver are in driver/: parameters, records, guard, kernel, in_kernel,
progress, saving and readme.
"""

import argparse
import contextlib
import json
import math
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from driver import Refused, guard, kit, parameters, prefetch, progress, readme, records, saving
from driver.guard import Stopped
from driver.progress import duration
from driver.records import Stage

ROOT = Path(__file__).resolve().parent
NOTEBOOKS = ROOT / "notebooks"

STAGES = (
    Stage(
        "01_data",
        needs=(),
        makes=("data/pool.parquet", "data/train.parquet", "results/01_data.json", "plots/01_*.png"),
    ),
    Stage(
        "02_test_data",
        needs=("01_data",),
        makes=("data/test.parquet", "data/unseen.parquet", "results/02_test_data.json", "plots/02_*.png"),
    ),
    Stage(
        "03_distilbert_lora",
        needs=("01_data", "02_test_data"),
        makes=("models/03_distilbert_lora/*", "results/03_distilbert_lora.json", "plots/03_*.png"),
    ),
    Stage(
        "04_gpt2_lora",
        needs=("01_data", "02_test_data", "03_distilbert_lora"),
        makes=("models/04_gpt2_lora/*", "results/04_gpt2_lora.json", "plots/04_*.png"),
    ),
    Stage(
        "05_gpt2_qlora",
        needs=("01_data", "02_test_data", "04_gpt2_lora"),
        makes=("models/05_gpt2_qlora/*", "results/05_gpt2_qlora.json", "plots/05_*.png"),
    ),
    Stage(
        "06_comparing",
        needs=("01_data", "02_test_data", "03_distilbert_lora", "04_gpt2_lora", "05_gpt2_qlora"),
        makes=(
            "results/06_comparing.json",
            "results/predictions.parquet",
            "plots/barplot_perfmetrics.png",
            "plots/06_*.png",
        ),
    ),
)
NAMES = [stage.name for stage in STAGES]
RANGES = {
    "SEED": (0, 2**32 - 1),
    "MORE_ROWS": (0, math.inf),
    "DROPOUT": (0, 1),
    "LEARNING_RATE": (0, 1),
}  # other counts: from 1; fractions: from 0


class Failed(Exception):
    """A notebook did not finish; the text names notebook, cell, cause and mend."""


# --- what is asked for ------------------------------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--mini", action="store_true", help="run offline in minutes, on embedded data and miniature models"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of all outputs (the repository; with --mini runs/mini)"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", nargs="+", metavar="NAME", help="run these notebooks only")
    which.add_argument("--from", dest="first", metavar="NAME", help="run this notebook and all after it")
    parser.add_argument("-p", nargs=2, action="append", metavar=("NAME", "VALUE"), default=[], help="set a parameter")
    parser.add_argument("--force", action="store_true", help="run also what is up to date")
    parser.add_argument(
        "--save", action="store_true", help="after all six succeeded, write the outputs into notebooks/"
    )
    parser.add_argument(
        "--list", action="store_true", help="show the notebooks, their state and parameters; run nothing"
    )
    parser.add_argument(
        "--prefetch",
        action="store_true",
        help="download the full study's data and models, then run offline; run nothing",
    )
    parser.add_argument("--cell-limit", type=float, metavar="MINUTES", default=720, help="end a cell after (720)")
    parser.add_argument(
        "--stage-limit", type=float, metavar="MINUTES", default=1440, help="end a notebook after (1440)"
    )
    return parser.parse_args()


def known_name(name: str) -> str:
    """Return the notebook's name without folder and ending; Refused when there is none of that name."""
    short = Path(name).name.removesuffix(".ipynb")
    if short not in NAMES:
        raise Refused(f"There is no notebook {name}. {parameters.closest(short, NAMES)}")
    return short


def selected(options: argparse.Namespace) -> list[Stage]:
    """Return the stages that the command line asks for, in order."""
    only = [known_name(name) for name in options.only or NAMES]
    first = NAMES.index(known_name(options.first)) if options.first else 0
    return [stage for stage in STAGES[first:] if stage.name in only]


def notebook(name: str) -> Path:
    """Return the path of the notebook of that name."""
    return NOTEBOOKS / f"{name}.ipynb"


def mini_values(known: dict, given: dict) -> dict:
    """Return {notebook: {parameter: value}} of the offline kit; what it lacks of data and models is made now."""
    started = time.monotonic()
    print("mini data and models … ", end="", flush=True)
    flat = {name: value for values in given.values() for name, value in values.items()}
    made = kit.values(ROOT, flat.get("DATASET", ""), flat.get("COMPANY", known["01_data"]["COMPANY"]))
    print(duration(time.monotonic() - started), flush=True)
    return {
        name: {
            parameter: parameters.typed(parameter, value, known[name][parameter]) for parameter, value in values.items()
        }
        for name, values in made.items()
    }


def values_of(known: dict, given: dict, out: Path, options: argparse.Namespace) -> dict:
    """Return {notebook: {parameter: value}}: the notebooks' own, under mini's, under those of the command line."""
    mini = mini_values(known, given) if options.mini else {}
    return {name: known[name] | mini.get(name, {}) | given.get(name, {}) | {"OUT": str(out)} for name in NAMES}


# --- what is there ----------------------------------------------------------------------------------------------------


def check_needs(stages: list[Stage], values: dict, out: Path, options: argparse.Namespace) -> None:
    """Return when all that the stages need from others is whole; Refused names the command that makes it."""
    for need in NAMES:
        if need in (n for stage in stages for n in stage.needs) and need not in (stage.name for stage in stages):
            reason = records.unfinished(need, out)
            if reason:
                where = (" --mini" if options.mini else "") + (f" --out {options.out}" if options.out else "")
                raise Refused(f"{need} is needed, but in {out}: {reason}. Type: python run_all.py{where} --only {need}")
            changed = records.changes(need, records.inputs(stage_of(need), values[need], ROOT, out), out)
            if changed:
                print(f"{need} is taken as it was made, with another {', '.join(changed)}")


def stage_of(name: str) -> Stage:
    """Return the stage of that name."""
    return STAGES[NAMES.index(name)]


def state(stage: Stage, values: dict, out: Path) -> str:
    """Return "done" when the stage is whole and nothing that it depends on has changed, or else why it must run."""
    reason = records.unfinished(stage.name, out)
    if not reason:
        changed = records.changes(stage.name, records.inputs(stage, values, ROOT, out), out)
        reason = f"stale, changed: {', '.join(changed)}" if changed else ""
    return reason or "done"


def show_list(stages: list[Stage], values: dict, out: Path) -> None:
    """Print each notebook's state and parameters."""
    again = set()
    for stage in stages:
        reason = state(stage, values[stage.name], out)
        if reason == "done" and again & set(stage.needs):
            reason = f"stale, runs again after {', '.join(sorted(again & set(stage.needs)))}"
        if reason != "done":
            again.add(stage.name)
        print(f"{stage.name:20} {reason}")
        for name, value in values[stage.name].items():
            print(f"    {name} = {value!r}")


# --- one notebook, and all of them ------------------------------------------------------------------------------------


def run_stage(stage: Stage, values: dict, out: Path, limits: tuple[float, float]) -> float:
    """Run one notebook, write its executed copy and, last of all, its manifest; return the seconds it took.

    Failed says what went wrong; the notebook as far as it came is then OUT/executed/NAME.failed.ipynb.
    """
    from driver import kernel  # papermill takes two seconds to import

    inputs, before, started = records.inputs(stage, values, ROOT, out), records.stamps(stage, out), time.monotonic()
    folder = out / "executed"
    page = kernel.with_parameters(notebook(stage.name), values)
    try:
        with progress.Cells(stage.name, page) as cells:
            kernel.run_cells(page, NOTEBOOKS, folder / f"{stage.name}.log", limits, cells.start_cell)
        guard.end_processes(out)  # what the cells left running must not write any more
        made = records.made(stage, out, before)
        made[f"executed/{stage.name}.ipynb"] = records.write_whole(folder / f"{stage.name}.ipynb", kernel.as_text(page))
        (folder / f"{stage.name}.failed.ipynb").unlink(missing_ok=True)
        return records.finish(stage, values, inputs, made, time.monotonic() - started, out)
    except (kernel.CellFailed, records.Unmade, OSError, RuntimeError, Stopped) as error:
        guard.end_processes(out)
        with contextlib.suppress(OSError):  # a full disk; the error itself is what matters
            records.write_whole(folder / f"{stage.name}.failed.ipynb", kernel.as_text(page))
        if isinstance(error, Stopped):
            raise
        raise Failed(report(stage, page, error, out)) from error


def report(stage: Stage, page, error: Exception, out: Path) -> str:
    """Return what to tell about a stage that failed: notebook, cell, cause and mend."""
    where = ", " + progress.label(page, error.index) if hasattr(error, "index") else ""
    cause = "\n".join(str(error).strip().splitlines()[-12:])
    if "No space left" in cause:
        cause += f"\n{shutil.disk_usage(out).free / 1e6:,.0f} MB are free on the disk of {out}: make room."
    failed, log = (out / "executed" / f"{stage.name}.{ending}" for ending in ("failed.ipynb", "log"))
    return (
        f"FAILED {stage.name}{where}\n{cause}\nSee {failed if failed.exists() else log}; all that it printed: {log}.\n"
        f"Mend the cause, then type the same command again; finished notebooks are kept:\n{guard.command()}"
    )


def run_stages(stages: list[Stage], values: dict, out: Path, options: argparse.Namespace) -> dict[str, str]:
    """Run what is not up to date, in order; return {notebook: how long it took, in brackets if that was in an earlier run}."""
    times = {}
    for stage in stages:
        if state(stage, values[stage.name], out) == "done" and not options.force:
            times[stage.name] = f"({duration(records.read_manifest(stage.name, out)['seconds'])})"
            print(f"{stage.name:20} up to date {times[stage.name]}", flush=True)
        else:
            seconds = run_stage(stage, values[stage.name], out, (options.cell_limit, options.stage_limit))
            times[stage.name] = duration(seconds)
            print(f"{stage.name:20} {times[stage.name]}", flush=True)
    return times


def show_results(times: dict[str, str], out: Path) -> None:
    """Print the result table, the time that each notebook took, and where the bar plot is."""
    rows = json.loads((out / "results/06_comparing.json").read_text(encoding="utf-8"))["test"]
    scores = ("accuracy", "precision", "recall", "f1")
    print(f"\n{'model':18}{'kind':8}" + "".join(f"{score:>10}" for score in scores))
    for row in rows:
        print(f"{row['model']:18}{row['kind']:8}" + "".join(f"{row[score]:10.3f}" for score in scores))
    print("\nTime: " + ", ".join(f"{name} {time}" for name, time in times.items()))
    print(f"Bar plot: {out / 'plots/barplot_perfmetrics.png'}")


def save(values: dict, out: Path) -> None:
    """Write clean outputs back into notebooks/, and table and figure into README.md and docs/; Refused when one is unfit."""
    behind = [stage.name for stage in STAGES if state(stage, values[stage.name], out) != "done"]
    if behind:
        raise Refused(f"--save needs all six notebooks up to date; these are not: {', '.join(behind)}. Run them first.")
    texts = {
        name: saving.clean(notebook(name), out / f"executed/{name}.ipynb", [ROOT, Path.home(), out]) for name in NAMES
    }
    results = (out / "results/06_comparing.json").read_text(encoding="utf-8")
    front_page = readme.with_results((ROOT / "README.md").read_text(encoding="utf-8"), json.loads(results))
    for name, text in texts.items():
        records.write_whole(notebook(name), text)
    records.write_whole(ROOT / "docs/06_comparing.json", results)
    records.write_whole(ROOT / "README.md", front_page)
    figure = "barplot_perfmetrics.png"
    records.write_whole(ROOT / "docs" / figure, (out / "plots" / figure).read_bytes())
    print(f"Saved the outputs of {len(texts)} notebooks in {NOTEBOOKS}, table and figure in README.md and docs/")


def run(options: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    stages = selected(options)
    out = (options.out or (ROOT / "runs" / "mini" if options.mini else ROOT)).resolve()
    records.versions(ROOT / "requirements.txt")  # what is not installed is refused now, not at the first notebook
    known = {name: parameters.defaults(notebook(name)) for name in NAMES}
    given = parameters.from_command_line(options.p, {stage.name: known[stage.name] for stage in stages}, RANGES, ROOT)
    if options.prefetch and options.mini:
        raise Refused("--prefetch is for the full study: --mini makes its own data and models, and needs no network.")
    if options.prefetch:
        return prefetch.fetch({stage.name: known[stage.name] | given[stage.name] for stage in stages}, ROOT)
    if options.list:
        return show_list(stages, values_of(known, given, out, options), out)
    with guard.sole_writer(out, ROOT):
        values = values_of(known, given, out, options)
        check_needs(stages, values, out, options)
        times = run_stages(stages, values, out, options)
        if "06_comparing" in times:
            show_results(times, out)
        if options.save:
            save(values, out)


def main() -> int:
    """Run, and return the exit status: 0 done, 1 a notebook failed, 2 refused, 128 + n stopped by signal n."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # beside a busy neighbour, threads that spin are 8 times slower
    try:
        run(parse())
        return 0
    except (Refused, OSError) as error:  # a disk or folder that the system refuses, too
        print(f"run_all.py: {error}", file=sys.stderr)
        return 2
    except Failed as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except Stopped as error:
        number = error.args[0]
        print(
            f"\nStopped by {signal.Signals(number).name}. Finished notebooks are kept; to go on, type:\n{guard.command()}"
        )
        return 128 + number


if __name__ == "__main__":
    sys.exit(main())
