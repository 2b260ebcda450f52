"""--prefetch: the data and models of the full study into the hub's cache; runs then need no network.

In a process of its own: a download that has stalled cannot be told to stop.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from driver import Refused, guard
from driver.in_kernel import in_lines
from driver.parameters import sources
from helpers.files import MB

REVISIONS = {"DATASET": "REVISION", "DISTILBERT": "DISTILBERT_REVISION", "GPT2": "GPT2_REVISION"}


def wanted(values: dict[str, dict], root: Path) -> list[tuple[str, str, str, str]]:
    """Return (parameter, repository, revision, config) of each data set and model that the values name on the hub."""
    found = set()
    for given in values.values():
        for name, path in sources(given, root).items():
            if path is None and name in REVISIONS:
                config = given["CONFIG"] if name == "DATASET" else ""
                found.add((name, given[name], given[REVISIONS[name]], config))
    return sorted(found)


def fetch(values: dict[str, dict], root: Path) -> None:
    """Download what the values name on the hub, and print where it is; Refused when the hub does not serve it."""
    os.environ[guard.MARK] = mark = f"prefetch {os.getpid()}"
    guard.stop_on_signals(mark)
    command = [sys.executable, "-m", "driver.prefetch", json.dumps(wanted(values, root))]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise Refused(f"the download ended with exit status {done.returncode}.")
    answer = json.loads(done.stdout.splitlines()[-1])
    if isinstance(answer, str):
        raise Refused(answer)
    for line in answer:
        print(line)
    print("A run with these now needs no network.")


def main(wanted: list[list[str]]) -> None:
    """Print, as JSON, a line about each download, or the text of the error that stopped one of them."""
    in_lines(sys.stderr)
    from helpers.hub import MODEL_FILES, data_pattern, hub_snapshot

    answer = []
    try:
        for parameter, repository, revision, config in wanted:
            kind, patterns = ("dataset", [data_pattern(config)]) if config else ("model", MODEL_FILES)
            folder = hub_snapshot(repository, revision, kind, patterns, parameter)
            files = [file for pattern in patterns for file in folder.glob(pattern)]
            size = sum(file.stat().st_size for file in files) / MB
            answer.append(f"{repository}: {len(files)} files, {size:,.1f} MB in {folder}")
    except (OSError, ValueError) as error:
        answer = str(error)
    print(json.dumps(answer), flush=True)
    os._exit(0)  # without waiting for a download that has stalled


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
