"""What several test files share: the one whole mini run, made once, and toy projects."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy import Project

from driver import parameters, processes, surroundings
from helpers import machine

ROOT = Path(__file__).parents[1]
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in every kernel, before anything imports torch


MINI = [sys.executable, ROOT / "run_all.py", "--mini"]


def run_mini(out, *more):
    """Run the README's main job into the folder and return the finished process."""
    return subprocess.run([*MINI, "--out", out, *more], capture_output=True, text=True, cwd=out.parent)


def pytest_collection_modifyitems(items):
    """Put the tests of what goes on in the background last: the one whole mini run, and the making of its models."""
    items.sort(key=lambda item: bool({"mini_out", "rebuilt"} & set(item.fixturenames)))


@pytest.fixture(autouse=True)
def gpus_as_before():
    """Undo what a notebook's Run does to its own process: keep to one GPU."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    yield
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    if before is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = before


@pytest.fixture(scope="session", autouse=True)
def mini_run(request, tmp_path_factory):
    """Start the whole mini run first of all when any test asks for it; yield its process, log and output folder."""
    if not any("mini_out" in item.fixturenames for item in request.session.items):
        yield None
        return
    out = tmp_path_factory.mktemp("runs") / "mini"
    log = out.parent / "mini.log"
    with open(log, "w") as file:
        process = subprocess.Popen([*MINI, "--out", out], stdout=file, stderr=file, cwd=out.parent)
    yield process, log, out
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="session", autouse=True)
def pretraining(request, tmp_path_factory):
    """Start to pretrain the miniature models anew when any test asks for it; yield the process, its cache and its log."""
    if not any("rebuilt" in item.fixturenames for item in request.session.items):
        yield None
        return
    cache, log = tmp_path_factory.mktemp("rebuilt"), tmp_path_factory.mktemp("log") / "rebuilt.log"
    company = parameters.defaults(ROOT / "notebooks/01_data.ipynb")["COMPANY"]
    asked = {
        "cache": cache,
        "dataset": "",
        "company": company,
        "given": {},
        "pretrain": 140,
        "left_out": "",
        "make": True,
    }
    with open(log, "w") as file:
        command = processes.child_command("driver.prepare:make_mini", asked, ROOT)
        environment = surroundings.settled(os.environ) | machine.pins()
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd=ROOT, env=environment)
    yield process, cache, log
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="session")
def rebuilt(pretraining):
    """Return the cache with the miniature models made anew, once their pretraining has ended well."""
    process, cache, log = pretraining
    assert process.wait(900) == 0, log.read_text()[-3000:]
    return cache


@pytest.fixture(scope="session")
def mini_out(mini_run):
    """Return the output folder of the whole mini run, once it has ended well."""
    process, log, out = mini_run
    assert process.wait(900) == 0, log.read_text()[-3000:]
    return out


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
