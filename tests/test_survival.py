"""What the driver promises when machines misbehave: each promise with a real fault, on toy notebooks.

"Nothing lost": finished stages keep their bytes, no stage counts as finished unless it is whole, and the same command,
with no flag, then runs only what is unfinished and ends as an undisturbed run does.
"""

import contextlib
import hashlib
import inspect
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import psutil
import pytest
from toy import MAKES, NAMES, Project, notebook, ran

posix = pytest.mark.skipif(os.name != "posix", reason="signals, /proc and tmpfs as on Linux; Windows is not tested")
pytestmark = posix

BUSY = """
import os, subprocess, time
from pathlib import Path
sleeper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
Path(OUT, "pids").write_text(f"{os.getpid()} {sleeper.pid}")
"""
DEAF = BUSY + "while True:\n    try:\n        time.sleep(1000)\n    except BaseException:\n        pass\n"
LOCKED = BUSY + "sum(range(10**13))  # holds the interpreter's lock\n"


def wait_for(condition, seconds: float = 30):
    """Return the condition's first true value; fail when it stays false for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if value := condition():
                return value
        time.sleep(0.02)
    pytest.fail("waited in vain")


def pids(project) -> list[int]:
    """Return the process ids that a BUSY cell wrote down, once it has."""
    return [int(pid) for pid in wait_for(lambda: (project.out / "pids").read_text()).split()]


def alive(numbers: list[int]) -> list[int]:
    """Return those of the processes that still run."""
    return [n for n in numbers if psutil.pid_exists(n) and psutil.Process(n).status() != psutil.STATUS_ZOMBIE]


def statuses(path: Path) -> list[str]:
    """Return the status of each code cell of an executed notebook, the injected parameters' first."""
    return [c.metadata.papermill.status for c in nbformat.read(path, 4).cells if c.cell_type == "code"]


def finishes(project, names: tuple) -> None:
    """Check that the same command, with no flag, runs just these notebooks and leaves nothing temporary."""
    done = project.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert ran(done.stdout) == list(names)
    assert not [path for path in project.out.rglob(".*") if ".tmp" in path.name]
    assert not list(project.out.rglob("*.failed.ipynb"))


def keeps(project, before: dict, names: tuple) -> None:
    """Check that every file of these finished notebooks has the bytes it had."""
    kept = [f for name in names for f in (*MAKES[name], f"executed/{name}.json", f"executed/{name}.ipynb")]
    assert kept and {f: project.files()[f] for f in kept} == {f: before[f] for f in kept}


# --- 1, 11: any place, any home, this interpreter ---------------------------------------------------------------------


def test_1_runs_in_an_odd_path_with_an_empty_home_from_anywhere(tmp_path):
    project = Project(tmp_path / "a {strange} päth's $HOME %s")
    (tmp_path / "home").mkdir()
    environment = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
    done = project.run("--only", "01_data", "02_test_data", cwd="/", env=environment)
    assert done.returncode == 0, done.stderr


def test_11_the_kernel_is_this_interpreter_whatever_kernelspecs_say(fresh):
    spec = fresh.folder / "share/kernels/python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "x", "language": "python"}')
    fresh.add("01_data", "import sys\nprint(sys.executable)")
    done = fresh.run("--only", "01_data", env=os.environ | {"JUPYTER_PATH": str(fresh.folder / "share")})
    assert done.returncode == 0, done.stderr
    assert sys.executable in (fresh.out / "executed/01_data.ipynb").read_text()


# --- 2: every failure is loud -----------------------------------------------------------------------------------------

