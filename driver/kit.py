"""The offline demo, made in a process of its own: the memory of a pretraining is given back, and a signal ends it at once."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from driver import Refused
from driver.in_kernel import in_lines
from helpers.files import remove_leftovers


def cache_folder(root: Path, out: Path) -> Path:
    """Return the folder in which what a mini run needs is kept for the next: the project's, or the run's own."""
    return (root / "runs" if os.access(root, os.W_OK) else out) / "cache"


def values(root: Path, cache: Path, dataset: str, company: str, pretrain: bool, make: bool) -> dict:
    """Return mini's {notebook: {parameter: value}} for the data set ("": the embedded one); Refused when it cannot be made.

    Unless `make` says so, nothing is written: the values are then those of what would be made.
    """
    command = [sys.executable, "-m", "driver.kit", json.dumps([str(cache), dataset, company, pretrain, make])]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise Refused(
            f"the mini data and models could not be made (exit status {done.returncode}; -9 means out of memory)."
        )
    answer = json.loads(done.stdout.splitlines()[-1])
    if isinstance(answer, str):
        raise Refused(f"the mini data and models cannot be made. {answer}")
    return answer


def main(cache: str, dataset: str, company: str, pretrain: bool, make: bool) -> None:
    """Print, as JSON, what mini.prepare returns, or the text of the error that says why it cannot."""
    import mini

    in_lines(sys.stderr)
    folder, lock = Path(cache), contextlib.nullcontext()
    if make:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")  # runs in other output folders share the cache
    with lock:
        remove_leftovers(folder)
        try:
            answer = mini.prepare(Path(dataset) if dataset else None, company, folder, pretrain, make)
        except (ValueError, LookupError, OSError) as error:
            answer = f"{type(error).__name__}: {error}"
    print(json.dumps(answer, default=str))


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
