"""A toy project in a temporary folder: the real driver over six tiny notebooks that keep the real ones' contract.

To lose nothing means in all tests on it: finished stages keep their bytes, no stage counts as finished unless it is whole,
and the same command, with no flag, then runs only what is unfinished and ends as an undisturbed run does.
"""

import contextlib
import copy
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from driver import publish, records, stages

ROOT = Path(__file__).resolve().parents[1]
ALL = tuple(stages.NAMES)
NAMES = tuple(
    name for name in ALL if name not in (*stages.CONTROLS, stages.LABELS)
)  # those run only where they are asked for
TOY_FILES = f'''
from helpers.files import write_whole

ENDS = {records.ENDS!r}


def write(path, content):
    """Write the content as a file that looks whole for its suffix."""
    start, end = ENDS.get(path.suffix, (b"", b""))
    write_whole(path, start + content.encode() + end)
'''
PARAMETERS = {
    "01_data": 'DATASET = "hub/complaints"  # a hub id or a file\nCOMPANY = "A BANK"\nTRAIN_ROWS = 10',
    "02_test_data": "TEST_ROWS = 2",
    "03_distilbert_lora": 'DISTILBERT = "distilbert"  # a hub id or a folder\nRANK = 8\nDROPOUT = 0.1\nLEARNING_RATE = 3e-4',
    "04_gpt2_lora": 'GPT2 = "gpt2"\nRANK = 16\nLEARNING_RATE = 5e-4',
    "05_gpt2_qlora": 'GPT2 = "gpt2"\nRANK = 16\nLEARNING_RATE = 5e-4',
    "appendix_rates": "RANKS = [1, 4]",
    "appendix_controls": "",
    "06_comparing": 'RUNS = ["03_distilbert_lora", "04_gpt2_lora", "05_gpt2_qlora"]',
    "appendix_confidence": "BINS = 5",
    "appendix_errors": "BINS = 5",
    "appendix_use": 'MODEL = "03_distilbert_lora"',
    "appendix_labels": "DRAWS = [0]",
}
EXAMPLES = {"/*/*": "/full/trained.bin", "/*": "/adapter.bin", "*": "a"}  # what a pattern of a stage stands for


def example(pattern: str) -> str:
    """Return the name of a file that matches the pattern of what a stage makes."""
    for part, name in EXAMPLES.items():
        pattern = pattern.replace(part, name)
    return pattern


MAKES = {stage.name: [example(pattern) for pattern in stage.makes] for stage in stages.STAGES}
for name, figures in publish.FIGURES.items():
    MAKES[name] += [f"plots/{figure}" for figure in figures if figure != publish.FIGURE]
WORK = """
from pathlib import Path
from toy_files import write
values = {name: value for name, value in globals().items() if name.isupper() and name != "OUT"}
if Path(values.get("DATASET", "")).is_file():
    values["rows"] = Path(DATASET).read_text()
score = sum(map(len, map(str, values.values()))) / 100
row = {"name": "toy", "model": "toy", "method": "lora", "accuracy": score, "precision": score, "recall": score, "f1": score}
row |= {"seeds": 1, "interval": [score, score], "sd": None, "test": score}
about = {"mini": True, "data": "mini-toy", "models": ["mini-toy"], "parameters": {}, "held_out": 1, "margin": 0.02, "picked": {"adapter": "toy", "baseline": "tfidf_logreg"}}
linear = row | {"name": "tfidf_logreg", "model": "tfidf_logreg", "method": "baseline"}
about["table"] = [linear, row]
pairs = [("toy", "tfidf_logreg"), ("gpt2_qlora", "gpt2_lora")]
pairs += [(f"{model}_lora", f"{model}_{way}") for model in ("distilbert", "gpt2") for way in ("full", "head")]
said = {"margin": 0.02, "difference": 0.0, "low": 0.0, "high": 0.0, "seeds": 1}
verdict = "equivalent within the margin"
about["comparisons"] = [
    {"one": a, "other": b, "verdict": "not run" if b[-4:] in ("full", "head") else verdict, **said} for a, b in pairs
]
about["costs"] = {name: {"training, s": 1.0, "trainable parameters": 1} for name in ("toy", "tfidf_logreg", "gpt2_lora", "gpt2_qlora")}
"""
WRITE = """
import json
for name in MAKES:
    write(Path(OUT) / name, json.dumps({"values": values, "test": [row], **about}))
print("wrote", len(MAKES), "files")
"""


def notebook(name: str):
    """Return the toy notebook of that name: a parameters cell, a thought, and the files that its stage makes."""
    parameters = new_code_cell(f"{PARAMETERS[name]}\nSEED = 42\nOUT = '.'  # folder of all outputs")
    parameters.metadata["tags"] = ["parameters"]
    cells = [
        new_markdown_cell(f"# {name}\n\nA toy."),
        parameters,
        new_markdown_cell("## Work"),
        new_code_cell(WORK.strip()),
        new_markdown_cell("## Files"),
        new_code_cell(WRITE.strip().replace("MAKES", repr(MAKES[name]))),
        new_code_cell("values"),
    ]
    for number, cell in enumerate(cells):
        cell.id = f"{name[-9:]}-{number}"
    return new_notebook(
        cells=cells, metadata={"kernelspec": {"name": "no-such-kernel", "display_name": "", "language": "python"}}
    )


