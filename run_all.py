#!/usr/bin/env python3
"""Run the notebooks in order, skip what is up to date, and show the result: python run_all.py --mini

A notebook is finished when its manifest, OUT/executed/NAME.json, says so and every file listed there still has its hash.
Here stands the command line; driver/ does the work, and its README says which module does what.
"""

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent / "notebooks"))  # for helpers
sys.path.insert(0, str(Path(__file__).resolve().parent))  # both before PYTHONPATH, and under PYTHONSAFEPATH too

from driver import Failed, Refused, Stopped, parameters, prepare, processes, publish, records, scheduler, stages
from driver.progress import duration
from driver.scheduler import Job
from driver.stages import NAMES, Stage
from helpers import machine

ROOT = Path(__file__).resolve().parent
FLAGS = {
    "--mini": "run offline in minutes, on embedded data and miniature models",
    "--controls": "train head-only and full fine-tuning too, to compare with, each at a learning rate from a map of its own",
    "--force": "run also what is up to date",
    "--save": "publish the results after all succeeded: README, results/, plots/; of the demo the notebooks' outputs too",
    "--list": "show the notebooks, their state and parameters; run nothing",
    "--prefetch": "download the full study's data and models, then run offline; run nothing",
}


Values = dict[str, dict[str, Any]]  # {notebook: {parameter: value}}


def parse() -> argparse.Namespace:
    """Return the parsed command line; Refused when what it asks for makes no sense."""
    parser = argparse.ArgumentParser(
        description="Run the notebooks in order, skip what is up to date, and show the result."
    )
    add = parser.add_argument
    for flag, text in FLAGS.items():
        add(flag, action="store_true", help=text)
    add(
        "--pretrain",
        nargs="?",
        type=int,
        metavar="STEPS",
        default=0,
        const=140,
        help="with --mini: pretrain the miniature models on the data's other companies (140 steps), not the shipped ones",
    )
    add("--out", type=Path, metavar="DIR", help="folder of all outputs (the repository; with --mini runs/mini)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", nargs="+", metavar="NAME", help="run these notebooks only")
    which.add_argument("--from", dest="first", metavar="NAME", help="run this notebook and all after it")
    add("-p", nargs=2, action="append", metavar=("NAME", "VALUE"), default=[], help="set a parameter")
    add(
        "--seeds",
        nargs="+",
        type=int,
        metavar="SEED",
        default=[],
        help="train 03 to 05, and the controls, once for each seed (42)",
    )
    add(
        "--labels",
        nargs="?",
        type=int,
        metavar="DRAWS",
        default=0,
        const=5,
        help="train on few labelled complaints too, as many draws of them as given (5)",
    )
    add("--export", metavar="NAME", help="write a trained model, models/NAME, as a plain checkpoint; run nothing")
    help_sweep = "run the series for each value of a parameter"
    add("--sweep", nargs="+", metavar=("NAME", "VALUE"), default=[], help=help_sweep)
    add("--jobs", type=int, metavar="N", default=1, help="run up to N notebooks side by side (1)")
    add("--cluster", metavar="ADDRESS", default="", help="run notebooks on this Ray cluster, or the one here: auto")
    add("--cell-limit", type=float, metavar="MINUTES", default=720, help="end a cell after (720)")
    add("--stage-limit", type=float, metavar="MINUTES", default=1440, help="end a notebook after (1440)")
    options = parser.parse_args()
    named = {Path(name).stem for name in [*(options.only or []), options.first or ""]}
    options.controls = options.controls or bool(named & set(stages.CONTROLS))
    options.labels = options.labels or 5 * (stages.LABELS in named)
    check(options)
    return options


def check(options: argparse.Namespace) -> None:
    """Return when the options go together; Refused says which do not."""
    if options.pretrain and not options.mini:
        raise Refused(
            "--pretrain makes miniature models, so it goes with --mini. A full run takes -p DISTILBERT and -p GPT2."
        )
    if options.prefetch and options.mini:
        raise Refused("--prefetch is for the full study: --mini makes its own data and models, and needs no network.")
    if options.jobs < 1:
        raise Refused(f"--jobs {options.jobs}: at least one notebook has to run at a time.")
    if options.cluster and options.jobs > 1:
        raise Refused(
            "--jobs is for this machine alone; with --cluster, Ray runs as many at a time as there are CPUs for."
        )
    for name, number in (("--pretrain", options.pretrain), ("--labels", options.labels)):
        if number < 0:
            raise Refused(f"{name} {number}: the number must be positive.")
    demo = options.mini and "DATASET" not in [name for name, _ in options.p]
    if options.save and demo and not (options.controls and options.labels and not options.only and not options.first):
        raise Refused(
            "--save writes the outputs of all of the demo's notebooks. Add --controls --labels, without --only."
        )
    if options.sweep and (options.only or options.first or options.save):
        raise Refused("--sweep runs the whole series for each value; it does not go with --only, --from, --save.")
    if len(set(options.seeds)) < len(options.seeds):
        raise Refused(f"--seeds {' '.join(map(str, options.seeds))}: each seed must be another.")
    for seed in options.seeds:
        parameters.in_range("SEED", seed, 42)


def pins(options: argparse.Namespace) -> dict[str, str]:
    """Return what makes a mini run compute the same on every machine, unless another device or precision is asked for.

    A run on the CPU sees no card: bitsandbytes would load and quantise on it whatever DEVICE says.
    """
    asked = dict(options.p)
    pinned = options.mini and not {"DEVICE", "PRECISION"} & asked.keys()
    no_card = {"CUDA_VISIBLE_DEVICES": ""} if pinned or asked.get("DEVICE") == "cpu" else {}
    return (machine.pins() if pinned else {}) | no_card