REWRITE = "from toy_files import write as whole\n"
LOUD = {
    "exception": ("{}['key']", "KeyError: 'key'"),
    "sys.exit(0)": ("import sys\nsys.exit(0)", "SystemExit: 0"),
    "exit()": ("exit()", "SystemExit: the cell calls exit()"),
    "os._exit(0)": ("import os\nos._exit(0)", "the kernel ended by itself (exit status 0)"),
    "failing command": ("!ls /no/such/folder", "CalledProcessError: Command 'ls /no/such/folder' returned non-zero"),
    "failing command, taken": ("x = !exit 3", "returned non-zero exit status 3"),
    "failing bash cell": ("%%bash\nfalse", "CalledProcessError"),
    "crash": ("import ctypes\nctypes.string_at(0)", "the kernel died of SIGSEGV"),
    "artefact missing": (
        "def write(path, content):\n    path.name == 'test.parquet' or whole(path, content)",
        "nothing wrote data/test.parquet",
    ),
    "artefact empty": (
        "def write(path, content):\n    whole(path, content)\n    path.suffix == '.json' and path.write_text('')",
        "results/02_test_data.json is empty",
    ),
    "artefact unreadable": (
        "def write(path, content):\n    whole(path, content)\n    path.write_bytes(path.read_bytes()[:-2])",
        "data/test.parquet is not a whole .parquet file, data/unseen.parquet is not a whole .parquet file, "
        "results/02_test_data.json is not JSON",
    ),
}


@pytest.mark.parametrize("code, words", LOUD.values(), ids=LOUD)
def test_2_every_failure_is_loud_and_nothing_downstream_starts(project, code, words):
    before = project.files()
    project.add("02_test_data", (REWRITE if "write(" in code else "") + code)
    failed = project.run()
    assert failed.returncode == 1 and words in failed.stderr, failed.stderr
    assert "FAILED 02_test_data" in failed.stderr and "type the same command again" in failed.stderr
    assert "write(" in code or "02_test_data, cell 3 of 5, Work" in failed.stderr
    assert ran(failed.stdout) == [] and not [name for name in NAMES[2:] if name in failed.stdout]
    if "write(" not in code:  # 4: no cell that did not run reads as done
        assert (
            statuses(project.out / "executed/02_test_data.failed.ipynb")
            == ["completed"] * 3 + ["failed"] + ["pending"] * 2
        )
    keeps(project, before, ("01_data", *NAMES[2:]))


def test_2_a_kernel_that_cannot_start_is_loud_and_its_log_says_why(fresh):
    (fresh.folder / "broken/ipykernel").mkdir(parents=True)
    (fresh.folder / "broken/ipykernel/__init__.py").write_text("raise ImportError('broken on purpose')")
    failed = fresh.run(env=os.environ | {"PYTHONPATH": str(fresh.folder / "broken")})
    assert failed.returncode == 1 and "FAILED 01_data\n" in failed.stderr and "Kernel died before" in failed.stderr
    log = (fresh.out / "executed/01_data.log").read_text()
    assert (
        "01_data.log" in failed.stderr and log.count("ImportError: broken on purpose") == 3
    )  # as often as it is tried


# --- 3: kernel death --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [DEAF, LOCKED], ids=["deaf", "locked"])
def test_3_a_killed_kernel_is_seen_soon_and_leaves_no_orphan(fresh, code):
    fresh.add("01_data", code)
    run = fresh.start("--only", "01_data")
    kernel, child = pids(fresh)
    os.kill(kernel, signal.SIGKILL)
    assert run.wait(timeout=60) == 1  # it takes a second; the cell itself would never end
    said = (fresh.folder / "driver.txt").read_text()
    assert (
        "FAILED 01_data, cell 3 of 5, Work" in said and "the kernel was killed" in said and "lower BATCH_SIZE" in said
    )
    assert not alive([kernel, child])
    assert statuses(fresh.out / "executed/01_data.failed.ipynb") == ["completed"] * 3 + ["failed"] + ["pending"] * 2
    assert fresh.manifest("01_data") is None


# --- 6, 7: signals, and the end of the driver itself ------------------------------------------------------------------


