"""A function called in a process of its own: what it returns, what it raises, and how it ends."""

import subprocess
import sys

import pytest

from driver import Refused
from driver.processes import CHILD, in_child

WORK = """
import os
import threading
import time
from helpers.files import MB


def double(number, path=None):
    print("on the way")
    return {"twice": 2 * number, "sees": os.environ.get("SEEN"), "MB": MB}


def fail(kind):
    raise {"value": ValueError("12 rows are too few"), "key": KeyError("text"), "type": TypeError("a fault")}[kind]


def die():
    os.kill(os.getpid(), 9)


def leave_a_thread(path):
    threading.Thread(target=lambda: time.sleep(20) or open(path, "w").close()).start()
    return "done"
"""


@pytest.fixture
def root(fresh):
    """Return a project with functions to call."""
    (fresh.folder / "work.py").write_text(WORK)
    return fresh.folder


def test_what_it_returns_comes_back_and_it_sees_the_variables_given(root):
    found = in_child("work:double", {"number": 2, "path": root}, root, {"SEEN": "this"})
    assert found == {"twice": 4, "sees": "this", "MB": 2**20}


@pytest.mark.parametrize("kind, text", [("value", "12 rows are too few"), ("key", "KeyError('text')")])
def test_an_error_that_tells_what_is_wrong_is_a_refusal(root, kind, text):
    with pytest.raises(Refused) as caught:
        in_child("work:fail", {"kind": kind}, root)
    assert str(caught.value) == text


def test_any_other_end_is_named(root, capfd):
    with pytest.raises(Refused, match=r"work:fail ended with exit status 1"):
        in_child("work:fail", {"kind": "type"}, root)
    assert "TypeError: a fault" in capfd.readouterr().err
    with pytest.raises(Refused, match=r"work:die ended with exit status -9 .*out of memory"):
        in_child("work:die", {}, root)


def test_it_does_not_wait_for_a_thread_that_has_stalled(root):
    assert in_child("work:leave_a_thread", {"path": root / "later"}, root) == "done"
    assert not (root / "later").exists()


def test_the_projects_modules_come_before_all_others(root, tmp_path):
    (tmp_path / "work.py").write_text("raise ImportError('the wrong work')")
    command = [sys.executable, "-c", CHILD, str(root), str(root / "notebooks"), "work:double", '{"number": 1}']
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.stdout.splitlines()[0] == "on the way", done.stderr
