"""Start many kernels side by side through the driver's own code, and print which did not come to their end: by hand.

    python tests/by_hand/start_kernels.py 300 6

So many kernels, so many at a time; each runs one cell. 300 take two minutes on two cores.
"""

import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "notebooks"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from driver import kernel, processes, surroundings

PAGE = new_notebook(
    cells=[new_code_cell("NUMBER = 0", metadata={"tags": ["parameters"]}), new_code_cell("print(NUMBER)")],
    metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}},
)


def run_one(out: Path, number: int) -> str:
    """Run a cell in a kernel of its own; return what went wrong, or ""."""
    page, log = kernel.with_parameters(out / "page.ipynb", {"NUMBER": number}), out / f"{number}.log"
    try:
        with processes.short_folder(out, kernel.LONGEST) as sockets:
            place = kernel.Place(out, log, surroundings.settled(os.environ), sockets)
            kernel.run_cells(page, place, (5, 5), lambda **_: None)
    except Exception as error:
        return f"kernel {number}: {type(error).__name__}: {error}\n{log.read_text(errors='replace')[-1000:]}"
    said = "".join(output.get("text", "") for output in page.cells[-1].outputs).strip()
    return "" if said == str(number) else f"kernel {number} said {said!r}"


def start(kernels: int, at_once: int) -> tuple[list[str], int, list[Path]]:
    """Run so many kernels; return what went wrong with any, how many starts they took, and the folders that they left."""
    starts, create = [], kernel.Client.create_kernel_manager
    kernel.Client.create_kernel_manager = lambda client: starts.append(client) or create(client)
    with tempfile.TemporaryDirectory() as out, ThreadPoolExecutor(at_once) as pool:
        tempfile.tempdir = out  # other runs may have their folders in the usual place
        processes.temporary_folder(Path(out)).mkdir(parents=True)
        nbformat.write(PAGE, Path(out, "page.ipynb"))
        said = list(pool.map(lambda number: run_one(Path(out), number), range(kernels)))
        left = [*processes.temporary_folder(Path(out)).iterdir(), *Path(out).glob("run_all-*")]
    tempfile.tempdir, kernel.Client.create_kernel_manager = None, create
    return [text for text in said if text], len(starts), left


def main(kernels: int, at_once: int) -> int:
    """Print what was seen; return 1 when a kernel failed or anything is left."""
    began = time.monotonic()
    failures, starts, left = start(kernels, at_once)
    print(*failures, sep="\n")
    print(
        f"{kernels} kernels, {at_once} at a time: {len(failures)} failures, {starts} starts, {len(left)} folders left"
    )
    print(f"{time.monotonic() - began:.0f} seconds")
    return 1 if failures or left else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
