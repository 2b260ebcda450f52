"""One writer in a folder, no process left behind, the signals, and a function called in a process of its own."""

import atexit
import contextlib
import importlib
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from driver import Refused, Stopped, surroundings
from driver.in_kernel import in_lines
from helpers.files import remove_leftovers, write_whole

SHORT = re.compile(r"run_all-[0-9a-f]{8}")  # the name of a folder that short_folder makes
MARK, STAGE = "RUN_ALL_OUT", "RUN_ALL_STAGE"  # environment variables by which a run knows all that it started
HOMES = (
    "",
    "seeds/*",
    "draws/*",
    "sweep/*",
    "sweep/*/seeds/*",
    "sweep/*/draws/*",
)  # the folders under OUT in which stages write
CHILD = "import sys; sys.path[:0] = sys.argv[1:3]; from driver import processes; processes.answer(*sys.argv[3:])"


def command() -> str:
    """Return the command line that started this run."""
    return shlex.join(["python", *sys.argv])


def environment(out: Path) -> dict[str, str]:
    """Return the variables by which all that a run in this folder starts is known, and keeps to the run's own folder."""
    return {MARK: str(out)} | surroundings.own_folders(temporary_folder(out))


@contextlib.contextmanager
def sole_writer(out: Path, root: Path) -> Iterator[None]:
    """Hold the output folder for this run, cleared of what a killed one left; no process or temporary file outlives it."""
    held = lock(out)
    temporary = temporary_folder(out)
    stop_on_signals(str(out))
    try:
        end_processes(str(out))
        clear(temporary)
        temporary.mkdir()
        clear_leftovers(out, root)
        yield
    finally:
        end_processes(str(out))
        clear(temporary)
        held.release()


def clear_leftovers(out: Path, root: Path) -> None:
    """Remove what writers now dead left half written: in the run's folders, and where --save writes."""
    remove_leftovers(root, "")
    for folder in ("notebooks", "plots", "results"):
        remove_leftovers(root / folder)
    for home in (home for pattern in HOMES for home in ([out] if not pattern else out.glob(pattern))):
        for folder in ("data", "models", "plots", "results", "executed"):
            remove_leftovers(home / folder)


def temporary_folder(out: Path) -> Path:
    """Return the folder of what a run needs only while it goes."""
    return out / "executed" / ".tmp"


def clear(temporary: Path) -> None:
    """Remove the folder of a run that is over, and the short folders that its notes name."""
    for note in temporary.glob("*.elsewhere"):
        folder = Path(note.read_text(encoding="utf-8"))
        if SHORT.fullmatch(folder.name):
            shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def short_folder(out: Path, longest: int) -> Iterator[Path | None]:
    """Yield a new private folder outside OUT whose path has at most so many bytes, or None where none can be made.

    It goes with the block; or else, noted before it is made, at the next start in the same output folder.
    """
    name = f"run_all-{secrets.token_hex(4)}"
    note = temporary_folder(out) / f"{name}.elsewhere"
    note.parent.mkdir(parents=True, exist_ok=True)
    made = None
    parents = (tempfile.gettempdir(), "/tmp", "/var/tmp") if os.name == "posix" else ()
    for folder in (Path(parent, name) for parent in parents):
        if made is None and len(os.fsencode(folder)) <= longest:
            note.write_text(str(folder), encoding="utf-8")
            with contextlib.suppress(OSError):  # a folder that is not there, or read-only: the next one may do
                folder.mkdir(mode=0o700)
                made = folder
    try:
        yield made
    finally:
        if made:
            shutil.rmtree(made, ignore_errors=True)
        note.unlink(missing_ok=True)


def lock(out: Path) -> FileLock:
    """Return the lock on the output folder, held; Refused when another run holds it or the folder cannot be written."""
    folder = out / "executed"
    holder = ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / ".lock")
        try:
            held.acquire(timeout=0)
        except Timeout:
            with contextlib.suppress(OSError):  # it may not have said yet who it is
                holder = (folder / ".run").read_text(encoding="utf-8", errors="replace")
            told = re.match(r"process (\d+),", holder)
            # a kernel that a killed run was just starting may have its lock for a moment more, until it becomes a kernel
            held.acquire(timeout=0 if told and psutil.pid_exists(int(told[1])) else 5)
        write_whole(folder / ".run", f"process {os.getpid()}, started {datetime.now():%H:%M}: {command()}")
    except Timeout:
        by = f" ({holder})" if holder else ""
        raise Refused(f"Another run writes to {out}{by}. Wait for its end, or pass another --out.") from None
    except OSError as error:
        raise Refused(f"The output folder {out} cannot be written: {error}. Pass another one with --out DIR.") from None
    return held


def marked(mark: str, stage: str | None) -> list[psutil.Process]:
    """Return the processes that runs with this mark started, or a stage did, this one aside, and all their descendants."""
    found = []
    marks = {MARK: mark} | ({STAGE: stage} if stage else {})
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and marks.items() <= process.environ().items():
                found += [process, *process.children(recursive=True)]
        except (psutil.Error, OSError):
            continue  # ended meanwhile, or not ours to look at
    return found


def end_processes(mark: str, stage: str | None = None) -> None:
    """Kill all that runs with this mark (their folder) started, or one stage did; again while there is more."""
    for _ in range(5):
        victims = marked(mark, stage)
        for process in victims:
            try:
                process.kill()
            except psutil.Error:
                continue
        if not victims:
            return
        psutil.wait_procs(victims, timeout=2)


def stop_on_signals(mark: str) -> None:
    """Make INT, TERM and HUP end the kernels and then the run, a second one at once; ignored signals stay ignored."""
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]

    def stop(number: int, frame: object) -> None:
        for each in numbers:
            signal.signal(each, lambda number, frame: os._exit(128 + number))
        end_processes(mark)
        raise Stopped(number)

    for number in numbers:
        signal.signal(number, stop)


def in_child(function: str, arguments: dict[str, Any], root: Path, environment: dict[str, str] | None = None) -> Any:
    """Return what module:function(**arguments) returns in a process of its own, as JSON can hold it.

    Its memory is given back, and a signal ends it at once. Refused tells the error that it raised, or how it ended.
    """
    own = surroundings.settled(os.environ) | (environment or {})
    command = child_command(function, arguments, root)
    done = subprocess.run(command, cwd=root, env=own, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise Refused(f"{function} ended with exit status {done.returncode} (-9: the system was out of memory).")
    found = json.loads(done.stdout.splitlines()[-1])
    if "error" in found:
        raise Refused(found["error"])
    return found["answer"]


def child_command(function: str, arguments: dict[str, Any], root: Path) -> list[str]:
    """Return the command line of a process that calls the function of the project at the root."""
    paths = [str(root), str(root / "notebooks")]
    return [sys.executable, "-c", CHILD, *paths, function, json.dumps(arguments, default=str)]


def answer(function: str, arguments: str) -> None:
    """Print, as JSON on the last line, what the function returns, or the text of the error that says why it cannot."""
    in_lines(sys.stderr)
    module, name = function.split(":")
    try:
        found = {"answer": getattr(importlib.import_module(module), name)(**json.loads(arguments))}
    except (ValueError, LookupError, OSError) as error:
        found = {"error": repr(error) if isinstance(error, LookupError) else str(error)}
    print(json.dumps(found, default=str), flush=True)
    atexit._run_exitfuncs()
    os._exit(0)  # without waiting for a download that has stalled, which cannot be told to stop
