"""What several test files share: the one whole mini run, made once, and toy projects."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from toy import Project

ROOT = Path(__file__).parents[1]
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as run_all.py does, before anything imports torch


def run_mini(out, *more):
    """Run the README's main job into the folder and return the finished process."""
    command = [sys.executable, ROOT / "run_all.py", "--mini", "--out", out, *more]
    return subprocess.run(command, capture_output=True, text=True, cwd=out.parent)


@pytest.fixture(scope="session")
def mini_out(tmp_path_factory):
    """Return the output folder of a whole mini run."""
    out = tmp_path_factory.mktemp("runs") / "mini"
    done = run_mini(out)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
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
    shutil.copytree(finished.folder, tmp_path / "toy")
    copy = Project.__new__(Project)
    copy.folder, copy.out = tmp_path / "toy", tmp_path / "toy" / "runs" / "toy"
    return copy


@pytest.fixture
def fresh(tmp_path):
    """A toy project of which nothing has run."""
    return Project(tmp_path / "toy")