def mini_values(options: argparse.Namespace, known: Values, given: Values, out: Path, added: dict[str, str]) -> Values:
    """Return the values of the offline demo; unless they are only listed, what lacks of data and models is made now."""
    started = time.monotonic()
    make = not options.list
    if make:
        print("mini data and models … ", end="", flush=True)
    flat = {name: value for values in given.values() for name, value in values.items()}
    asked = {
        "dataset": flat.get("DATASET", ""),
        "company": str(flat.get("COMPANY", known["01_data"]["COMPANY"])),
        "given": {name.lower(): flat[name] for name in ("DISTILBERT", "GPT2") if name in flat},
        "pretrain": options.pretrain,
        "left_out": flat.get("EXTRA_TEST", ""),
    }
    made = prepare.mini_values(ROOT, prepare.cache_folder(ROOT, out), asked, make, added)
    if make:
        print(duration(time.monotonic() - started), flush=True)
    return {
        notebook: {name: parameters.typed(name, value, known[notebook][name]) for name, value in values.items()}
        for notebook, values in made.items()
    }


def make_jobs(options: argparse.Namespace, every: list[Stage], known: Values, given: Values, out: Path) -> list[Job]:
    """Return a job for each stage, with the notebooks' values under mini's, those of the command line, and the stage's."""
    environment = pins(options) | processes.environment(out)
    mini = mini_values(options, known, given, out, environment) if options.mini else {}
    values = {name: known[name] | mini.get(name, {}) | given.get(name, {}) for name in NAMES}
    limits = scheduler.Limits(options.cell_limit, options.stage_limit)
    return scheduler.make_jobs(every, values, ROOT, out, limits, environment, options.jobs > 1 or bool(options.cluster))


def run(options: argparse.Namespace) -> None:
    """Do what the command line asks for."""
    out = (options.out or (ROOT / "runs/mini" if options.mini else ROOT)).resolve()
    if options.export:
        return prepare.export(out, options.export, ROOT)
    every = stages.series(options.seeds, options.controls, options.labels)
    chosen = stages.select(every, options.only, options.first)
    records.versions(ROOT / "requirements.txt")  # what is not installed is refused now, not at the first notebook
    known = {name: parameters.defaults(ROOT / f"notebooks/{name}.ipynb") for name in NAMES}
    asked = {stage.notebook: known[stage.notebook] for stage in chosen}
    given = parameters.from_command_line(options.p, asked, ROOT)
    if options.prefetch:
        return prepare.prefetch({name: asked[name] | given[name] for name in asked}, ROOT)
    name, *texts = options.sweep or [""]
    swept = parameters.sweep_values(name, texts, known, ROOT) if name else []
    if name:
        every = stages.swept(every, name, swept, [each for each in known if name in known[each]])
        chosen = every
    if options.list:
        return scheduler.show([job for job in make_jobs(options, every, known, given, out) if job.stage in chosen])
    with processes.sole_writer(out, ROOT):
        jobs = make_jobs(options, every, known, given, out)
        run_chosen(options, [job for job in jobs if job.stage in chosen], jobs, out)
        if name:
            publish.show_sweep(name, swept, out)
        if options.save:
            publish.save([job for job in jobs if job.stage in chosen], ROOT, out)


def run_chosen(options: argparse.Namespace, chosen: list[Job], jobs: list[Job], out: Path) -> None:
    """Run the chosen jobs, and print how long they took, and the result where there is one."""
    where = " --mini" if options.mini else ""
    where += f" --out {options.out}" if options.out else ""
    where += f" --seeds {' '.join(map(str, options.seeds))}" if options.seeds else ""
    scheduler.check_needs(chosen, jobs, f"python run_all.py{where}")
    executor: scheduler.Executor
    if options.cluster:
        from driver.cluster import ClusterExecutor

        executor = ClusterExecutor(options.cluster, out)
    else:
        executor = scheduler.LocalExecutor(options.jobs)
    outcomes = scheduler.run_jobs(chosen, executor, options.force)
    if "06_comparing" in outcomes:
        publish.show_results(out, ROOT, compare=not options.p)
    print("\nTime: " + ", ".join(f"{name} {outcome.time}" for name, outcome in outcomes.items()))
    if "06_comparing" in outcomes:
        print(f"Bar plot: {out / 'plots' / publish.FIGURE}")
    print(f"Pages: {publish.write_site(out, ROOT)}")


def told(error: Failed) -> str:
    """Return in words which stages failed, where, why, and what to do about each."""
    parts = []
    for failure in error.failures:
        where = f", {failure.cell}" if failure.cell else ""
        text = f"FAILED {failure.stage}{where}\n{failure.cause}\n" + (f"{failure.fix}\n" if failure.fix else "")
        parts.append(f"{text}See {failure.page or failure.log}; all that it printed: {failure.log}.")
    parts[-1] += (
        f"\nFix the cause, then type the same command again; finished notebooks are kept:\n{processes.command()}"
    )
    if error.not_started:
        parts.append(f"Not started, for they need what failed: {', '.join(error.not_started)}.")
    return "\n\n".join(parts)


def main() -> int:
    """Run, and return the exit status: 0 done, 1 a notebook failed, 2 refused, 128 + n stopped by signal n."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a sign that the output cannot show stops nothing
    try:
        run(parse())
        return 0
    except (Refused, OSError) as error:  # a disk or folder that the system refuses, too
        print(f"run_all.py: {error}", file=sys.stderr)
        return 2
    except Failed as error:
        print(f"\n{told(error)}", file=sys.stderr)
        return 1
    except Stopped as error:
        print(f"\nStopped by {signal.Signals(error.number).name}. Finished notebooks are kept; to go on, type:")
        print(processes.command())
        return 128 + error.number


if __name__ == "__main__":
    sys.exit(main())
