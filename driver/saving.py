"""--save: the outputs of a finished run, cleaned, back into the notebooks; nothing but outputs and counts changes."""

import json
import re
from pathlib import Path

from driver import Refused
from driver.parameters import read_notebook, source

MOST_BYTES = 1_000_000  # code-hosting pages stop showing larger notebooks


def is_passing(output: dict) -> bool:
    """Return whether the output is only of use while a cell runs: standard error, a widget, a progress display."""
    data = output.get("data", {})
    progress = "<progress" in "".join(data.get("text/html", ""))
    return output.get("name") == "stderr" or "application/vnd.jupyter.widget-view+json" in data or progress


def machine_paths(output: dict, paths: list[Path]) -> list[str]:
    """Return which of the paths the output shows, pictures aside."""
    data = {kind: value for kind, value in output.get("data", {}).items() if not kind.startswith("image/")}
    text = json.dumps([output.get("text", ""), data], ensure_ascii=False)
    return [str(path) for path in paths if re.search(re.escape(str(path)) + r"(?![\w-])", text)]


def clean(notebook: Path, executed: Path, paths: list[Path]) -> str:
    """Return the notebook's new text, with the executed one's outputs and counts 1..n; Refused when it is unfit to share."""
    page = read_notebook(notebook)
    cells = [cell for cell in page["cells"] if cell["cell_type"] == "code"]
    ran = [cell for cell in read_notebook(executed)["cells"] if cell["cell_type"] == "code"]
    ran = [cell for cell in ran if "injected-parameters" not in cell["metadata"].get("tags", [])]
    for count, (cell, run) in enumerate(zip(cells, ran, strict=True), start=1):
        cell["execution_count"] = count
        cell["outputs"] = [output for output in run["outputs"] if not is_passing(output)]
        for output in cell["outputs"]:
            if output["output_type"] == "execute_result":
                output["execution_count"] = count
            for path in machine_paths(output, paths):
                line = source(cell).splitlines()[0]
                raise Refused(f"{notebook.name}, cell [{count}] ({line}) shows the path {path}: print a relative one.")
    text = json.dumps(page, indent=1, ensure_ascii=False, sort_keys=True) + "\n"  # as nbformat writes it
    if len(text.encode()) > MOST_BYTES:
        raise Refused(
            f"{notebook.name} would take {len(text.encode()):,} bytes, over {MOST_BYTES:,}: draw smaller figures."
        )
    return text
