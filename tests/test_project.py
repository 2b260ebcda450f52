"""The project's own papers: pins, README, and what they say of each other."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from driver import publish
from helpers import files

ROOT = Path(__file__).parents[1]
IMPORTED_AS = {"scikit-learn": "sklearn", "jupyter-client": "jupyter_client", "huggingface-hub": "huggingface_hub"}
NEVER_IMPORTED = {
    "jupyter": "brings JupyterLab and the kernel",
    "ruff": "a command",
    "mypy": "a command",
    "msgpack": "Ray takes it up",
    "protobuf": "so it does this",
}
RUN_WITH = ("requirements.txt", "requirements-cluster.txt")


def pins(file):
    """Return {package: version} of a requirements file; every line must be a pin with its reason."""
    lines = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith(("#", "-r"))]
    found = [re.fullmatch(r"([a-z0-9-]+)(?:\[\w+\])?==([\w.]+) +# \S.*", line) for line in lines]
    assert found and all(found), [line for line, match in zip(lines, found, strict=True) if not match]
    return {match[1]: match[2] for match in found}


def imported(paths):
    """Return the top-level names of all modules that the files import, the project's own and Python's left out."""
    names = set()
    for path in paths:
        source = path.read_text()
        if path.suffix == ".ipynb":
            source = "\n".join(cell.source for cell in nbformat.reads(source, 4).cells if cell.cell_type == "code")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.partition(".")[0])
    own = {path.stem for path in ROOT.rglob("*.py") if ".venv" not in path.parts} | {
        "driver",
        "mini",
        "benchmarks",
        "by_hand",
        "helpers",
        "toy_files",
    }
    return names - own - set(sys.stdlib_module_names)


def study_files():
    folders = ("notebooks", "mini", "driver", "benchmarks")
    return [
        ROOT / "run_all.py",
        ROOT / "classify.py",
        *(
            p
            for f in folders
            for p in (ROOT / f).rglob("*")
            if p.suffix in (".py", ".ipynb") and "." not in p.parent.name
        ),
    ]


def test_every_import_is_pinned_and_every_pin_is_used():
    pinned = {IMPORTED_AS.get(name, name) for file in RUN_WITH for name in pins(file)}
    needed = imported(study_files()) | {name for name in NEVER_IMPORTED if name in pinned}
    # ipython comes with jupyter
    assert needed - {"IPython"} == pinned


def test_tests_import_nothing_unpinned():
    pinned = {IMPORTED_AS.get(n, n) for file in (*RUN_WITH, "requirements-dev.txt") for n in pins(file)}
    found = imported((ROOT / "tests").glob("*.py"))
    assert found and not found - pinned - {"IPython"}


def test_pins_are_the_versions_that_run_here():
    from importlib.metadata import version

    installed = {name: version(name).partition("+")[0] for name in pins("requirements.txt")}
    assert installed == pins("requirements.txt")


def test_the_readme_names_what_is_there():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 130
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert len(links) >= 7
    assert not [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    if not tracked:  # no clone: then what is there, outputs aside
        outputs = {"models", "executed", "runs", "seeds", "draws", "sweep", "site"}
        tracked = [f"{path.name}/x" for path in ROOT.iterdir() if path.is_dir() and path.name not in outputs]
    folders = {name.split("/")[0] for name in tracked if "/" in name and not name.startswith(".")}
    tree = re.search(r"```\n(notebooks/.*?)```", text, re.S)[1]
    listed = [line.split()[0] for line in tree.splitlines()]
    assert all((ROOT / name).exists() for name in listed)
    assert folders == {name.rstrip("/") for name in listed if name.endswith("/")}


def test_the_readmes_two_lines_do_all_their_set_up():
    text = (ROOT / "README.md").read_text()
    for requirements, goal in (("requirements.txt", "run_all.py --mini"), ("requirements-dev.txt", "-m pytest -n 2")):
        line = f"python3 -m venv .venv && .venv/bin/pip install -r {requirements} && .venv/bin/python {goal}"
        assert f"```bash\n{line}\n```" in text


def test_the_readmes_table_is_made_from_the_committed_result():
    text = (ROOT / "README.md").read_text()
    results = {
        kind: json.loads((ROOT / "results" / name).read_text())
        for kind, (name, _) in publish.PUBLISHED.items()
        if (ROOT / "results" / name).exists()
    }
    result = results["demo"]["comparison"]
    assert len(result["table"]) == 13 and result["held_out"] >= 1500
    assert text.count("| `mini-gpt2_qlora` − `mini-gpt2_lora` |") == 1
    seeds = re.search(r"--seeds ([\d ]+) .*--save", (ROOT / "CONTRIBUTING.md").read_text())[1].split()
    assert {row["seeds"] for row in result["table"] if row["method"] != "baseline"} == {len(seeds)}
    original = json.loads((ROOT / "results/original_study.json").read_text())["scores"]
    assert publish.with_results(text, results, original) == text
    assert text.count("**the offline demo**") == 1 and ("not yet run" in text) == ("full" not in results)


def test_what_is_published_is_not_ignored_and_what_a_run_writes_is():
    names = [f"results/{name}" for name, _ in publish.PUBLISHED.values()] + [files.PUBLISHED_DRAWS]
    plots = [name for figures in publish.FIGURES.values() for name in figures.values()]
    names += [f"plots/{prefix}{name}" for _, prefix in publish.PUBLISHED.values() for name in plots]
    own = [
        "results/06_comparing.json",
        files.OWN_DRAWS,
        "draws/0/results/x.json",
        "plots/06_cost.png",
        "data/pool.parquet",
    ]
    asked = ["git", "check-ignore", "--no-index", *names, *own]  # by the rules alone, tracked or not
    if not (ROOT / ".git").exists():
        pytest.skip("this copy is no repository, so nothing can be ignored in it")
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == own and len(names) == 19


def test_the_committed_pages_come_from_the_same_run_as_the_readme():
    result = json.loads((ROOT / "results/offline_demo.json").read_text())["comparison"]
    page = nbformat.read(ROOT / "notebooks/06_comparing.ipynb", 4)
    shown = "".join(o.get("text", "") for cell in page.cells if cell.cell_type == "code" for o in cell.outputs)
    assert result["data"] in shown and all(model in shown for model in result["models"])
    adapters = [row["accuracy"] for row in result["table"] if row["method"] in ("lora", "qlora")]
    shown += "".join(
        o.data["text/plain"]
        for c in page.cells
        if c.cell_type == "code"
        for o in c.outputs
        if "data" in o and "text/plain" in o.data
    )
    assert len(adapters) == 3 and all(f"{each:.3f}" in shown for each in adapters)


def test_the_project_names_no_machine():
    hosts = re.compile(r"/work/|/root/|/home/\w|localhost:\d|pypi\.org/simple")
    files = [
        p
        for p in ROOT.rglob("*")
        if p.suffix in (".py", ".ipynb", ".md", ".txt", ".toml", ".json")
        and not set(p.parts) & {".venv", "runs", ".git", "odd_inputs"}  # odd: some are no text at all
    ]
    assert len(files) > 15
    assert not [str(path) for path in files if hosts.search(path.read_text()) and path != Path(__file__)]
