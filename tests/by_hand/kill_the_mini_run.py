"""Kill the real mini run at random moments, look at what each kill left, and let it finish: by hand, about half an hour.

    python tests/by_hand/kill_the_mini_run.py 60

Each run is killed, or asked to stop, or loses its kernel, after a random time. After each kill every stage that counts as
finished must be whole, and must have kept its bytes; and once a run has finished, its scores and weights must be those of
a run that nobody disturbed.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]


def start(out: Path) -> subprocess.Popen:
    """Start the mini run into the folder; what it says goes to a file beside it."""
    with open(out.with_suffix(".log"), "a") as log:
        return subprocess.Popen([sys.executable, ROOT / "run_all.py", "--mini", "--out", out], stdout=log, stderr=log)


def finished(out: Path) -> dict[str, dict]:
    """Return {stage: {file: hash}} of the stages whose manifest is there; fails when a file of theirs is not as listed."""
    found = {}
    for path in sorted(out.glob("executed/*.json")):
        with contextlib.suppress(ValueError):  # a manifest is never half written, which the count of stages shows
            made = json.loads(path.read_text())["made"]
            for file, digest in made.items():
                assert hashlib.sha256((out / file).read_bytes()).hexdigest() == digest, (
                    f"{path.stem}: {file} is damaged"
                )
            found[path.stem] = made
    return found


def outcome(out: Path) -> dict:
    """Return what a finished run came to: its test table, and the hash of every adapter's weights."""
    result = json.loads((out / "results/06_comparing.json").read_text())
    weights = {p.parent.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.glob("models/*/*.safetensors")}
    return {"test": result["test"], "comparisons": result["comparisons"], "weights": weights}


def disturb(run: subprocess.Popen, kind: str) -> None:
    """Kill the driver, or ask it to stop, or kill its kernel; return when the driver has ended.

    A kernel that had done its work when it was killed disturbs nothing: such a run goes on to its end.
    """
    if kind == "kernel":
        kernels = [p for p in psutil.Process(run.pid).children() if "in_kernel.py" in " ".join(p.cmdline())]
        for kernel in kernels[:1]:
            kernel.kill()
        if not kernels:
            run.kill()
    else:
        run.send_signal(signal.SIGKILL if kind == "driver" else signal.SIGTERM)
    run.wait(600 if kind == "kernel" else 10)


def main(kills: int) -> None:
    """Kill so many runs, and print what was seen."""
    folder, chance, seen = Path(tempfile.mkdtemp()), random.Random(0), Counter()
    assert start(folder / "undisturbed").wait() == 0, (folder / "undisturbed.log").read_text()[-2000:]
    wanted, out, before = outcome(folder / "undisturbed"), folder / "disturbed", {}
    started = time.monotonic()
    while seen["kills"] < kills:
        run, kind = start(out), chance.choice(["driver", "driver", "signal", "kernel"])
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(chance.uniform(1, 30))
        if run.poll() is None:
            disturb(run, kind)
            seen["kills"] += 1
            seen[kind] += 1
        now = finished(out)
        lost = [stage for stage in before if now.get(stage) != before[stage]]
        assert not lost, f"after a kill of the {kind}: {lost} had been finished, and is not any more"
        for stage in now.keys() - before.keys():
            seen["trainings resumed"] += "Going on after epoch" in (out / f"executed/{stage}.log").read_text()
        before = now
        print(f"{seen['kills']:3d} kills, {kind:6}: {len(now)} stages whole", flush=True)
        if run.returncode == 0:
            assert outcome(out) == wanted, "the run that was disturbed came to another result"
            seen["runs to their end"] += 1
            shutil.rmtree(out)
            before = {}
    assert start(out).wait() == 0 and outcome(out) == wanted, out.with_suffix(".log").read_text()[-2000:]
    seen["runs to their end"] += 1
    leftovers = [path for path in out.rglob(".*") if ".tmp" in path.name]
    orphans = [
        p.pid for p in psutil.process_iter() if str(out) in " ".join(p.cmdline() if p.pid != os.getpid() else [])
    ]
    assert not leftovers and not orphans, (leftovers, orphans)
    print(dict(seen))
    print(f"No violation in {(time.monotonic() - started) / 60:.0f} minutes.")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(int(sys.argv[1]))