class Project:
    """A toy project: run its driver, change its notebooks, look at what it left."""

    def __init__(self, folder: Path):
        self.folder, self.out = folder, folder / "runs" / "toy"
        for part in ("driver", "notebooks/helpers"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("run_all.py", "results/original_study.json"):
            (folder / part).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / part, folder / part)
        (folder / "notebooks/toy_files.py").write_text(TOY_FILES)
        (folder / "requirements.txt").write_text("papermill==0  # the version installed is what counts\npsutil==0\n")
        (folder / "README.md").write_text("\n".join(["# Toy", *publish.MARKS, "The end."]))
        for name in ALL:
            nbformat.write(notebook(name), folder / "notebooks" / f"{name}.ipynb")

    def copy_to(self, folder: Path) -> "Project":
        """Return a copy of the project, all that it has run included."""
        shutil.copytree(self.folder, folder)
        copied = copy.copy(self)
        copied.folder = folder
        copied.out = folder / self.out.relative_to(self.folder)
        return copied

    def command(self, *arguments) -> list[str]:
        """Return the command line of a run into the project's output folder."""
        out = [] if "--out" in arguments or "--mini" in arguments else ["--out", str(self.out)]
        return [sys.executable, str(self.folder / "run_all.py"), *out, *map(str, arguments)]

    def run(self, *arguments, **options) -> subprocess.CompletedProcess:
        """Run the driver to its end and return what came of it, output as text."""
        options = {"capture_output": True, "text": True, "timeout": 120, "cwd": self.folder.parent} | options
        return subprocess.run(self.command(*arguments), **options)

    def start(self, *arguments, **options) -> subprocess.Popen:
        """Start the driver in the background, its output going to a file driver.txt in the project."""
        with open(self.folder / "driver.txt", "w") as file:
            options = {"stdout": file, "stderr": subprocess.STDOUT, "cwd": self.folder.parent} | options
            return subprocess.Popen(self.command(*arguments), **options)

    def path(self, name: str) -> Path:
        """Return the path of a notebook."""
        return self.folder / "notebooks" / f"{name}.ipynb"

    def edit(self, name: str, code: str, cell: int = 3) -> None:
        """Put another source into a cell of a notebook (3 is the work, before the files are written)."""
        page = nbformat.read(self.path(name), 4)
        page.cells[cell].source = code
        nbformat.write(page, self.path(name))

    def add(self, name: str, code: str) -> None:
        """Put a code cell between a notebook's work and the cell that writes its files."""
        page = nbformat.read(self.path(name), 4)
        page.cells.insert(4, new_code_cell(code))
        nbformat.write(page, self.path(name))

    def manifest(self, name: str) -> dict | None:
        """Return a stage's manifest, None when there is none."""
        folder, _, notebook = name.rpartition("/")
        path = self.out / folder / "executed" / f"{notebook}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def files(self) -> dict[str, bytes]:
        """Return {name: bytes} of all that a run made: data, models, results, plots, executed notebooks, manifests."""
        files = [path for path in self.out.rglob("*") if path.is_file() and not path.name.startswith(".")]
        files = [path for path in files if path.parent != self.out / "site"]  # written anew when a page has changed
        return {str(path.relative_to(self.out)): path.read_bytes() for path in files}


def ran(output: str) -> list[str]:
    """Return the stages that a driver's output says were run, in the order of their ends."""
    return re.findall(rf"^((?:\S+/)?(?:{'|'.join(ALL)})) +\d.* s$", output, re.MULTILINE)


# --- cells that misbehave, and what a run leaves -----------------------------------------------------------------------

BUSY = """
import os, subprocess, time
from pathlib import Path
sleeper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
Path(OUT, "pids").write_text(f"{os.getpid()} {sleeper.pid}")
"""
DEAF = BUSY + "while True:\n    try:\n        time.sleep(1000)\n    except BaseException:\n        pass\n"
LOCKED = BUSY + "sum(range(10**13))  # holds the interpreter's lock\n"


def wait_for(condition, seconds: float = 300):
    """Return the condition's first true value; fail when it stays false for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if value := condition():
                return value
        time.sleep(0.02)
    pytest.fail("waited in vain")


def pids(project) -> list[int]:
    """Return the process ids that a BUSY cell wrote down, once it has."""
    return [int(pid) for pid in wait_for(lambda: (project.out / "pids").read_text()).split()]


def alive(numbers: list[int]) -> list[int]:
    """Return those of the processes that still run."""
    return [n for n in numbers if psutil.pid_exists(n) and psutil.Process(n).status() != psutil.STATUS_ZOMBIE]


def statuses(path: Path) -> list[str]:
    """Return the status of each code cell of an executed notebook, the injected parameters' first."""
    return [c.metadata.papermill.status for c in nbformat.read(path, 4).cells if c.cell_type == "code"]


def finishes(project, names: tuple) -> None:
    """Check that the same command, with no flag, runs just these notebooks and leaves nothing temporary."""
    done = project.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert ran(done.stdout) == list(names)
    assert not [path for path in project.out.rglob(".*") if ".tmp" in path.name]
    assert not list(project.out.rglob("*.failed.ipynb"))


def keeps(project, before: dict, names: tuple) -> None:
    """Check that every file of these finished notebooks has the bytes it had."""
    kept = [f for name in names for f in (*MAKES[name], f"executed/{name}.json", f"executed/{name}.ipynb")]
    assert kept and {f: project.files()[f] for f in kept} == {f: before[f] for f in kept}
