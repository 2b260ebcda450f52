"""Side by side: one writer in a folder, several notebooks at once, and jobs that run in other processes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from toy import BUSY, DEAF, NAMES, alive, pids, ran, wait_for

pytestmark = pytest.mark.skipif(
    os.name != "posix", reason="signals, /proc and tmpfs as on Linux; Windows is not tested"
)


# --- one writer -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_refuses_without_waiting_and_no_lock_is_left_by_kill_9(fresh):
    good = fresh.path("01_data").read_bytes()
    fresh.add("01_data", DEAF)
    first = fresh.start()
    busy = pids(fresh)
    second = fresh.run("--only", "01_data", timeout=300)  # the first would never end
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


def test_a_lock_that_outlives_its_killed_run_for_a_moment_is_waited_for(fresh):
    (fresh.out / "executed").mkdir(parents=True)
    (fresh.out / "executed/.run").write_text("process 999999999, started 00:00: python run_all.py")
    command = [sys.executable, "-c", HOLDING, fresh.out / "executed/.lock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:  # as one caught between fork and exec
        assert child.stdout.readline() == "held\n"
        done = fresh.run("--only", "01_data")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_runs_in_two_folders_both_finish(fresh):
    folders = [fresh.folder / "runs" / name for name in ("one", "two")]
    runs = [fresh.start("--out", folder) for folder in folders]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    for name in NAMES[:5]:
        one, two = ((folder / f"results/{name}.json").read_bytes() for folder in folders)
        assert one == two


SHARED = """
import os, time


def prepare(dataset, company, cache, **asked):
    for word in ("begin", "end"):
        with open(cache / "diary", "a") as diary:
            diary.write(f"{word} {os.getpid()}\\n")
        time.sleep(0.5)
    return {}
"""


@pytest.mark.slow
def test_two_mini_runs_make_the_shared_kit_one_after_the_other(fresh):
    (fresh.folder / "mini").mkdir()
    (fresh.folder / "mini/__init__.py").write_text(SHARED)
    folders = [fresh.folder / "runs" / name for name in ("one", "two")]
    runs = [fresh.start("--mini", "--only", "01_data", "--out", folder) for folder in folders]
    assert [run.wait(timeout=300) for run in runs] == [0, 0]
    words = [line.split() for line in (fresh.folder / "runs/cache/diary").read_text().splitlines()]
    assert [word for word, _ in words] == ["begin", "end"] * 2 and words[0][1] == words[1][1] != words[2][1]


# --- any width --------------------------------------------------------------------------------------------------------

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
if SEED == 2 and not Path(OUT, "fixed").exists():
    os.kill(os.getpid(), 9)
"""


def results(project) -> dict[str, dict]:
    """Return the content of every result file by its path, the output folder's own name left out of it."""
    files = sorted(project.out.rglob("results/*.json"))
    return {str(p.relative_to(project.out)): json.loads(p.read_text().replace(str(project.out), "")) for p in files}


@pytest.mark.slow
def test_side_by_side_gives_the_same_results_as_one_after_the_other(fresh):
    alone = fresh.run("--seeds", "1", "2", "3", "--controls")
    assert alone.returncode == 0, alone.stderr
    before = results(fresh)
    shutil.rmtree(fresh.out)
    together = fresh.run("--seeds", "1", "2", "3", "--controls", "--jobs", "3")
    assert together.returncode == 0, together.stderr
    assert sorted(ran(together.stdout)) == sorted(ran(alone.stdout)) and len(before) == 19
    assert results(fresh) == before
    assert re.search(r"^  seeds/2/04_gpt2_lora: cell 2 of 4, Work … \d+\.\d s$", together.stdout, re.M)


def test_two_jobs_do_run_at_the_same_time(project):
    project.add("03_distilbert_lora", MEETING)
    met = project.run("--seeds", "1", "2", "--jobs", "2", "--stage-limit", "3")
    assert met.returncode == 0, met.stderr


@pytest.mark.slow
def test_one_killed_worker_runs_once_more(project):
    project.add("04_gpt2_lora", ONCE)
    done = project.run("--seeds", "1", "2", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("seeds/2/04_gpt2_lora: the kernel was killed, it runs once more") == 1
    assert project.manifest("06_comparing")["parameters"]["RUNS"][-1] == "seeds/2/05_gpt2_qlora"


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_seed_that_always_fails_is_named_and_leaves_the_others_whole(project, jobs):
    project.add("04_gpt2_lora", ALWAYS)
    failed = project.run("--seeds", "1", "2", "3", "--jobs", jobs)
    assert failed.returncode == 1 and "FAILED seeds/2/04_gpt2_lora, cell 3 of 5, Work" in failed.stderr
    assert (
        "Not started, for they need what failed: seeds/2/05_gpt2_qlora, 06_comparing, appendix_confidence, appendix_errors, appendix_use."
        in failed.stderr
    )
    whole = {name for name in (*NAMES, *(f"seeds/3/{n}" for n in NAMES[2:5])) if name in ran(failed.stdout)}
    assert whole == {*NAMES[2:5], *(f"seeds/3/{n}" for n in NAMES[2:5])}
    (project.out / "seeds/2/fixed").touch()
    done = project.run("--seeds", "1", "2", "3")
    assert done.returncode == 0 and ran(done.stdout) == [
        "seeds/2/04_gpt2_lora",
        "seeds/2/05_gpt2_qlora",
        *NAMES[5:],
    ]


def test_a_signal_ends_all_jobs(project):
    project.add("03_distilbert_lora", BUSY + "while True:\n    time.sleep(1)")
    run = project.start("--seeds", "1", "2", "--jobs", "2")
    folders = (project.out, project.out / "seeds/2")
    busy = [int(pid) for folder in folders for pid in wait_for(lambda f=folder: (f / "pids").read_text()).split()]
    assert len(alive(busy)) == 4
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=300) == 128 + signal.SIGTERM and not alive(busy)
    assert "runs once more" not in (project.folder / "driver.txt").read_text()
