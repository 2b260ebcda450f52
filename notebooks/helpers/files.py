"""Files: where they lie, what a source is called, writing them whole, hashes of bytes and of code, and what JSON can hold."""

import ast
import contextlib
import functools
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
OWN_DRAWS = "results/draws.jsonl"  # a run's rows of finished draws of labels, and the published ones
PUBLISHED_DRAWS = "results/label_draws.jsonl"
MB = 2**20  # bytes; so everywhere
DATA_ENDINGS = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".parquet", ".zip", ".gz", ".bz2", ".zst")
TEMPORARY = re.compile(r"\..+\.(\d+)\.tmp(\..*)?")  # as temporary_name names it


def place(path: str | Path) -> Path:
    """Return the absolute path; a relative one hangs on the repository's root, wherever you stand."""
    return (ROOT / Path(path).expanduser()).resolve()


def is_local(source: str) -> bool:
    """Return whether a source is a local file or folder and no hub id: it exists, or looks like a path (driver, too)."""
    looks_local = source.startswith((".", "/", "~")) or source.lower().endswith(DATA_ENDINGS) or source.count("/") > 1
    return looks_local or place(source).exists()


def short_name(source: str) -> str:
    """Return how notebooks and results name a data set or model: a hub id as it is, a local path without folders and endings."""
    if not is_local(source):
        return source
    name = Path(source).name
    while name.lower().endswith(DATA_ENDINGS):
        name = Path(name).stem
    return name


def is_mini(name: str) -> bool:
    """Return whether a data set or model is one of the offline demo's, which are all named mini-…"""
    return Path(name).name.startswith("mini-")


def temporary_name(path: Path) -> Path:
    """Return the name beside the path under which this process writes it: .name.<process id>.tmp.suffix."""
    return path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")


def write_whole(path: Path, content: str | bytes | Callable[[Path], object]) -> None:
    """Write the file whole or not at all: under a temporary name, down to the disk, then renamed.

    The content is text, bytes, or a function that writes to the path it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        if callable(content):
            content(temporary)
        else:
            data = content.encode(errors="surrogateescape") if isinstance(content, str) else content
            temporary.write_bytes(data)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_folder_whole(folder: Path, write: Callable[[Path], object]) -> None:
    """Let the function write into a new folder that takes the place of the folder once it is whole."""
    temporary = temporary_name(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        write(temporary)
        for file in temporary.rglob("*"):
            if file.is_file():
                file.chmod(0o644)  # safetensors' files are for their owner alone, which a model handed over cannot be
                with open(file, "rb+") as written:
                    os.fsync(written.fileno())
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path, depth: str = "**/") -> None:
    """Remove the temporary files and folders that processes now dead left in the folder, or anywhere under it."""
    for path in list(folder.glob(f"{depth}.*.tmp*")):
        match = TEMPORARY.fullmatch(path.name)
        if match and not psutil.pid_exists(int(match[1])):
            try:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            except OSError:  # in a checkout that is read-only it stays
                continue


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes, or of a folder's sorted file names and hashes."""
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.is_file()]
        lines = [f"{file.relative_to(path).as_posix()} {sha256(file)}\n" for file in files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(content: object) -> str:
    """Return one hash over what JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_lines(path: Path) -> list[dict]:
    """Return the rows of a file of JSON lines, none where there is no file; what a kill has torn is left out."""
    rows = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def append_line(path: Path, row: dict) -> None:
    """Write the row as a line of its own at the end of a file of JSON lines, down to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        if file.tell():  # a last line that a kill has torn ends here
            file.seek(-1, os.SEEK_END)
            file.write(b"\n" * (file.read(1) != b"\n"))
        file.write(json.dumps(row).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def megabytes(folder: Path, pattern: str = "*") -> float:
    """Return the size in MB of the folder's files whose names match."""
    return sum(file.stat().st_size for file in folder.glob(pattern)) / MB


def plain(value: Any) -> Any:
    """Return the value as JSON can hold it: numpy's numbers and arrays as Python's, tuples as lists, missing as None."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value


@functools.cache  # one run asks for the same modules once a stage
def code_of(source: str) -> str:
    """Return what Python code does, to be compared: its syntax tree without comments, docstrings and layout.

    What is no plain Python (a cell with IPython's magic) is returned as it is.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return source
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:  # type: ignore[arg-type]
            del node.body[0]  # type: ignore[attr-defined]
    return ast.dump(tree)


def modules_of(sources: Iterable[str], folder: Path) -> dict[str, str]:
    """Return {path under the folder: text} of the folder's modules that the sources import, and those import."""
    waiting = list(sources)
    found: dict[str, str] = {}
    while waiting:
        for name in imported_by(waiting.pop()):
            path = folder / name.replace(".", "/")
            for file in (path.with_suffix(".py"), path / "__init__.py"):
                key = file.relative_to(folder).as_posix()
                if key not in found and file.is_file():
                    found[key] = file.read_text(encoding="utf-8")
                    waiting.append(found[key])
    return dict(sorted(found.items()))


@functools.cache
def imported_by(source: str) -> frozenset[str]:
    """Return the dotted names that a source imports, those of packages on the way and of what may be modules included."""
    plain = re.sub(r"^(\s*)[%!].*", r"\1pass", source, flags=re.MULTILINE)  # without IPython's magic
    try:
        tree = ast.parse(plain)
    except SyntaxError:
        return frozenset(re.findall(r"^\s*(?:from|import)\s+([\w.]+)", source, re.MULTILINE))
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body.clear()  # what stands there is not imported when the code runs
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names | {name.rpartition(".")[0] for name in names if "." in name})
