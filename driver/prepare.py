"""What a run needs before its first notebook, made in a process of its own: the offline demo, or the hub's downloads."""

import contextlib
import os
from pathlib import Path
from typing import Any

from filelock import FileLock

from driver import Refused
from driver.parameters import sources
from driver.processes import MARK, in_child, stop_on_signals
from helpers.files import MB, remove_leftovers

REVISIONS = {"DATASET": "REVISION", "DISTILBERT": "DISTILBERT_REVISION", "GPT2": "GPT2_REVISION"}


def cache_folder(root: Path, out: Path) -> Path:
    """Return the folder in which what a mini run needs is kept for the next: the project's, or the run's own."""
    return (root / "runs" if os.access(root, os.W_OK) else out) / "cache"


def mini_values(
    root: Path, cache: Path, asked: dict[str, Any], make: bool, environment: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """Return mini's {notebook: {parameter: value}} for what is asked of make_mini; Refused when it cannot be made.

    Unless `make` says so, nothing is written: the values are then those of what would be made.
    """
    try:
        return in_child("driver.prepare:make_mini", {"cache": str(cache), "make": make, **asked}, root, environment)
    except Refused as error:
        raise Refused(f"The mini data and models cannot be made. {error}") from None


def make_mini(
    cache: str, dataset: str, company: str, given: dict[str, str], pretrain: int, left_out: str, make: bool
) -> dict[str, dict[str, Any]]:
    """Return what mini.prepare returns, "" for no file; one process at a time, as runs in other folders share the cache."""
    import mini

    folder = Path(cache)
    lock: contextlib.AbstractContextManager = contextlib.nullcontext()
    if make:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
    with lock:
        remove_leftovers(folder)
        data, extra = (Path(path) if path else None for path in (dataset, left_out))
        return mini.prepare(data, company, folder, given=given, pretrain=pretrain, left_out=extra, make=make)


def print_from_child(what: str, function: str, arguments: dict[str, Any], root: Path) -> None:
    """Print the lines that the function returns in a process of its own, which a signal ends."""
    mark = f"{what} {os.getpid()}"
    stop_on_signals(mark)
    for line in in_child(function, arguments, root, {MARK: mark}):
        print(line)


def export(out: Path, name: str, root: Path) -> None:
    """Write the plain checkpoint of a trained model of the run, and print what was found; Refused when it cannot be made."""
    print_from_child("export", "helpers.handover:export_from_run", {"out": str(out), "name": name}, root)


def on_the_hub(values: dict[str, dict[str, Any]], root: Path) -> list[tuple[str, str, str, str]]:
    """Return (parameter, repository, revision, config) of each data set and model that the values name on the hub."""
    found = set()
    for given in values.values():
        for name, path in sources(given, root).items():
            if path is None and name in REVISIONS:
                config = given["CONFIG"] if name == "DATASET" else ""
                found.add((name, given[name], given[REVISIONS[name]], config))
    return sorted(found)


def prefetch(values: dict[str, dict[str, Any]], root: Path) -> None:
    """Download what the values name on the hub, and print where it is; Refused when the hub does not serve it."""
    print_from_child("prefetch", "driver.prepare:download", {"wanted": on_the_hub(values, root)}, root)
    print("A run with these now needs no network.")


def download(wanted: list[list[str]]) -> list[str]:
    """Return a line about each download, once it is there."""
    from helpers.hub import MODEL_FILES, data_pattern, hub_snapshot

    lines = []
    for parameter, repository, revision, config in wanted:
        kind, patterns = ("dataset", [data_pattern(config)]) if config else ("model", MODEL_FILES)
        folder = hub_snapshot(repository, revision, kind, patterns, parameter)
        files = [file for pattern in patterns for file in folder.glob(pattern)]
        size = sum(file.stat().st_size for file in files) / MB
        lines.append(f"{repository}: {len(files)} files, {size:,.1f} MB in {folder}")
    return lines
