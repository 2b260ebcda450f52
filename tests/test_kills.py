"""Kills and signals: no process is left, no stage counts as finished unless it is whole, and the same command goes on."""

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from toy import DEAF, LOCKED, MAKES, NAMES, Project, alive, finishes, keeps, pids, statuses, wait_for

pytestmark = pytest.mark.skipif(
    os.name != "posix", reason="signals, /proc and tmpfs as on Linux; Windows is not tested"
)


# --- a kernel that dies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [DEAF, LOCKED], ids=["deaf", "locked"])
def test_a_killed_kernel_is_seen_soon_and_leaves_no_orphan(fresh, code):
    fresh.add("01_data", code)
    run = fresh.start("--only", "01_data")
    kernel, child = pids(fresh)
    os.kill(kernel, signal.SIGKILL)
    assert run.wait(timeout=300) == 1  # it takes a second; the cell itself would never end
    said = (fresh.folder / "driver.txt").read_text()
    assert (
        "FAILED 01_data, cell 3 of 5, Work" in said and "the kernel was killed" in said and "lower BATCH_SIZE" in said
    )
    assert not alive([kernel, child])
    assert statuses(fresh.out / "executed/01_data.failed.ipynb") == ["completed"] * 3 + ["failed"] + ["pending"] * 2
    assert fresh.manifest("01_data") is None


# --- signals, and the end of the driver itself ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "number, code",
    [(signal.SIGINT, DEAF), (signal.SIGTERM, DEAF), (signal.SIGHUP, DEAF), (signal.SIGTERM, LOCKED)],
    ids=["INT", "TERM", "HUP", "TERM, locked"],
)
def test_a_signal_stops_cleanly_and_soon(project, number, code):
    before = project.files()
    clean = project.path("02_test_data").read_bytes()
    project.add("02_test_data", code)
    run = project.start()
    busy = pids(project)
    assert len(alive(busy)) == 2
    run.send_signal(number)
    assert run.wait(timeout=300) == 128 + number  # it takes a second
    assert not alive(busy)
    assert f"Stopped by {number.name}" in (project.folder / "driver.txt").read_text()
    assert (
        statuses(project.out / "executed/02_test_data.failed.ipynb") == ["completed"] * 3 + ["failed"] + ["pending"] * 2
    )
    keeps(project, before, NAMES)
    project.path("02_test_data").write_bytes(clean)
    (project.out / "data/held_out.parquet").unlink()
    finishes(project, ("02_test_data",))


KIT = """
import os, subprocess, time


def prepare(dataset, company, cache, **asked):
    sleeper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    (cache / "pids").write_text(f"{os.getpid()} {sleeper.pid}")
    time.sleep(1000)
"""


def test_a_signal_ends_the_making_of_the_offline_kit_too(fresh):
    (fresh.folder / "mini").mkdir()
    (fresh.folder / "mini/__init__.py").write_text(KIT)
    run = fresh.start("--mini")
    busy = [int(pid) for pid in wait_for(lambda: (fresh.folder / "runs/cache/pids").read_text()).split()]
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=300) == 128 + signal.SIGTERM
    assert not alive(busy)


