"""Row 5, the run: `run_all.py --mini` as after an installation, in a fresh copy of the project, and once more.

A notebook's time is split into the start of its kernel (until its first cell), its imports (Python's own account of them)
and the rest of its cells. The driver's own share is what is left of the wall clock beside these and the offline kit.
"""

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

from benchmarks import measure

IMPORTED = re.compile(r"import time:\s+\d+ \|\s+(\d+) \| (\S+)")  # one that no other import asked for


def copy_project(folder: Path) -> None:
    """Copy what git knows of the project, as it is in the working tree: no cache, nothing made before."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=measure.ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (measure.ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(measure.ROOT / name, folder / name)


def import_seconds(log: str) -> float:
    """Return the seconds of the imports in a kernel's log, from the first of a module of the series on.

    The kernel's own imports come before. The kernel's watch over its streams can write a line twice: a module counts once.
    """
    roots = {name: int(microseconds) for microseconds, name in IMPORTED.findall(log)}
    names, own = list(roots), {path.stem for path in (measure.ROOT / "notebooks").glob("*.py")}
    first = next(i for i, name in enumerate(names) if name in own)
    return sum(roots[name] for name in names[first:]) / 1e6


def split(page: dict, log: str) -> dict[str, float]:
    """Return the seconds of an executed notebook by part: the start of its kernel, its imports, the rest of its cells."""
    cells = [cell["metadata"]["papermill"] for cell in page["cells"] if cell["cell_type"] == "code"]
    begun = datetime.fromisoformat(page["metadata"]["papermill"]["start_time"])
    start = (datetime.fromisoformat(cells[0]["start_time"]) - begun).total_seconds()
    imports = import_seconds(log)
    return {"start": start, "imports": imports, "work": sum(cell["duration"] for cell in cells) - imports}


def seconds_said(output: str) -> float:
    """Return the seconds of the offline kit that a run's output tells: `mini data and models … 1 min 02 s`."""
    minutes, seconds = re.search(r"mini data and models … (?:(\d+) min )?([\d.]+) s", output).groups()
    return 60 * int(minutes or 0) + float(seconds)


def one_run() -> dict:
    """Return the seconds of a mini run by notebook and part, its kit's, its driver's and its total, and a second run's."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        copy_project(folder)
        command, environment = [sys.executable, "run_all.py", "--mini"], os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}
        seconds, output = [], ""
        for setting in (environment, os.environ):
            started = time.perf_counter()
            done = subprocess.run(command, cwd=folder, env=setting, capture_output=True, text=True)
            seconds.append(time.perf_counter() - started)
            if done.returncode:
                raise RuntimeError(f"the mini run failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
            output = output or done.stdout
        executed = folder / "runs" / "mini" / "executed"
        notebooks = {
            path.stem: split(json.loads(path.read_text()), path.with_suffix(".log").read_text())
            for path in sorted(executed.glob("*.ipynb"))
        }
    kit = seconds_said(output)
    driver = seconds[0] - kit - sum(sum(parts.values()) for parts in notebooks.values())
    return {"total": seconds[0], "again": seconds[1], "kit": kit, "driver": driver, "notebooks": notebooks}
