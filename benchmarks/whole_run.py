"""Rows 5 and 6, whole runs in a fresh copy of the project: `run_all.py --mini` as after an installation, and once more; and the
study itself, on the models and complaints given.

A notebook's time is split into the start of its kernel (until its first cell), its imports (Python's own account of them)
and the rest of its cells. The driver's own share is what is left of the wall clock beside these and the offline demo, which
is timed by itself.
"""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from benchmarks.measure import in_child
from helpers.files import ROOT

IMPORTED = re.compile(r"import time:\s+\d+ \|\s+(\d+) \| (\S+)")  # one that no other import asked for


def one_run() -> dict[tuple[str, str], float]:
    """Return {(what, unit): value} of a mini run, its driver, its demo, its notebooks by part, and of a second run."""
    with tempfile.TemporaryDirectory() as place:
        project = Path(place) / "project"
        copy_project(project)
        total = seconds_of_run(project, ["--mini"], {"PYTHONPROFILEIMPORTTIME": "1"})
        again = seconds_of_run(project, ["--mini"], {})
        executed = sorted((project / "runs" / "mini" / "executed").glob("*.ipynb"))
        notebooks = {path.stem: parts_of(path) for path in executed}
        given = {
            "cache": f"{place}/demo",
            "dataset": "",
            "company": "",
            "given": {},
            "pretrain": 0,
            "left_out": "",
            "make": True,
        }
        demo = in_child("driver.prepare:make_mini", **given)["process_seconds"]
    driver = total - demo - sum(sum(parts.values()) for parts in notebooks.values())
    return {
        ("the mini run after an installation", "s"): total,
        ("the driver's own share of it", "%"): 100 * driver / total,
        ("the same run again, nothing to do", "s"): again,
        ("of the run: the offline demo", "s"): demo,
        **{(f"of the run: {name}, {part}", "s"): s for name, parts in notebooks.items() for part, s in parts.items()},
    }


def study(models: dict[str, str], data: str) -> dict[str, float]:
    """Return {what: seconds} of 01 to 06 on these complaints and models' folders, and of each notebook."""
    with tempfile.TemporaryDirectory() as place:
        project = Path(place) / "project"
        copy_project(project)
        given = {"DATASET": data, "DISTILBERT": models["distilbert"], "GPT2": models["gpt2"]}
        options = [word for name, value in given.items() for word in ("-p", name, value)]
        stages = sorted(path.stem for path in (project / "notebooks").glob("0*.ipynb"))
        total = seconds_of_run(project, [*options, "--only", *stages], {})
        parts = {name: parts_of(project / "executed" / f"{name}.ipynb") for name in stages}
    return {"01 to 06": total, **{name: sum(seconds.values()) for name, seconds in parts.items()}}


def copy_project(folder: Path) -> None:
    """Copy what git knows of the project, as it is in the working tree: no cache, nothing made before."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def seconds_of_run(project: Path, options: list[str], environment: dict[str, str]) -> float:
    """Return the seconds of a run in the project's copy; RuntimeError has the end of what it said when it fails."""
    command = [sys.executable, "run_all.py", *options]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=project, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return time.perf_counter() - started


def parts_of(executed: Path) -> dict[str, float]:
    """Return the seconds of an executed notebook by part: the start of its kernel, its imports, the rest of its cells."""
    notebook = json.loads(executed.read_text())
    cells = [cell["metadata"]["papermill"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    begun = datetime.fromisoformat(notebook["metadata"]["papermill"]["start_time"])
    start = (datetime.fromisoformat(cells[0]["start_time"]) - begun).total_seconds()
    imports = import_seconds(executed.with_suffix(".log").read_text())
    return {"start": start, "imports": imports, "work": sum(cell["duration"] for cell in cells) - imports}


def import_seconds(log: str) -> float:
    """Return the seconds of the imports in a kernel's log, from the first of a helper on: the kernel's own come before.

    The kernel's watch over its streams can write a line twice: a module counts once.
    """
    roots = {name: int(microseconds) for microseconds, name in IMPORTED.findall(log)}
    own = itertools.dropwhile(lambda name: name.partition(".")[0] != "helpers", roots)
    return sum(roots[name] for name in own) / 1e6
