"""Every notebook of a default run in JupyterLab in a real browser, Run All, one after the other, with the demo's values.

    .venv/bin/python tests/by_hand/all_in_jupyterlab.py [FOLDER]

About ten minutes on two cores; the values are typed into each parameters cell, as a reader would.
"""

import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "notebooks"), str(ROOT / "tests")]

from test_jupyterlab import code_cells, jupyterlab, run_all  # noqa: E402

import mini  # noqa: E402
from driver.stages import series  # noqa: E402


def main(folder: Path) -> None:
    """Run the notebooks in their order, and say of each how many cells ran."""
    values = mini.prepare(None, "", folder / "cache")
    with jupyterlab(folder) as (notebooks, address):
        out = notebooks.parent / "out"
        for name in [stage.name for stage in series()]:
            given = values.get(name, {}) | {"OUT": str(out)}
            declared = re.findall(r"^(\w+) = ", code_cells(notebooks / f"{name}.ipynb")[0].source, re.M)
            chosen = {key: value for key, value in given.items() if key in declared}
            cells = run_all(notebooks, address, f"{name}.ipynb", chosen, seconds=1800)
            errors = [f"{o.ename}: {o.evalue}" for cell in cells for o in cell.outputs if o.output_type == "error"]
            print(f"{name}: {len(cells)} cells ran, {errors or 'no error'}", flush=True)
            if errors:
                sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
