"""What is on disk and whether it is whole: atomic writes, hashes, and one manifest per stage, written last."""

import functools
import importlib.metadata
import json
import platform
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from driver import Refused, Unmade, surroundings
from driver.parameters import code_cells, sources
from driver.stages import Stage
from helpers import machine
from helpers.files import code_of, digest, imported_by, modules_of, sha256, write_whole

ENDS = {".parquet": (b"PAR1", b"PAR1"), ".png": (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82")}  # how whole files begin, end

COSTS = ("seconds", "peak_memory_mb")  # in a result: other each time, and nothing that another notebook reads

sha256_of_source = functools.cache(sha256)  # a full-size model is hashed once a run, not once a stage


@functools.cache
def versions(requirements: Path) -> dict[str, str]:
    """Return {package: installed version} of all that requirements.txt pins; Refused names what is not installed."""
    found = {}
    missing = []
    for name in re.findall(r"^([\w.-]+)==", requirements.read_text(encoding="utf-8"), re.MULTILINE):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        raise Refused(f"Not installed: {', '.join(missing)}. Type: pip install -r {requirements}")
    return found


def provenance(root: Path) -> dict[str, Any]:
    """Return where a stage is made, as plain JSON: recorded and shown, and never a reason to run it again."""
    return {
        "host": platform.node(),
        "CPU": machine.cpu_name(),
        "device": device(),
        "versions": {"Python": platform.python_version(), **versions(root / "requirements.txt")},
    }


def device() -> str:
    """Return the kinds of GPU that a kernel may get, whichever of them it is, or "cpu"."""
    return ", ".join(sorted(set(surroundings.gpus().values()))) or "cpu"


def inputs(stage: Stage, values: dict[str, Any], root: Path, out: Path) -> dict[str, Any]:
    """Return all that the stage's results depend on, as plain JSON: equal inputs, nothing to run.

    Of the notebook and of each module that it imports, what the code does counts: no comment, docstring or layout.
    """
    notebooks = root / "notebooks"
    cells = code_cells(notebooks / f"{stage.notebook}.ipynb")
    local = {name: path for name, path in sources(values, root).items() if path}
    parts = {"code cells": digest([code_of(cell) for cell in cells])}
    parts |= {module: digest(code_of(text)) for module, text in modules_of(cells, notebooks).items()}
    parts |= {name: f"{path.name} {sha256_of_source(path)}" for name, path in local.items()}
    parts |= {name: value for name, value in values.items() if name not in local and name != "OUT"}
    parts |= {need: made_for_others(read_manifest(need, out)) for need in stage.needs}
    return json.loads(json.dumps(parts | machine.versions()))  # as it comes back from a manifest


def imports(stage: Stage, root: Path) -> list[str]:
    """Return the dotted names that the stage's notebook and the project's modules under it import from other packages."""
    notebooks = root / "notebooks"
    cells = code_cells(notebooks / f"{stage.notebook}.ipynb")
    names = frozenset().union(*map(imported_by, [*cells, *modules_of(cells, notebooks).values()]))
    own = {path.stem for path in notebooks.iterdir()}
    return sorted(name for name in names if name.partition(".")[0] not in own)


def made_for_others(manifest: dict[str, Any] | None) -> str:
    """Return one hash over the data, models and results of a finished stage: what later stages read of it; "" where there is none."""
    return (manifest or {}).get("made_for_others", "")


def read_by_others(made: dict[str, str], out: Path) -> str:
    """Return that hash from {file: hash} of what a stage made; what the run itself cost, in its results, does not count."""
    read = {file: hashed for file, hashed in made.items() if not re.search("(^|/)(plots|executed)/", file)}
    for file in (file for file in read if re.search(r"(^|/)results/[^/]+\.json$", file)):
        result = json.loads((out / file).read_text(encoding="utf-8"))
        read[file] = digest({name: value for name, value in result.items() if name not in COSTS})
    return digest(read)


def executed(name: str, out: Path, ending: str) -> Path:
    """Return the path of what a stage leaves under `executed`: ipynb, failed.ipynb, log, or json, its manifest."""
    folder, _, notebook = name.rpartition("/")
    return out / folder / "executed" / f"{notebook}.{ending}"


def read_manifest(name: str, out: Path) -> dict[str, Any] | None:
    """Return the stage's manifest, or None when there is none that is whole."""
    try:
        manifest = json.loads(executed(name, out, "json").read_text(encoding="utf-8"))
        return manifest if manifest.pop("sha256") == digest(manifest) else None
    except (OSError, ValueError, TypeError, AttributeError, LookupError):
        return None


def finish(name: str, out: Path, made: dict[str, str], **content: object) -> None:
    """Write the manifest, with {file: hash} of what was made and this content, that makes the stage a finished one."""
    finished = datetime.now().astimezone().isoformat(timespec="seconds")
    content |= {"made": made, "made_for_others": read_by_others(made, out)}
    record = json.loads(json.dumps({"notebook": name, "finished": finished, **content}))
    write_whole(executed(name, out, "json"), json.dumps(record | {"sha256": digest(record)}, indent=1))


def unfinished(name: str, out: Path) -> str:
    """Return why the stage is not whole on disk, or "" when its manifest and every byte that it lists are there."""
    manifest = read_manifest(name, out)
    if manifest is None:
        return "missing, not finished yet"
    for file, hashed in manifest["made"].items():
        try:
            if sha256(out / file) != hashed:
                return f"stale, {file} is damaged"
        except OSError:
            return f"stale, {file} is missing or unreadable"
    return ""


def changes(name: str, now: dict[str, Any], out: Path) -> list[str]:
    """Return the names of the inputs that are not what the finished stage was made from."""
    before = (read_manifest(name, out) or {"inputs": {}})["inputs"]
    return [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]


def stamps(stage: Stage, out: Path) -> dict[Path, tuple]:
    """Return each file that matches what the stage makes, with marks that change when it is written anew."""
    files = [path for pattern in stage.makes for path in sorted(out.glob(pattern)) if path.is_file()]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def flaw(path: Path) -> str:
    """Return what is wrong with a file that a stage made, or "" when it is not empty and can be read."""
    content = path.read_bytes()
    start, end = ENDS.get(path.suffix, (b"", b""))
    if not content:
        return "is empty"
    if path.suffix == ".json":
        try:
            json.loads(content)
        except ValueError as error:
            return f"is not JSON ({error})"
    return "" if content.startswith(start) and content.endswith(end) else f"is not a whole {path.suffix} file"


def made(stage: Stage, out: Path, before: dict[Path, tuple]) -> dict[str, str]:
    """Return {file: hash} of what the stage wrote since `before`; Unmade names what it failed to make whole."""
    written = [path for path, stamp in stamps(stage, out).items() if before.get(path) != stamp]
    missing = [pattern for pattern in stage.makes if not any(path in written for path in out.glob(pattern))]
    if missing:
        raise Unmade(f"all cells ran, but nothing wrote {', '.join(missing)} in {out}")
    flaws = [f"{path.relative_to(out)} {flaw(path)}" for path in written if flaw(path)]
    if flaws:
        raise Unmade(f"all cells ran, but {', '.join(flaws)}")
    return {path.relative_to(out).as_posix(): sha256(path) for path in written}
