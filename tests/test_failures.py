"""Failures are loud: each names its stage, cell, cause and fix, and loses nothing on its way from another process."""

import pickle

import pytest

import driver

RAISED = {
    "refused": (driver.Refused("no such notebook"), {}, "no such notebook"),
    "stopped": (driver.Stopped(15), {"number": 15}, "15"),
    "unmade": (driver.Unmade("nothing wrote a.json"), {}, "nothing wrote a.json"),
    "cell": (driver.CellFailed(3, "KeyError: 'key'", "look"), {"index": 3, "fix": "look"}, "KeyError: 'key'"),
    "killed": (driver.KernelKilled(3, "out of memory", "fewer"), {"index": 3, "fix": "fewer"}, "out of memory"),
}


@pytest.mark.parametrize("error, fields, text", RAISED.values(), ids=RAISED)
def test_an_exception_comes_whole_from_another_process(error, fields, text):
    found = pickle.loads(pickle.dumps(error))
    assert type(found) is type(error) and str(found) == text == str(error)
    assert {name: getattr(found, name) for name in fields} == fields
