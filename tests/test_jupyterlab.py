"""The tweaker's way: open 03 in JupyterLab in a real browser, set values in the parameters cell, Run All, no error."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
PAGE = "03_distilbert_lora.ipynb"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here: install one, e.g. apt-get install chromium"),
]


@pytest.fixture
def lab(tmp_path):
    """Return (folder, address) of a JupyterLab that serves a copy of notebooks/ from a folder with a space in its name."""
    with jupyterlab(tmp_path) as found:
        yield found


@contextlib.contextmanager
def jupyterlab(tmp_path):
    """Yield (folder, address) of a JupyterLab that serves a copy of notebooks/, without outputs, in this folder."""
    folder = tmp_path / "my clone" / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--port=0",
        f"--ServerApp.root_dir={folder}",
    ]
    command += [
        "--IdentityProvider.token=t",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    for path in folder.glob("*.ipynb"):
        page = nbformat.read(path, as_version=4)
        for cell in page.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None  # what is there at the end has been run here
        nbformat.write(page, path)
    log = tmp_path / "lab.log"
    with open(log, "w") as file:
        own = os.environ | {"JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces")}  # which notebooks were open last
        server = subprocess.Popen(command, stdout=file, stderr=file, cwd=folder, env=own)
    try:
        yield folder, wait_for(lambda: re.search(r"http://127\.0\.0\.1:\d+/lab", log.read_text()), 60)[0]
    finally:
        server.terminate()
        server.wait(30)


def wait_for(look, seconds):
    """Return what look() finds as soon as it finds something; fail when the seconds are over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(1)
    raise AssertionError(f"waited {seconds} s in vain")


def with_values(source, values):
    """Return the parameters cell's source with other values for some of its names."""
    for name, value in values.items():
        source, count = re.subn(rf"^{name} = .*", lambda _, n=name, v=value: f"{n} = {v!r}", source, flags=re.M)
        assert count == 1, name
    return source


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def run_all(folder, address, name, values, seconds=300):
    """Return the code cells of a notebook that was opened in a browser, given these values, and run by Run All Cells."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=QUIET)
        page = browser.new_page()
        page.goto(f"{address}/tree/{name}?token=t&reset")  # no other notebook is open
        editor = page.locator(".jp-Notebook .jp-CodeCell .cm-content").first
        editor.wait_for(timeout=60_000)
        editor.click()
        page.keyboard.press("Control+A")
        page.keyboard.insert_text(with_values(code_cells(folder / name)[0].source, values))
        idle = page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first
        idle.wait_for(state="attached", timeout=120_000)  # before there is a kernel, Run All runs nothing
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()

        def finished():
            page.keyboard.press("Control+S")
            page.wait_for_timeout(2000)
            try:
                cells = code_cells(folder / name)
            except nbformat.reader.NotJSONError:  # looked at while it is being written
                return None
            failed = any(o.output_type == "error" for cell in cells for o in cell.outputs)
            return cells if failed or all(cell.execution_count for cell in cells) else None

        cells = wait_for(finished, seconds)
        browser.close()
    return cells


def test_03_runs_in_jupyterlab_with_the_mini_values_set_by_hand(lab, mini_out):
    folder, address = lab
    used = json.loads((mini_out / "executed/03_distilbert_lora.json").read_text())["inputs"]
    model = next((ROOT / "mini/checkpoints").glob(used["DISTILBERT"].split()[0]))
    out = folder.parent / "out"
    for part in ("data", "results"):
        shutil.copytree(mini_out / part, out / part)
    (out / "results/03_distilbert_lora.json").unlink()
    values = {"DISTILBERT": str(model), "OUT": str(out), "MAX_TOKENS": 64, "EPOCHS": 1}
    cells = run_all(folder, address, PAGE, values)
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error"]
    result = json.loads((out / "results/03_distilbert_lora.json").read_text())
    assert result["parameters"]["EPOCHS"] == 1 and result["mini"] is True
    assert (out / "models/03_distilbert_lora/adapter_model.safetensors").is_file()
