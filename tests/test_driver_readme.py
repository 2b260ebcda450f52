"""The driver's README names its modules and promises as they are."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "driver/README.md").read_text()


def first_cells(table: str) -> list[str]:
    """Return the first column of the Markdown table with that head."""
    rows = TEXT.partition(f"| {table} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [row.split("|")[1] for row in rows]


def test_it_names_every_module():
    named = re.findall(r"`(\w+)`", "".join(first_cells("module")))
    assert sorted(named) == sorted(path.stem for path in (ROOT / "driver").glob("[!_]*.py"))


def test_every_promise_names_tests_that_exist():
    there = {
        node.name
        for path in (ROOT / "tests").glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }
    promises = TEXT.partition("| promise |")[2].partition("\n\n")[0].splitlines()[2:]
    assert len(promises) > 20
    for promise in promises:
        tests = re.findall(r"`(test_\w+)`", promise)
        assert tests and set(tests) <= there, promise
