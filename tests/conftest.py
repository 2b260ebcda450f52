"""What several test files share: the one whole mini run, made once, and toy projects."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from toy import Project, wait_for

from driver import parameters, processes, surroundings
from helpers import files, machine

ROOT = Path(__file__).parents[1]
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in every kernel, before anything imports torch
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # no card is seen: the same tests on every machine


MINI = [sys.executable, ROOT / "run_all.py", "--mini"]
WORKER = os.environ.get("PYTEST_XDIST_WORKER")  # gw0 and so on; None where pytest runs alone


def run_mini(out, *more):
    """Run the README's main job into the folder and return the finished process."""
    return subprocess.run([*MINI, "--out", out, *more], capture_output=True, text=True, cwd=out.parent)


def pytest_collection_modifyitems(items):
    """Put the files with tests of what goes on in the background last: the one whole mini run, and the making of its models."""
    late = {item.path for item in items if {"mini_out", "rebuilt"} & set(item.fixturenames)}
    items.sort(key=lambda item: item.path in late)


@pytest.fixture(autouse=True)
def gpus_as_before():
    """Undo what a test does to the variable that shows GPUs."""
    yield
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """Return a folder that all of pytest's workers see."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if WORKER else base


class Background:
    """A process that the first worker starts with the session, and whose end every worker can wait for."""

    def __init__(self, folder, name):
        self.log, self.status = folder / f"{name}.log", folder / f"{name}.status"

    def run(self, command, **given):
        """Run the command and note its exit status; yield meanwhile."""
        with open(self.log, "w") as file:
            process = subprocess.Popen(command, stdout=file, stderr=file, **given)

        def note():
            files.write_whole(self.status, str(process.wait()))

        waiting = threading.Thread(target=note)
        waiting.start()
        yield
        if not WORKER:  # else another one may wait for it
            process.terminate()
        waiting.join()

    def wait(self):
        """Wait until the process has ended well."""
        wait_for(self.status.exists, 900)
        assert self.status.read_text() == "0", self.log.read_text()[-3000:]


def is_asked_for(fixture, request):
    """Return whether this worker is to start what the fixture stands for: the first one, when any test asks for it."""
    return WORKER in (None, "gw0") and any(fixture in item.fixturenames for item in request.session.items)


@pytest.fixture(scope="session", autouse=True)
def mini_run(request, shared):
    """Start the whole mini run first of all when any test asks for it."""
    if not is_asked_for("mini_out", request):
        yield
        return
    out = shared / "runs" / "mini"
    out.parent.mkdir()
    yield from Background(shared, "mini").run([*MINI, "--out", out], cwd=out.parent)


@pytest.fixture(scope="session", autouse=True)
def pretraining(request, shared):
    """Start to pretrain the miniature models anew when any test asks for it."""
    if not is_asked_for("rebuilt", request):
        yield
        return
    company = parameters.defaults(ROOT / "notebooks/01_data.ipynb")["COMPANY"]
    asked = {
        "cache": shared / "rebuilt",
        "dataset": "",
        "company": company,
        "given": {},
        "pretrain": 140,
        "left_out": "",
        "make": True,
    }
    command = processes.child_command("driver.prepare:make_mini", asked, ROOT)
    environment = surroundings.settled(os.environ) | machine.pins()
    yield from Background(shared, "pretraining").run(command, cwd=ROOT, env=environment)


@pytest.fixture(scope="session")
def rebuilt(pretraining, shared):
    """Return the cache with the miniature models made anew, once their pretraining has ended well."""
    Background(shared, "pretraining").wait()
    return shared / "rebuilt"


@pytest.fixture(scope="session")
def mini_out(mini_run, shared):
    """Return the output folder of the whole mini run, once it has ended well."""
    Background(shared, "mini").wait()
    return shared / "runs" / "mini"


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
