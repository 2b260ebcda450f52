"""Failures are loud: each names its stage, cell, cause and fix, and loses nothing on its way from another process."""

import contextlib
import os
import pickle
import time

import nbformat
import psutil
import pytest
from toy import LOCKED, NAMES, alive, keeps, pids, ran, statuses

import driver

RAISED = {
    "refused": (driver.Refused("no such notebook"), {}, "no such notebook"),
    "stopped": (driver.Stopped(15), {"number": 15}, "15"),
    "unmade": (driver.Unmade("nothing wrote a.json"), {}, "nothing wrote a.json"),
    "cell": (driver.CellFailed(3, "KeyError: 'key'", "look"), {"index": 3, "fix": "look"}, "KeyError: 'key'"),
    "killed": (driver.KernelKilled(3, "out of memory", "fewer"), {"index": 3, "fix": "fewer"}, "out of memory"),
    "failed": (driver.Failed(("a",), ("b",)), {"failures": ("a",), "not_started": ("b",)}, "(('a',), ('b',))"),
}


@pytest.mark.parametrize("error, fields, text", RAISED.values(), ids=RAISED)
def test_an_exception_comes_whole_from_another_process(error, fields, text):
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is type(error) and str(found) == text == str(error)
    assert {name: getattr(found, name) for name in fields} == fields


# --- every failure is loud --------------------------------------------------------------------------------------------

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
        "def write(path, content):\n    path.name == 'held_out.parquet' or whole(path, content)",
        "nothing wrote data/held_out.parquet",
    ),
    "artefact empty": (
        "def write(path, content):\n    whole(path, content)\n    path.suffix == '.json' and path.write_text('')",
        "results/02_test_data.json is empty",
    ),
    "artefact unreadable": (
        "def write(path, content):\n    whole(path, content)\n    path.write_bytes(path.read_bytes()[:-2])",
        "data/held_out.parquet is not a whole .parquet file, results/02_test_data.json is not JSON",
    ),
}


@pytest.mark.parametrize("code, words", LOUD.values(), ids=LOUD)
def test_every_failure_is_loud_and_nothing_downstream_starts(project, code, words):
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


@pytest.mark.slow
def test_a_kernel_that_cannot_start_is_loud_and_its_log_says_why(fresh):
    (fresh.folder / "broken/ipykernel").mkdir(parents=True)
    (fresh.folder / "broken/ipykernel/__init__.py").write_text("raise ImportError('broken on purpose')")
    failed = fresh.run(env=os.environ | {"PYTHONPATH": str(fresh.folder / "broken")})
    assert failed.returncode == 1 and "FAILED 01_data\n" in failed.stderr and "Kernel died before" in failed.stderr
    log = (fresh.out / "executed/01_data.log").read_text()
    assert (
        "01_data.log" in failed.stderr and log.count("ImportError: broken on purpose") == 3
    )  # as often as it is tried


# --- time and output --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["--cell-limit", "--stage-limit"])
def test_a_hanging_cell_ends_at_a_limit(fresh, limit):
    fresh.add("01_data", LOCKED)
    failed = fresh.run(
        "--only", "01_data", limit, "0.05", timeout=100
    )  # it takes five seconds; the cell would never end
    assert failed.returncode == 1
    assert "cell 3 of 5, Work" in failed.stderr and f"{limit} 0.05" in failed.stderr and "time limit" in failed.stderr
    assert not alive(pids(fresh))


@pytest.mark.slow
def test_many_short_cells_end_at_the_notebooks_limit(fresh):
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


UNREAD = """
import os, signal, time
from IPython.display import display
os.kill(os.getppid(), signal.SIGSTOP)  # a driver that a busy machine does not let read
for i in range(5_000):
    display(i)
time.sleep(1)
os.kill(os.getppid(), signal.SIGCONT)
"""


def test_no_message_of_a_kernel_is_lost_on_a_driver_that_is_slow_to_read(fresh):
    fresh.add("01_data", UNREAD)
    done = fresh.run("--only", "01_data", timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    page = nbformat.read(fresh.out / "executed/01_data.ipynb", 4)
    assert [output.data["text/plain"] for output in page.cells[5].outputs] == [str(i) for i in range(5_000)]


@pytest.mark.slow
def test_a_flood_of_output_stays_in_the_log(fresh):
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
