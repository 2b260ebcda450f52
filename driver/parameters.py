"""What a notebook takes: its parameters cell, read without running it, and the values given on the command line."""

import ast
import difflib
import json
import math
from pathlib import Path
from typing import Any

from driver import Refused
from helpers import minilm
from helpers.files import is_local

SOURCES = ("DATASET", "DISTILBERT", "GPT2", "EXTRA_TEST", "FILE")  # these name a hub id, or a local file or folder

RANGES = {  # of other parameters: a count from 1, a fraction from 0
    "SEED": (0, 2**32 - 1),
    "MORE_ROWS": (0, math.inf),
    "DROPOUT": (0, 1),
    "LEARNING_RATE": (0, 1),
    "CEILING": (0, 1),
}
OPTIONS = {
    "OUT": "--out DIR",
    "RUNS": "--seeds SEED … and --controls",
    "DRAWS": "--labels DRAWS",
}  # set by the driver, by way of these options


def read_notebook(path: Path) -> dict:
    """Return the notebook as plain JSON (nbformat takes a second to import); Refused when it is not there or not one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Refused(f"{path} cannot be read as a notebook: {error}") from None


def source(cell: dict) -> str:
    """Return a cell's text, which the format allows to be a list of lines."""
    return "".join(cell["source"])


def code_cells(path: Path) -> list[str]:
    """Return the texts of a notebook's code cells, in order."""
    return [source(cell) for cell in read_notebook(path)["cells"] if cell["cell_type"] == "code"]


def defaults(path: Path) -> dict[str, Any]:
    """Return the parameters cell as {name: default}; Refused when it is missing or holds more than plain values."""
    tagged = [c for c in read_notebook(path)["cells"] if "parameters" in c.get("metadata", {}).get("tags", [])]
    if len(tagged) != 1:
        raise Refused(f"{path.name} has {len(tagged)} cells tagged `parameters`; it must have one.")
    try:
        lines: list[Any] = ast.parse(source(tagged[0])).body
        return {line.targets[0].id: ast.literal_eval(line.value) for line in lines}
    except (SyntaxError, AttributeError, ValueError) as error:
        raise Refused(f"{path.name}: its parameters cell may only hold lines NAME = plain value ({error}).") from None


def closest(name: str, known: list[str]) -> str:
    """Return a sentence with the nearest known name, if one is near, and all known names."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return (f"Did you mean {near[0]}? " if near else "") + "Known: " + ", ".join(known)


def literal(text: str) -> Any:
    """Return the text read as a Python or JSON value, or the text itself when it is neither."""
    for read in (ast.literal_eval, json.loads):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            pass
    return text


def typed(name: str, value: Any, default: Any) -> Any:
    """Return the value in the default's type (a whole number will do for a float); Refused when it is of another."""
    if type(default) is float and type(value) is int:
        value = float(value)
    if default is not None and type(value) is not type(default):
        wanted = type(default).__name__
        raise Refused(
            f"{name} takes a value of type {wanted}, like {default!r}, not {value!r} ({type(value).__name__})."
        )
    return value


def in_range(name: str, value: Any, default: Any) -> Any:
    """Return the value when it is a number in its range, or no number; Refused names the range."""
    if type(value) not in (int, float):
        return value
    low, high = RANGES.get(name, (1 if type(default) is int and default >= 1 else 0, math.inf))
    if not (low <= value <= high and math.isfinite(value)):
        raise Refused(f"{name} must lie between {low} and {high}, not {value!r}.")
    return value


def local_source(name: str, text: str, root: Path) -> str:
    """Return a source's absolute path where it is a local one; Refused when it looks like a path and nothing is there."""
    for folder in (Path.cwd(), root):
        path = (folder / Path(text).expanduser()).resolve()
        if path.exists():
            return str(path)
    if is_local(text):
        raise Refused(f"{name} {text}: there is no such file or folder, seen from {Path.cwd()}. Pass an existing path.")
    return text


def sources(values: dict[str, Any], root: Path) -> dict[str, Path | None]:
    """Return {name: local path, or None where it is a hub id} of the sources among the values; an empty one is none."""
    named = {name: value for name, value in values.items() if name in SOURCES and value}
    named = {name: minilm.checkpoint() if value == minilm.NAME else root / value for name, value in named.items()}
    return {name: path if path.exists() else None for name, path in named.items()}


def sweep_values(name: str, texts: list[str], known: dict[str, dict[str, Any]], root: Path) -> list[int | float]:
    """Return the values of --sweep NAME VALUES; Refused when it is no numeric parameter, or a value misfits."""
    if name == "SEED":
        raise Refused("--sweep SEED: use --seeds, which trains only what a seed changes.")
    values = []
    for text in texts:
        given = from_command_line([(name, text)], known, root)
        values.append(next(found[name] for found in given.values() if name in found))
    if not values or not all(type(value) in (int, float) for value in values):
        asked = " ".join(["--sweep", name, *texts])
        raise Refused(f"{asked}: it takes a numeric parameter and one or more values.")
    return values


def from_command_line(
    pairs: list[tuple[str, str]], known: dict[str, dict[str, Any]], root: Path
) -> dict[str, dict[str, Any]]:
    """Return {notebook: {name: value}} for every notebook that has the parameter; Refused when none has, or it misfits."""
    values: dict[str, dict[str, Any]] = {notebook: {} for notebook in known}
    for name, text in pairs:
        takers = [notebook for notebook in known if name in known[notebook]]
        if name in OPTIONS:
            raise Refused(f"{name} is not passed with -p: use {OPTIONS[name]}.")
        if not takers:
            names = sorted({n for parameters in known.values() for n in parameters} - OPTIONS.keys())
            raise Refused(f"No parameter {name} in {', '.join(known)}. {closest(name, names)}")
        for notebook in takers:
            default = known[notebook][name]
            value = text if isinstance(default, str) else typed(name, literal(text), default)
            value = local_source(name, value, root) if name in SOURCES and value else value
            values[notebook][name] = in_range(name, value, default)
    return values
