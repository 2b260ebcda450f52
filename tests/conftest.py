"""What several test files share: the one whole mini run, made once, and toy projects."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy import Project

from driver import parameters, processes
from helpers import machine

ROOT = Path(__file__).parents[1]
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in every kernel, before anything imports torch


MINI = [sys.executable, ROOT / "run_all.py", "--mini"]


def run_mini(out, *more):
    """Run the README's main job into the folder and return the finished process."""
    return subprocess.run([*MINI, "--out", out, *more], capture_output=True, text=True, cwd=out.parent)


LONGEST = (  # files, and fixtures of several files' tests, that take longest
    *("mini_out", "test_labels", "test_kills", "test_hub", "test_training", "rebuilt", "test_run_all", "test_classify"),
)


def pytest_collection_modifyitems(items):
    """Leave to one worker the tests of a file, and those of the whole mini run or of its models; begin with the longest."""

    def group(item):
        return next((name for name in ("mini_out", "rebuilt") if name in item.fixturenames), item.path.stem)

    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
    items.sort(key=lambda item: LONGEST.index(group(item)) if group(item) in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True)
def gpus_as_before():
    """Undo what a notebook's Run does to its own process: keep to one GPU."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    yield
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if before is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = before


@pytest.fixture(scope="session")
def mini_out(tmp_path_factory):
    """Return the output folder of the whole mini run."""
    out = tmp_path_factory.mktemp("runs") / "mini"
    done = run_mini(out)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return out


@pytest.fixture(scope="session")
def rebuilt(tmp_path_factory):
    """Return the cache in which the miniature models were pretrained anew."""
    cache = tmp_path_factory.mktemp("rebuilt")
    company = parameters.defaults(ROOT / "notebooks/01_data.ipynb")["COMPANY"]
    asked = {"dataset": "", "company": company, "given": {}, "pretrain": 140, "left_out": "", "make": True}
    processes.in_child("driver.prepare:make_mini", {"cache": cache, **asked}, ROOT, machine.pins())
    return cache


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A toy project of which all six notebooks have run."""
    project = Project(tmp_path_factory.mktemp("finished") / "toy")
    done = project.run()
    assert done.returncode == 0, done.stdout + done.stderr
    project.first_output = done.stdout
    return project


@pytest.fixture
def project(finished, tmp_path):
    """A copy of the finished project, to change and run again."""
    copy = finished.copy_to(tmp_path / "toy")
    yield copy
    processes.end_processes(str(copy.out))  # what a failed test left


@pytest.fixture
def fresh(tmp_path):
    """A toy project of which nothing has run."""
    toy = Project(tmp_path / "toy")
    yield toy
    processes.end_processes(str(toy.out))  # what a failed test left
