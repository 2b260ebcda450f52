"""What several test files share: the one whole mini run, made once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

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