@pytest.mark.parametrize(
    "number, code",
    [(signal.SIGINT, DEAF), (signal.SIGTERM, DEAF), (signal.SIGHUP, DEAF), (signal.SIGTERM, LOCKED)],
    ids=["INT", "TERM", "HUP", "TERM, locked"],
)
def test_6_a_signal_stops_cleanly_and_soon(project, number, code):
    before = project.files()
    clean = project.path("02_test_data").read_bytes()
    project.add("02_test_data", code)
    run = project.start()
    busy = pids(project)
    assert len(alive(busy)) == 2
    run.send_signal(number)
    assert run.wait(timeout=60) == 128 + number  # it takes a second
    assert not alive(busy)
    assert f"Stopped by {number.name}" in (project.folder / "driver.txt").read_text()
    assert (
        statuses(project.out / "executed/02_test_data.failed.ipynb") == ["completed"] * 3 + ["failed"] + ["pending"] * 2
    )
    keeps(project, before, NAMES)
    project.path("02_test_data").write_bytes(clean)
    (project.out / "data/test.parquet").unlink()
    finishes(project, ("02_test_data",))


KIT = """
import os, subprocess, time


def prepare(dataset, company, cache, pretrain, make):
    sleeper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    (cache / "pids").write_text(f"{os.getpid()} {sleeper.pid}")
    time.sleep(1000)
"""


def test_6_a_signal_ends_the_making_of_the_offline_kit_too(fresh):
    (fresh.folder / "mini").mkdir()
    (fresh.folder / "mini/__init__.py").write_text(KIT)
    run = fresh.start("--mini")
    busy = [int(pid) for pid in wait_for(lambda: (fresh.folder / "runs/cache/pids").read_text()).split()]
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=60) == 128 + signal.SIGTERM
    assert not alive(busy)


