#!/usr/bin/env python3
"""Run the six notebooks in order, skip what is up to date, and show the result: python run_all.py --mini

A notebook is finished when its manifest, OUT/executed/NAME.json, says so and every file listed there still has its hash.
The rooms of this driver are in driver/; series says which stages there are, running how they run.
"""

import argparse
import json
import math
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # before PYTHONPATH, and under PYTHONSAFEPATH too
sys.path.insert(1, str(Path(__file__).resolve().parent / "notebooks"))  # for helpers

from driver import (
    Refused,
    Stopped,
    guard,
    kit,
    parameters,
    prefetch,
    readme,
    records,
    saving,
    series,
    surroundings,
    sweep,
)
from driver.progress import duration
from driver.records import Stage
from driver.running import Failed, run_stages, state
from driver.series import NAMES
from helpers import machine
from helpers.files import write_whole

ROOT = Path(__file__).resolve().parent
NOTEBOOKS = ROOT / "notebooks"

RANGES = {
    "SEED": (0, 2**32 - 1),
    "MORE_ROWS": (0, math.inf),
    "DROPOUT": (0, 1),
    "LEARNING_RATE": (0, 1),
}  # other counts: from 1; fractions: from 0


# --- what is asked for ------------------------------------------------------------------------------------------------


def parse() -> argparse.Namespace:
    """Return the parsed command line; Refused when what it asks for makes no sense."""
    parser = argparse.ArgumentParser(
        description="Run the six notebooks in order, skip what is up to date, and show the result."
    )
    parser.add_argument(
        "--mini", action="store_true", help="run offline in minutes, on embedded data and miniature models"
    )
    parser.add_argument(
        "--pretrain",
        action="store_true",
        help="with --mini: pretrain the miniature models on the data's other companies, instead of taking the shipped ones",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of all outputs (the repository; with --mini runs/mini)"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", nargs="+", metavar="NAME", help="run these notebooks only")
    which.add_argument("--from", dest="first", metavar="NAME", help="run this notebook and all after it")
    parser.add_argument("-p", nargs=2, action="append", metavar=("NAME", "VALUE"), default=[], help="set a parameter")
    parser.add_argument(
        "--seeds", nargs="+", type=int, metavar="SEED", default=[], help="train 03 to 05 once for each seed (42)"
    )
    parser.add_argument(
        "--controls", action="store_true", help="train head-only and full fine-tuning too, to compare with"
    )
    parser.add_argument(
        "--sweep", nargs="+", metavar=("NAME", "VALUE"), default=[], help="run the series for each value of a parameter"
    )
    parser.add_argument("--jobs", type=int, metavar="N", default=1, help="run up to N notebooks side by side (1)")
    parser.add_argument("--force", action="store_true", help="run also what is up to date")
    parser.add_argument(
        "--save", action="store_true", help="after all succeeded, write the outputs into notebooks/ (needs --controls)"
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
    options = parser.parse_args()
    if options.pretrain and not options.mini:
        raise Refused(
            "--pretrain makes miniature models, so it goes with --mini. A full run takes -p DISTILBERT and -p GPT2."
        )
    if options.jobs < 1:
        raise Refused(f"--jobs {options.jobs}: at least one notebook has to run at a time.")
    if options.save and not options.controls:
        raise Refused("--save writes the outputs of all notebooks, the controls' too. Add --controls.")
    if options.sweep and (options.only or options.first or options.save or options.list):
        raise Refused(
            "--sweep runs the whole series for each value; it does not go with --only, --from, --save, --list."
        )
    if options.sweep and options.sweep[0] == "SEED":
        raise Refused("--sweep SEED: use --seeds, which trains only what a seed changes.")
    if len(set(options.seeds)) < len(options.seeds):
        raise Refused(f"--seeds {' '.join(map(str, options.seeds))}: each seed must be another.")
    for seed in options.seeds:
        parameters.in_range("SEED", seed, 42, RANGES)
    options.controls = options.controls or "controls" in map(short_name, options.only or [])
    return options


def short_name(name: str) -> str:
    """Return a notebook's name without folder and ending."""
    return Path(name).name.removesuffix(".ipynb")


def known_name(name: str) -> str:
    """Return the notebook's name without folder and ending; Refused when there is none of that name."""
    short = short_name(name)
    if short not in NAMES:
        raise Refused(f"There is no notebook {name}. {parameters.closest(short, NAMES)}")
    return short


def selected(options: argparse.Namespace) -> list[Stage]:
    """Return the stages that the command line asks for, in order."""
    only = [known_name(name) for name in options.only or NAMES]
    first = NAMES.index(known_name(options.first)) if options.first else 0
    every = series.stages(options.seeds, options.controls)
    return [stage for stage in every if stage.notebook in only and NAMES.index(stage.notebook) >= first]


def notebook(name: str) -> Path:
    """Return the path of the notebook of that name."""
    return NOTEBOOKS / f"{name}.ipynb"


def mini_values(known: dict, given: dict, out: Path, options: argparse.Namespace) -> dict:
    """Return {notebook: {parameter: value}} of the offline demo; unless they are only listed, what lacks is made now."""
    started = time.monotonic()
    make = not options.list
    if make:
        print("mini data and models … ", end="", flush=True)
    flat = {name: value for values in given.values() for name, value in values.items()}
    cache = kit.cache_folder(ROOT, out)
    company = flat.get("COMPANY", known["01_data"]["COMPANY"])
    made = kit.values(ROOT, cache, flat.get("DATASET", ""), company, options.pretrain, make)
    if make:
        print(duration(time.monotonic() - started), flush=True)
    return {
        name: {
            parameter: parameters.typed(parameter, value, known[name][parameter]) for parameter, value in values.items()
        }
        for name, values in made.items()
    }


def values_of(known: dict, given: dict, out: Path, options: argparse.Namespace) -> dict:
    """Return {stage: {parameter: value}}: the notebooks' own, under mini's, those of the command line, and the stage's."""
    mini = mini_values(known, given, out, options) if options.mini else {}
    values = {name: known[name] | mini.get(name, {}) | given.get(name, {}) for name in NAMES}
    return {
        stage.name: values[stage.notebook] | series.own_values(stage, options.seeds) | {"OUT": str(out / stage.folder)}
        for stage in series.stages(options.seeds, options.controls)
    }


# --- what is there ----------------------------------------------------------------------------------------------------


def check_needs(stages: list[Stage], values: dict, out: Path, options: argparse.Namespace) -> None:
    """Return when all that the stages need from others is whole; Refused names the command that makes it."""
    needed = {need for stage in stages for need in stage.needs} - {stage.name for stage in stages}
    for stage in series.stages(options.seeds, options.controls):
        if stage.name in needed:
            reason = records.unfinished(stage.name, out)
            if reason:
                where = (" --mini" if options.mini else "") + (f" --out {options.out}" if options.out else "")
                where += f" --seeds {' '.join(map(str, options.seeds))}" if options.seeds else ""
                raise Refused(
                    f"{stage.name} is needed, but in {out}: {reason}. Type: python run_all.py{where} --only {stage.notebook}"
                )
            changed = records.changes(stage.name, records.inputs(stage, values[stage.name], ROOT, out), out)
            if changed:
                print(f"{stage.name} is taken as it was made, with another {', '.join(changed)}")


def show_list(stages: list[Stage], values: dict, out: Path) -> None:
    """Print each stage's state and parameters."""
    again = set()
    for stage in stages:
        reason = state(stage, values[stage.name], ROOT, out)
        if reason == "done" and again & set(stage.needs):
            reason = f"stale, runs again after {', '.join(sorted(again & set(stage.needs)))}"
        if reason != "done":
            again.add(stage.name)
        print(f"{stage.name:20} {reason}")
        if manifest := records.read_manifest(stage.name, out):
            made = manifest["provenance"]
            print(f"    made on {made['host']}, {made['CPU']}, {made['device']}")
        for name, value in values[stage.name].items():
            print(f"    {name} = {value!r}")


# --- what comes of it -------------------------------------------------------------------------------------------------


def show_results(times: dict[str, str], out: Path, pairs: list) -> None:
    """Print the result table, for a mini run with its own values how it compares with the published one, times, and the plot."""
    result = json.loads((out / "results/06_comparing.json").read_text(encoding="utf-8"))
    scores = ("accuracy", "precision", "recall", "f1")
    print(f"\n{'model':18}{'kind':8}" + "".join(f"{score:>10}" for score in scores) + "   accuracy over seeds")
    for row in result["test"]:
        print(
            f"{row['model']:18}{row['kind']:8}"
            + "".join(f"{row[score]:10.3f}" for score in scores)
            + f"   {readme.over_seeds(result, row['model'])}".rstrip()
        )
    published = ROOT / "docs/06_comparing.json"
    if result["mini"] and not pairs and published.exists():
        print(readme.beside_published(result, json.loads(published.read_text(encoding="utf-8"))))
    print("\nTime: " + ", ".join(f"{name} {time}" for name, time in times.items()))
    print(f"Bar plot: {out / 'plots/barplot_perfmetrics.png'}")


def save(values: dict, out: Path, options: argparse.Namespace) -> None:
    """Write clean outputs back into notebooks/, and table and figure into README.md and docs/; Refused when one is unfit."""
    behind = [
        stage.name
        for stage in series.stages(options.seeds, options.controls)
        if state(stage, values[stage.name], ROOT, out) != "done"
    ]
    if behind:
        raise Refused(f"--save needs all notebooks up to date; these are not: {', '.join(behind)}. Run them first.")
    texts = {
        name: saving.clean(notebook(name), out / f"executed/{name}.ipynb", [ROOT, Path.home(), out]) for name in NAMES
    }
    results = (out / "results/06_comparing.json").read_text(encoding="utf-8")
    front_page = readme.with_results((ROOT / "README.md").read_text(encoding="utf-8"), json.loads(results))
    for name, text in texts.items():
        write_whole(notebook(name), text)
    write_whole(ROOT / "docs/06_comparing.json", results)
    write_whole(ROOT / "README.md", front_page)
    figure = "barplot_perfmetrics.png"
    write_whole(ROOT / "docs" / figure, (out / "plots" / figure).read_bytes())
    print(f"Saved the outputs of {len(texts)} notebooks in {NOTEBOOKS}, table and figure in README.md and docs/")


def pin(options: argparse.Namespace) -> None:
    """Make a mini run compute the same on every machine, unless another device or precision is asked for."""
    if options.mini and not {"DEVICE", "PRECISION"} & {name for name, _ in options.p}:
        os.environ.update(machine.pins())


def run(options: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    pin(options)
    out = (options.out or (ROOT / "runs" / "mini" if options.mini else ROOT)).resolve()
    if options.sweep:
        return run_sweep(options, out)
    run_series(options, options.p, out)


def run_series(options: argparse.Namespace, pairs: list, out: Path) -> None:
    """Run what the options ask for, with these pairs of parameter and value, into the output folder."""
    stages = selected(options)
    records.versions(ROOT / "requirements.txt")  # what is not installed is refused now, not at the first notebook
    known = {name: parameters.defaults(notebook(name)) for name in NAMES}
    asked = {stage.notebook: known[stage.notebook] for stage in stages}
    given = parameters.from_command_line(pairs, asked, RANGES, ROOT)
    if options.prefetch and options.mini:
        raise Refused("--prefetch is for the full study: --mini makes its own data and models, and needs no network.")
    if options.prefetch:
        return prefetch.fetch({name: known[name] | given[name] for name in asked}, ROOT)
    if options.list:
        return show_list(stages, values_of(known, given, out, options), out)
    with guard.sole_writer(out, ROOT):
        values = values_of(known, given, out, options)
        check_needs(stages, values, out, options)
        times = run_stages(stages, values, ROOT, out, options)
        if "06_comparing" in times:
            show_results(times, out, pairs)
        if options.save:
            save(values, out, options)


def run_sweep(options: argparse.Namespace, out: Path) -> None:
    """Run the whole series once for each value of a numeric parameter, and show what the scores make of it."""
    name, *texts = options.sweep
    known = {each: parameters.defaults(notebook(each)) for each in NAMES}
    values = []
    for text in texts:  # all of them are checked before the first runs
        given = parameters.from_command_line([*options.p, (name, text)], known, RANGES, ROOT)
        values.append(next(given[each][name] for each in NAMES if name in given[each]))
    if not values or not all(type(value) in (int, float) for value in values):
        raise Refused(f"--sweep {' '.join(options.sweep)}: it takes a numeric parameter and one or more values.")
    for value in values:
        print(f"--- {name} = {value:g}", flush=True)
        run_series(options, [*options.p, (name, str(value))], sweep.folder(out, name, value))
    with guard.sole_writer(out, ROOT):
        sweep.collect(name, values, out)


def main() -> int:
    """Run, and return the exit status: 0 done, 1 a notebook failed, 2 refused, 128 + n stopped by signal n."""
    surroundings.settle()
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
        number = error.number
        print(
            f"\nStopped by {signal.Signals(number).name}. Finished notebooks are kept; to go on, type:\n{guard.command()}"
        )
        return 128 + number


if __name__ == "__main__":
    sys.exit(main())