def test_what_the_parent_ignores_stays_ignored(fresh):
    fresh.add("01_data", "import time\nfrom pathlib import Path\nPath(OUT, 'pids').write_text('1')\ntime.sleep(2)")
    run = subprocess.Popen(
        ["nohup", *fresh.command("--only", "01_data")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    pids(fresh)
    run.send_signal(signal.SIGHUP)
    assert run.wait(timeout=300) == 0


SWEPT = """
import psutil
left = [n for n in {busy} if psutil.pid_exists(n) and psutil.Process(n).status() != psutil.STATUS_ZOMBIE]
assert not left and not Path({dead!r}).exists(), left
"""


@pytest.mark.slow
@pytest.mark.parametrize("code", [DEAF, LOCKED], ids=["deaf", "locked"])
def test_after_kill_9_of_the_driver_the_next_start_sweeps_and_goes_on(fresh, code):
    good = fresh.path("03_distilbert_lora").read_bytes()
    fresh.add("03_distilbert_lora", code)
    run = fresh.start()
    busy = pids(fresh)
    before = fresh.files()
    run.kill()
    run.wait()
    assert alive(busy)
    sockets = [Path(note.read_text()) for note in (fresh.out / "executed/.tmp").glob("*.elsewhere")]
    assert any(list(folder.iterdir()) for folder in sockets)  # of this stage's kernel and of the next one's
    dead = fresh.out / f"data/.train.{run.pid}.tmp.parquet"
    dead.write_text("half")
    (fresh.out / f"models/.03_distilbert_lora.{run.pid}.tmp").mkdir(parents=True)
    mine = fresh.out / f"data/.test.{os.getpid()}.tmp.parquet"
    mine.write_text("still being written by a process that is alive")
    fresh.path("03_distilbert_lora").write_bytes(good)
    fresh.add("03_distilbert_lora", SWEPT.format(busy=busy, dead=str(dead)))  # gone before a cell runs, not after
    done = fresh.run("--only", "03_distilbert_lora")
    assert done.returncode == 0, done.stderr
    assert not alive(busy) and not dead.exists() and mine.exists()
    assert not any(folder.exists() for folder in sockets)
    mine.unlink()
    keeps(fresh, before, ("01_data", "02_test_data"))
    finishes(fresh, NAMES[3:])


# --- all or nothing ---------------------------------------------------------------------------------------------------

KILLS = 200
FORKS = """
import os, random, signal, sys, time
folder, out = sys.argv[1:]
sys.path.insert(0, folder)
import run_all
import driver.kernel
for line in sys.stdin:
    seed, number, delay = line.split()
    child = os.fork()
    if not child:
        os.dup2(os.open(os.path.join(folder, "driver.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
        os.dup2(1, 2)
        sys.argv = ["run_all.py", "--out", out, "-p", "SEED", seed]
        os._exit(run_all.main())
    if int(number):
        time.sleep(float(delay))
        os.kill(child, int(number))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def whole(project, name: str) -> dict | None:
    """Return the stage's manifest when every file that it lists has its hash, looked at without the driver's code."""
    with contextlib.suppress(OSError, ValueError):
        manifest = json.loads((project.out / f"executed/{name}.json").read_text())
        hashes = {f: hashlib.sha256((project.out / f).read_bytes()).hexdigest() for f in manifest["made"]}
        return manifest if hashes == manifest["made"] else None


def of_one_piece(project, name: str, manifest: dict) -> bool:
    """Return whether all that a whole stage made is there and was made by one run with the manifest's seed."""
    seed = manifest["parameters"]["SEED"]
    files = [(project.out / f).read_bytes() for f in MAKES[name]]
    page = project.out / f"executed/{name}.ipynb"
    same = all(f'"SEED": {seed}'.encode() in content for content in files) and f"SEED = {seed}" in page.read_text()
    return (
        same
        and set(manifest["made"]) == {*MAKES[name], f"executed/{name}.ipynb"}
        and set(statuses(page)) == {"completed"}
    )


def kill_often(project, chance: random.Random) -> int:
    """Kill runs of the project at random moments, look at what each left, and finish; return how many stages got done."""
    command = [sys.executable, "-c", FORKS, project.folder, project.out]
    forks = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(seed: int, number: int = 0, delay: float = 0) -> int:
        """Run the driver in a fork, send it the signal after the delay, and return how it ended."""
        print(seed, int(number), f"{delay:.3f}", file=forks.stdin, flush=True)
        return int(forks.stdout.readline())

    seed, seen, started = 1, set(), time.monotonic()
    assert run(seed) == 0
    stage_seconds = (time.monotonic() - started) / len(NAMES)
    for kill in range(KILLS // 2):
        seed += all(
            (seed, name) in seen for name in NAMES[:4]
        )  # before the end: files of other seeds are then still about
        number = signal.SIGTERM if kill % 10 == 9 else signal.SIGKILL
        assert run(seed, number, chance.uniform(0, 1.4) * stage_seconds) in (-number, 128 + number, 0)
        done = {name: manifest for name in NAMES if (manifest := whole(project, name))}
        assert all(of_one_piece(project, name, manifest) for name, manifest in done.items())
        seen |= {(seed, name) for name, manifest in done.items() if manifest["parameters"]["SEED"] == seed}
    assert run(seed) == 0
    forks.stdin.close()
    assert all(of_one_piece(project, name, project.manifest(name)) for name in NAMES)
    assert {project.manifest(name)["parameters"]["SEED"] for name in NAMES} == {seed}
    assert not [path for path in project.out.rglob(".*") if ".tmp" in path.name]
    assert not list(project.out.rglob("*.failed.ipynb"))
    return len(seen)


@pytest.mark.slow
def test_killed_at_200_random_moments_never_an_incomplete_stage_taken_for_whole(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        halves = [pool.submit(kill_often, Project(tmp_path / f"toy{i}"), random.Random(i)) for i in range(2)]
        assert min(half.result() for half in halves) > KILLS // 16


# --- a training goes on (the training itself: test_training.py) -------------------------------------------------------

TRAINS = """
from pathlib import Path
checkpoints = Path(OUT) / "models/checkpoints/03_distilbert_lora"
kept = sorted(path.name for path in checkpoints.glob("*"))
checkpoints.mkdir(parents=True, exist_ok=True)
(checkpoints / f"checkpoint-{len(kept)}").touch()
print("found", kept)
"""


def test_checkpoints_outlive_a_killed_notebook_and_go_once_it_is_whole(project):
    project.add("03_distilbert_lora", TRAINS)
    project.edit("03_distilbert_lora", "import os\nos.kill(os.getpid(), 9)", cell=-1)
    assert project.run().returncode == 1
    folder = project.out / "models/checkpoints/03_distilbert_lora"
    assert [path.name for path in folder.iterdir()] == ["checkpoint-0"]
    project.edit("03_distilbert_lora", "values", cell=-1)
    assert project.run().returncode == 0
    assert "found ['checkpoint-0']" in (project.out / "executed/03_distilbert_lora.ipynb").read_text()
    assert not folder.exists()