def test_6_what_the_parent_ignores_stays_ignored(fresh):
    fresh.add("01_data", "import time\nfrom pathlib import Path\nPath(OUT, 'pids').write_text('1')\ntime.sleep(2)")
    run = subprocess.Popen(
        ["nohup", *fresh.command("--only", "01_data")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    pids(fresh)
    run.send_signal(signal.SIGHUP)
    assert run.wait(timeout=30) == 0


SWEPT = """
import psutil
left = [n for n in {busy} if psutil.pid_exists(n) and psutil.Process(n).status() != psutil.STATUS_ZOMBIE]
assert not left and not Path({dead!r}).exists(), left
"""


@pytest.mark.parametrize("code", [DEAF, LOCKED], ids=["deaf", "locked"])
def test_7_after_kill_9_of_the_driver_the_next_start_sweeps_and_goes_on(fresh, code):
    good = fresh.path("03_distilbert_lora").read_bytes()
    fresh.add("03_distilbert_lora", code)
    run = fresh.start()
    busy = pids(fresh)
    before = fresh.files()
    run.kill()
    run.wait()
    assert alive(busy)
    (note,) = (fresh.out / "executed/.tmp").glob("*.elsewhere")
    sockets = Path(note.read_text())
    assert list(sockets.iterdir())
    dead = fresh.out / f"data/.train.{run.pid}.tmp.parquet"
    dead.write_text("half")
    (fresh.out / f"models/.03_distilbert_lora.{run.pid}.tmp").mkdir(parents=True)
    mine = fresh.out / f"data/.test.{os.getpid()}.tmp.parquet"
    mine.write_text("still being written by a process that is alive")
    fresh.path("03_distilbert_lora").write_bytes(good)
    fresh.add("03_distilbert_lora", SWEPT.format(busy=busy, dead=str(dead)))  # gone before a cell runs, not after
    done = fresh.run("--only", "03_distilbert_lora")
    assert done.returncode == 0, done.stderr
    assert not alive(busy) and not dead.exists() and mine.exists() and not sockets.exists()
    mine.unlink()
    keeps(fresh, before, ("01_data", "02_test_data"))
    finishes(fresh, NAMES[3:])


# --- 5: all or nothing ------------------------------------------------------------------------------------------------

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


def test_5_killed_at_200_random_moments_never_an_incomplete_stage_taken_for_whole(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        halves = [pool.submit(kill_often, Project(tmp_path / f"toy{i}"), random.Random(i)) for i in range(2)]
        assert min(half.result() for half in halves) > KILLS // 16


# --- 8: a full disk ---------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(fresh):
    """A toy project that has run, its output folder being a disk of two megabytes."""
    fresh.out.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", fresh.out], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {mounted.stderr.strip()}")
    try:
        assert fresh.run("--only", "01_data", "02_test_data").returncode == 0
        yield fresh
    finally:
        subprocess.run(["umount", "-l", fresh.out], check=True)


def fill(folder: Path, pages: int = 0) -> None:
    """Fill the folder's disk but for so many pages of 4096 bytes."""
    with open(folder / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    os.truncate(folder / "filler", (folder / "filler").stat().st_size - 4096 * pages)


def test_8_a_disk_full_from_the_start(disk):
    before = disk.files()
    fill(disk.out)
    failed = disk.run()
    assert failed.returncode in (1, 2) and "No space left on device" in failed.stderr, failed.stderr
    (disk.out / "filler").unlink()
    keeps(disk, before, NAMES[:2])
    finishes(disk, NAMES[2:])


def test_8_a_disk_that_fills_inside_a_cell(disk):
    before = disk.files()
    disk.add("03_distilbert_lora", "from pathlib import Path\nPath(OUT, 'large').write_bytes(b'x' * 4_000_000)")
    failed = disk.run()
    assert failed.returncode == 1 and "FAILED 03_distilbert_lora, cell 3 of 5, Work" in failed.stderr
    assert "No space left on device" in failed.stderr and "make room" in failed.stderr
    keeps(disk, before, NAMES[:2])
    disk.path("03_distilbert_lora").write_text(nbformat.writes(notebook("03_distilbert_lora")))
    (disk.out / "large").unlink()
    finishes(disk, NAMES[2:])


def fill_at_the_end(project, name: str, pages: int) -> None:
    """Make the notebook's last cell fill the disk but for so many pages."""
    code = f"import contextlib, os\nfrom pathlib import Path\n\n\n{inspect.getsource(fill)}\n\nfill(Path(OUT), {pages})"
    project.edit(name, code, cell=-1)


def test_8_a_disk_that_fills_before_the_executed_notebook_is_saved_keeps_the_one_before(disk):
    before = disk.files()
    fill_at_the_end(disk, "02_test_data", 0)
    failed = disk.run("-p", "TEST_ROWS", "3")
    assert failed.returncode == 1 and "FAILED 02_test_data" in failed.stderr and "make room" in failed.stderr
    after = disk.files()
    assert all(
        after[f"executed/02_test_data.{end}"] == before[f"executed/02_test_data.{end}"] for end in ("ipynb", "json")
    )
    keeps(disk, before, NAMES[:1])
    (disk.out / "filler").unlink()
    disk.path("02_test_data").write_text(nbformat.writes(notebook("02_test_data")))
    finishes(disk, NAMES[1:])


def test_8_a_disk_that_fills_between_any_two_files(disk):
    saved = []
    for pages in range(8):
        fill_at_the_end(disk, "03_distilbert_lora", pages)
        last = disk.run("--only", "03_distilbert_lora")
        (disk.out / "filler").unlink()
        saved.append(sum((disk.out / f"executed/03_distilbert_lora.{end}").exists() for end in ("ipynb", "json")))
        if last.returncode == 0:
            break
        assert "FAILED 03_distilbert_lora" in last.stderr and "No space left on device" in last.stderr
        (disk.out / "executed/03_distilbert_lora.ipynb").unlink(missing_ok=True)
    assert (
        saved[0] == 0 and 1 in saved and saved[-1] == 2
    )  # nothing; the executed notebook alone; that and the manifest


# --- 9: one writer ----------------------------------------------------------------------------------------------------


def test_9_a_second_run_in_the_same_folder_refuses_without_waiting_and_no_lock_is_left_by_kill_9(fresh):
    good = fresh.path("01_data").read_bytes()
    fresh.add("01_data", DEAF)
    first = fresh.start()
    busy = pids(fresh)
    second = fresh.run("--only", "01_data", timeout=60)  # the first would never end
    assert second.returncode == 2
    assert f"Another run writes to {fresh.out} (process {first.pid}," in second.stderr
    assert first.poll() is None and len(alive(busy)) == 2
    first.kill()
    first.wait()
    fresh.path("01_data").write_bytes(good)
    assert fresh.run("--only", "01_data").returncode == 0


HOLDING = """
import sys, time
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(1.5)
"""


def test_9_a_lock_that_outlives_its_killed_run_for_a_moment_is_waited_for(fresh):
    (fresh.out / "executed").mkdir(parents=True)
    (fresh.out / "executed/.run").write_text("process 999999999, started 00:00: python run_all.py")
    command = [sys.executable, "-c", HOLDING, fresh.out / "executed/.lock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:  # as one caught between fork and exec
        assert child.stdout.readline() == "held\n"
        done = fresh.run("--only", "01_data")
    assert done.returncode == 0, done.stderr


def test_9_two_runs_in_two_folders_both_finish(fresh):
    folders = [fresh.folder / "runs" / name for name in ("one", "two")]
    runs = [fresh.start("--out", folder) for folder in folders]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    for name in NAMES[:5]:
        one, two = ((folder / f"results/{name}.json").read_bytes() for folder in folders)
        assert one == two


SHARED = """
import os, time


def prepare(dataset, company, cache, pretrain, make):
    for word in ("begin", "end"):
        with open(cache / "diary", "a") as diary:
            diary.write(f"{word} {os.getpid()}\\n")
        time.sleep(0.5)
    return {}
"""


def test_9_two_mini_runs_make_the_shared_kit_one_after_the_other(fresh):
    (fresh.folder / "mini").mkdir()
    (fresh.folder / "mini/__init__.py").write_text(SHARED)
    folders = [fresh.folder / "runs" / name for name in ("one", "two")]
    runs = [fresh.start("--mini", "--only", "01_data", "--out", folder) for folder in folders]
    assert [run.wait(timeout=60) for run in runs] == [0, 0]
    words = [line.split() for line in (fresh.folder / "runs/cache/diary").read_text().splitlines()]
    assert [word for word, _ in words] == ["begin", "end"] * 2 and words[0][1] == words[1][1] != words[2][1]


# --- 12, 13: time and output ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["--cell-limit", "--stage-limit"])
def test_12_a_hanging_cell_ends_at_a_limit(fresh, limit):
    fresh.add("01_data", LOCKED)
    failed = fresh.run(
        "--only", "01_data", limit, "0.05", timeout=100
    )  # it takes five seconds; the cell would never end
    assert failed.returncode == 1
    assert "cell 3 of 5, Work" in failed.stderr and f"{limit} 0.05" in failed.stderr and "time limit" in failed.stderr
    assert not alive(pids(fresh))


def test_12_many_short_cells_end_at_the_notebooks_limit(fresh):
    for _ in range(4):
        fresh.add("01_data", "import time\ntime.sleep(1.5)")
    failed = fresh.run("--only", "01_data", "--cell-limit", "0.05", "--stage-limit", "0.07")
    assert failed.returncode == 1 and "time limit" in failed.stderr


FLOOD = """
import sys
from IPython.display import HTML, display
for i in range(100):
    print(f"line {i} " + "x" * 1_000_000)
for i in range(10_000):
    print(f"\\rstep {i}", end="", file=sys.stderr)
handle = display("begin", display_id=True)
for i in range(3_000):
    handle.update(HTML(f"<progress value={i}></progress>" + "y" * 2_000))
for i in range(400):
    display(HTML("z" * 20_000))
print("the end")
"""


def test_13_a_flood_of_output_stays_in_the_log(fresh):
    fresh.add("01_data", FLOOD)
    run, peak = psutil.Process(fresh.start("--only", "01_data").pid), 0
    while run.is_running() and run.status() != psutil.STATUS_ZOMBIE:
        with contextlib.suppress(psutil.Error):
            peak = max(peak, run.memory_info().rss)
        time.sleep(0.02)
    said = (fresh.folder / "driver.txt").read_text()
    assert fresh.manifest("01_data"), said
    assert 20e6 < peak < 300e6
    executed, log = fresh.out / "executed/01_data.ipynb", fresh.out / "executed/01_data.log"
    assert executed.stat().st_size < 5e6 and log.stat().st_size > 100e6
    shown = "".join(o.get("text", "") for o in nbformat.read(executed, 4).cells[5].outputs)
    assert "line 0 x" in shown and "the end" in shown and "characters are only in the log" in shown
    assert "step 9999" in shown and "step 5000" not in shown
    text = log.read_bytes()
    assert all(f"line {i} x".encode() in text for i in range(100)) and b"\r" not in text
    assert text.count(b"step ") < 100 and b"\nstep 9999\n" in text
    log.unlink()


# --- 15: damage -------------------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    """Cut the file's last byte off."""
    os.truncate(path, path.stat().st_size - 1)


def flip(path: Path) -> None:
    """Flip one bit in the middle, size and times kept."""
    state, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize("hurt", [truncate, flip, Path.unlink], ids=["truncated", "one bit", "removed"])
@pytest.mark.parametrize("kind", ["models", "results", "plots", "executed"])
def test_15_damage_is_found_and_the_bytes_come_back(project, hurt, kind):
    before = project.files()
    (file,) = [f for f in project.manifest("03_distilbert_lora")["made"] if f.startswith(kind)]
    hurt(project.out / file)
    finishes(project, ("03_distilbert_lora",))
    after = project.files()
    assert all(after[f] == before[f] for f in after if not f.startswith("executed/03"))
    assert set(statuses(project.out / "executed/03_distilbert_lora.ipynb")) == {"completed"}


@pytest.mark.parametrize("change", [("{", ""), ("1", "2"), ("made", "mode"), ("SEED", "SEEK")], ids=str)
def test_15_a_manifest_that_is_not_whole_counts_for_nothing(project, change):
    path = project.out / "executed/06_comparing.json"
    path.write_text(path.read_text().replace(*change, 1))
    finishes(project, ("06_comparing",))


# --- 16: training resumes (the training itself: test_modelling.py) ----------------------------------------------------

TRAINS = """
from pathlib import Path
checkpoints = Path(OUT) / "models/checkpoints/03_distilbert_lora"
kept = sorted(path.name for path in checkpoints.glob("*"))
checkpoints.mkdir(parents=True, exist_ok=True)
(checkpoints / f"checkpoint-{len(kept)}").touch()
print("found", kept)
"""


def test_16_checkpoints_outlive_a_killed_notebook_and_go_once_it_is_whole(project):
    project.add("03_distilbert_lora", TRAINS)
    project.edit("03_distilbert_lora", "import os\nos.kill(os.getpid(), 9)", cell=-1)
    assert project.run().returncode == 1
    folder = project.out / "models/checkpoints/03_distilbert_lora"
    assert [path.name for path in folder.iterdir()] == ["checkpoint-0"]
    project.edit("03_distilbert_lora", "values", cell=-1)
    assert project.run().returncode == 0
    assert "found ['checkpoint-0']" in (project.out / "executed/03_distilbert_lora.ipynb").read_text()
    assert not folder.exists()


# --- 20: any width ----------------------------------------------------------------------------------------------------

MEETING = """
import os, time
from pathlib import Path
meeting = Path(OUT) if SEED == 1 else Path(OUT).parents[1]
(meeting / f"here {SEED}").touch()
while len(list(meeting.glob("here *"))) < 2:
    time.sleep(0.05)
"""
ONCE = """
import os
from pathlib import Path
if SEED == 2 and not Path(OUT, "killed").exists():
    Path(OUT, "killed").touch()
    os.kill(os.getpid(), 9)
"""
ALWAYS = """
import os
from pathlib import Path
if SEED == 2 and not Path(OUT, "mended").exists():
    os.kill(os.getpid(), 9)
"""


def results(project) -> dict[str, dict]:
    """Return the content of every result file by its path, the output folder's own name left out of it."""
    files = sorted(project.out.rglob("results/*.json"))
    return {str(p.relative_to(project.out)): json.loads(p.read_text().replace(str(project.out), "")) for p in files}


def test_20_side_by_side_gives_the_same_results_as_one_after_the_other(fresh):
    alone = fresh.run("--seeds", "1", "2", "3", "--controls")
    assert alone.returncode == 0, alone.stderr
    before = results(fresh)
    shutil.rmtree(fresh.out)
    together = fresh.run("--seeds", "1", "2", "3", "--controls", "--jobs", "3")
    assert together.returncode == 0, together.stderr
    assert sorted(ran(together.stdout)) == sorted(ran(alone.stdout)) and len(before) == 13
    assert results(fresh) == before
    assert re.search(r"^  seeds/2/04_gpt2_lora: cell 2 of 4, Work … \d+\.\d s$", together.stdout, re.M)


def test_20_two_jobs_do_run_at_the_same_time(project):
    project.add("03_distilbert_lora", MEETING)
    met = project.run("--seeds", "1", "2", "--jobs", "2", "--stage-limit", "0.5")
    assert met.returncode == 0, met.stderr


def test_20_one_killed_worker_runs_once_more(project):
    project.add("04_gpt2_lora", ONCE)
    done = project.run("--seeds", "1", "2", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("seeds/2/04_gpt2_lora: the kernel was killed, it runs once more") == 1
    assert project.manifest("06_comparing")["parameters"]["RUNS"][-1] == "seeds/2/05_gpt2_qlora"


@pytest.mark.parametrize("jobs", [1, 2])
def test_20_a_seed_that_always_fails_is_named_and_leaves_the_others_whole(project, jobs):
    project.add("04_gpt2_lora", ALWAYS)
    failed = project.run("--seeds", "1", "2", "3", "--jobs", jobs)
    assert failed.returncode == 1 and "FAILED seeds/2/04_gpt2_lora, cell 3 of 5, Work" in failed.stderr
    assert "Not started, for they need what failed: seeds/2/05_gpt2_qlora, 06_comparing." in failed.stderr
    whole = {name for name in (*NAMES, *(f"seeds/3/{n}" for n in NAMES[2:5])) if name in ran(failed.stdout)}
    assert whole == {*NAMES[2:5], *(f"seeds/3/{n}" for n in NAMES[2:5])}
    (project.out / "seeds/2/mended").touch()
    done = project.run("--seeds", "1", "2", "3")
    assert done.returncode == 0 and ran(done.stdout) == [
        "seeds/2/04_gpt2_lora",
        "seeds/2/05_gpt2_qlora",
        "06_comparing",
    ]


def test_20_a_signal_ends_all_jobs(project):
    project.add("03_distilbert_lora", BUSY + "while True:\n    time.sleep(1)")
    run = project.start("--seeds", "1", "2", "--jobs", "2")
    folders = (project.out, project.out / "seeds/2")
    busy = [int(pid) for folder in folders for pid in wait_for(lambda f=folder: (f / "pids").read_text()).split()]
    assert len(alive(busy)) == 4
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=60) == 128 + signal.SIGTERM and not alive(busy)
    assert "runs once more" not in (project.folder / "driver.txt").read_text()
