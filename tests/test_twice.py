"""A reader's second Run All: every notebook runs twice in one kernel, and its result file says the same of what was set.

The notebooks run in the series' order, each on what those before it left: one that is picked alone with -k runs on the
data and models of the whole mini run, and takes longer. All have the same kernel, emptied of names before each.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook

from driver import kernel, parameters
from driver.stages import NAMES
from helpers.sources import COMPANY

ROOT = Path(__file__).parents[1]
SHORT = {"TRAIN_ROWS": 20, "TEST_ROWS": 20, "MORE_ROWS": 10, "MAX_TOKENS": 64, "EPOCHS": 1}  # seconds for each notebook
SHORT |= {"HEAD_RATES": [1e-3, 1e-2], "LORA_RATES": [1e-3, 1e-2], "FULL_RATES": [1e-4, 1e-3], "RANKS": [2]}
SHORT |= {"LABELS": [8], "DRAWS": [0], "MAP_ROWS": 16, "TEXT": "My card was charged twice"}

pytestmark = pytest.mark.slow


class Kernel(KernelManager):
    """A reader's kernel, in this interpreter and without a port that another program could take."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])


@pytest.fixture(scope="module")
def out(mini_out, tmp_path_factory):
    """Return a copy of the mini run's folder, beside a smaller file of complaints."""
    folder = tmp_path_factory.mktemp("twice") / "out"
    shutil.copytree(mini_out, folder, ignore=shutil.ignore_patterns(".lock", ".run", ".tmp"))
    rows = pd.read_parquet(values_of("01_data", folder)["DATASET"])
    rows = rows[rows[COMPANY] == parameters.defaults(ROOT / "notebooks/01_data.ipynb")["COMPANY"]]
    rows.head(300).to_parquet(folder.with_name("mini-complaints-few.parquet"))
    return folder


def values_of(name: str, out: Path) -> dict:
    """Return the values that the notebook had in the mini run; {} of one that is not part of it."""
    manifest = out / f"executed/{name}.json"
    return json.loads(manifest.read_text())["parameters"] if manifest.exists() else {}


@pytest.fixture(scope="module")
def client():
    """Return the client of a kernel that runs all notebooks."""
    with tempfile.TemporaryDirectory() as short:  # the path of a socket must be short
        own = {"transport": "ipc", "ip": f"{short}/socket", "connection_file": f"{short}/kernel.json"}
        client = NotebookClient(new_notebook(), timeout=300, km=Kernel(**own), kernel_name="python3")
        with client.setup_kernel(cwd=str(ROOT / "notebooks"), env=os.environ | {"IPYTHONDIR": short}):
            yield client


def run_twice(page, client, look):
    """Run all of the page's cells twice; return what look() finds after each time."""
    client.nb, found = page, []
    client.execute_cell(new_code_cell("%reset -f"), -1)
    for each in ("first", "second"):
        for index, cell in enumerate(page.cells):
            try:
                client.execute_cell(cell, index)
            except CellExecutionError as error:
                pytest.fail(f"{each} Run All, cell {index}:\n{error}")
        found.append(look())
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_second_run_all_in_the_same_kernel_goes_through_and_records_the_same_parameters(name, out, client):
    path, result = ROOT / f"notebooks/{name}.ipynb", out / f"results/{name}.json"
    declared = parameters.defaults(path)
    short = SHORT | {"OUT": str(out), "DATASET": str(out.with_name("mini-complaints-few.parquet"))}
    values = values_of(name, out) | {key: value for key, value in short.items() if key in declared}
    result.unlink(missing_ok=True)
    page = kernel.with_parameters(path, values)
    first, second = run_twice(page, client, lambda: json.loads(result.read_text())["parameters"])
    assert "TEXT" not in values or values["TEXT"] in "".join(json.dumps(cell.get("outputs")) for cell in page.cells)
    assert first == second and first.keys() == declared.keys() - {"OUT"}
    assert first == {key: value for key, value in (declared | values).items() if key != "OUT"}
