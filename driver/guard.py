"""One writer in a folder, and no process left behind: the lock, the kill of all that a run started, the signals."""

import contextlib
import os
import re
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from driver import Refused, Stopped, surroundings
from helpers.files import remove_leftovers, write_whole

SHORT = re.compile(r"run_all-[0-9a-f]{8}")  # the name of a folder that short_folder makes
MARK, STAGE = "RUN_ALL_OUT", "RUN_ALL_STAGE"  # environment variables by which a run knows all that its kernels started


def command() -> str:
    """Return the command line that started this run."""
    return shlex.join(["python", *sys.argv])


@contextlib.contextmanager
def sole_writer(out: Path, root: Path):
    """Hold the output folder for this run, cleared of what a killed one left; no process or temporary file outlives it."""
    held, temporary = lock(out), temporary_folder(out)
    os.environ[MARK] = str(out)
    surroundings.give_folders(temporary)
    stop_on_signals(out)
    try:
        end_processes(out)
        clear(temporary)
        temporary.mkdir()
        remove_leftovers(root, "")  # what --save writes there
        for folder in ("notebooks", "docs"):
            remove_leftovers(root / folder)
        for home in (out, *out.glob("seeds/*")):
            for folder in ("data", "models", "plots", "results", "executed"):
                remove_leftovers(home / folder)
        yield
    finally:
        end_processes(out)
        clear(temporary)
        held.release()


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
def short_folder(out: Path, longest: int):
    """Yield a new private folder outside OUT whose path has at most so many bytes, or None where none can be made.

    It goes with the block; or else, noted before it is made, at the next start in the same output folder.
    """
    name = f"run_all-{secrets.token_hex(4)}"
    note, made = temporary_folder(out) / f"{name}.elsewhere", None
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
    folder, holder = out / "executed", ""
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


def marked(out: Path, stage: str | None) -> list[psutil.Process]:
    """Return the processes that runs in this folder started, or a stage did, this one aside, and all their descendants."""
    found, marks = [], {MARK: str(out)} | ({STAGE: stage} if stage else {})
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and marks.items() <= process.environ().items():
                found += [process, *process.children(recursive=True)]
        except (psutil.Error, OSError):
            continue  # ended meanwhile, or not ours to look at
    return found


def end_processes(out: Path, stage: str | None = None) -> None:
    """Kill all that runs in this folder started, or one stage did; again while there is more, as they start others."""
    for _ in range(5):
        victims = marked(out, stage)
        for process in victims:
            try:
                process.kill()
            except psutil.Error:
                continue
        if not victims:
            return
        psutil.wait_procs(victims, timeout=2)


def stop_on_signals(out: Path) -> None:
    """Make INT, TERM and HUP end the kernels and then the run, a second one at once; ignored signals stay ignored."""
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]

    def stop(number, frame):
        for each in numbers:
            signal.signal(each, lambda number, frame: os._exit(128 + number))
        end_processes(out)
        raise Stopped(number)

    for number in numbers:
        signal.signal(number, stop)
