"""One notebook's run in a kernel of its own: papermill's client with a log, limits and an honest status per cell."""

import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# or else jsonschema, for nbformat's sake, reads its grammar for 1.5 seconds
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]

import nbformat
import psutil
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbclient.util import run_sync
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NotebookExecutionManager
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from driver import CellFailed, KernelKilled
from driver.in_kernel import IMPORTS
from helpers.files import MB

OVERWRITTEN = re.compile(r"[^\n]*\r(?=[^\n\r])")  # what a terminal would have written over
STARTS = 3  # how often a kernel that dies before it answers is started
LONGEST = 90  # bytes of the path of a folder for Unix sockets: their own paths, a little longer, must stay under 104
KILLED = -9  # the exit status after SIGKILL
HISTORY = ["--HistoryManager.hist_file=:memory:"]  # as nbclient has it for the kernels that it starts itself
MOST_OUTPUT = 2_500_000  # characters of tables and figures that one executed notebook may hold
logging.getLogger("papermill").setLevel(logging.CRITICAL + 1)  # the driver itself says what went wrong


@dataclass(frozen=True)
class Place:
    """Where a kernel runs: its working folder, its log, its environment, and a folder for its sockets.

    There no other program can take the kernel's place, as one can a port of TCP; at such ports it listens where there is none.
    """

    folder: Path
    log: Path
    environment: dict[str, str]
    sockets: Path | None

    @property
    def address(self) -> dict[str, str]:
        """Return where the kernel listens, as its manager takes it."""
        file = {"connection_file": str((self.sockets or self.log.parent) / f".{self.log.stem}.{os.getpid()}.tmp.json")}
        return file | ({"transport": "ipc", "ip": str(self.sockets / "socket")} if self.sockets else {})


class Kernel(AsyncKernelManager):
    """A kernel in the interpreter that runs the driver, whatever kernelspecs the machine has."""

    @property
    def kernel_spec(self) -> KernelSpec:
        command = [sys.executable, str(Path(__file__).with_name("in_kernel.py")), "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


class Client(PapermillNotebookClient):
    """papermill's client, which stops at the first cell that fails, and bounds what it keeps of the outputs."""

    address: dict[str, str]  # of the kernel to be started
    kept = 0  # characters of tables and figures since they were last counted

    def create_kernel_manager(self) -> Kernel:
        """Return the manager of a kernel to be started."""
        self.km = Kernel(kernel_name=self.kernel_name, config=self.config, **self.address)
        return self.km

    def start_new_kernel(self, **kwargs: object) -> None:
        """Start the kernel, and again when it dies before it answers; RuntimeError when it does so each time."""
        for start in range(1, STARTS + 1):
            try:
                self.km = self.km or self.create_kernel_manager()
                super().start_new_kernel(**kwargs)
                self.start_new_kernel_client()
                return
            except RuntimeError:
                if start == STARTS:
                    raise

    def papermill_execute_cells(self) -> None:
        """Run the code cells in order; CellFailed at the first that raises, hangs or loses its kernel."""
        for index, cell in enumerate(self.nb.cells):
            if cell.cell_type == "code":
                self.nb_man.cell_start(cell, index)
                try:
                    self.execute_cell(cell, index)
                except BaseException as error:
                    self.nb_man.cell_exception(cell, index)
                    self.shutdown_kernel = "immediate"  # it may be deaf
                    raise self.failure(index, error) if isinstance(error, Exception) else error from None
                finally:
                    self.nb_man.cell_complete(cell, index)

    def failure(self, index: int, error: Exception) -> CellFailed:
        """Return the error as the failure of a cell, with its cause and what to do about it."""
        if isinstance(error, CellExecutionError):
            return CellFailed(index, f"{error.ename}: {error.evalue}")
        if isinstance(error, CellTimeoutError):
            return CellFailed(index, "the time limit is over.", "Raise it with --cell-limit or --stage-limit MINUTES.")
        if isinstance(error, DeadKernelError):
            manager: Any = self.km
            return death(index, manager.provisioner.process.returncode)
        return CellFailed(index, f"{type(error).__name__}: {error}")

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        """Keep the message's output, streams merged as a terminal would show them, or a note when there is no more room."""
        kind = msg["msg_type"]
        content = msg["content"]
        last: Any = cell.outputs[-1] if cell.outputs else {}
        if kind == "stream" and last.get("name") == content["name"] and not self.clear_before_next_output:
            last.text = OVERWRITTEN.sub("", last.text + content["text"])
            return last
        if kind in ("display_data", "execute_result", "update_display_data") and not self.has_room(content["data"]):
            content["data"] = {"text/plain": "[This output is left out: the notebook would become too large.]"}
        return super().process_message(msg, cell, cell_index)

    def has_room(self, data: dict[str, Any]) -> bool:
        """Return whether the notebook may hold this output too; what it holds is counted anew only when it seems full."""
        self.kept += len(json.dumps(data))
        if self.kept > MOST_OUTPUT:
            outputs = [cell.outputs for cell in self.nb.cells if cell.cell_type == "code"]
            self.kept = len(json.dumps(outputs)) + len(json.dumps(data))
        return self.kept <= MOST_OUTPUT


def death(index: int, status: int) -> CellFailed:
    """Return the failure of a cell whose kernel ended with this exit status, negative for a signal."""
    if status == KILLED:
        free = psutil.virtual_memory().available / MB / 2**10
        cause = (
            f"the kernel was killed from outside, as the system does when memory runs out ({free:.1f} GB are free now)."
        )
        return KernelKilled(index, cause, "Close other programs, or lower BATCH_SIZE or MAX_TOKENS with -p.")
    how = f"died of {signal.Signals(-status).name}" if status < 0 else f"ended by itself (exit status {status})"
    return CellFailed(index, f"the kernel {how}; the log has what it said last.")


def with_parameters(path: Path, parameters: dict[str, Any]) -> NotebookNode:
    """Return the notebook with the values in a cell of its own under the parameters cell, and no outputs."""
    page = load_notebook_node(str(path))
    page = parameterize_notebook(page, parameters, kernel_name="python3", language="python")
    NotebookExecutionManager(page, progress_bar=False).notebook_start()
    return page


def as_text(page: NotebookNode) -> str:
    """Return the notebook as the text of its file."""
    return nbformat.writes(page) + "\n"


def start_ahead(place: Place, modules: list[str]) -> Kernel:
    """Return the manager of a kernel that starts before it has cells to run, and imports these modules meanwhile."""
    manager = Kernel(kernel_name="python3", **place.address)
    given = {"cwd": str(place.folder), "env": place.environment | {IMPORTS: " ".join(modules)}}
    with open(place.log, "wb") as file:
        run_sync(manager.start_kernel)(extra_arguments=HISTORY, stdout=file, stderr=file, **given)
    return manager


def run_cells(
    page: NotebookNode,
    place: Place,
    minutes: tuple[float, float],
    started: Callable[..., None],
    ahead: Kernel | None = None,
) -> None:
    """Run the page's cells in place, in the kernel that was started ahead or a new one; call started(cell, cell_index) before each.

    `minutes` are the limits for a cell and for the whole. CellFailed says which cell stopped it and why, RuntimeError that
    the kernel never started.
    """
    end = time.monotonic() + 60 * minutes[1]
    manager = NotebookExecutionManager(page, progress_bar=False, autosave_cell_every=0)
    manager.set_timer()
    alive = ahead is not None and run_sync(ahead.is_alive)()
    client = Client(
        manager,
        km=ahead if alive else None,
        kernel_name="python3",
        startup_timeout=120,
        timeout_func=lambda cell: max(0.1, min(60 * minutes[0], end - time.monotonic())),
        iopub_timeout=600,
        store_widget_state=False,
        on_cell_execute=started,
    )
    client.address = place.address
    with open(place.log, "ab" if alive else "wb") as file:
        client.execute(cwd=str(place.folder), stdout=file, stderr=file, env=place.environment, cleanup_kc=True)
    manager.notebook_complete()
