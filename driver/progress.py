"""What a run shows while it goes: one line that updates on a terminal; elsewhere a line a cell, and every ten seconds."""

import re
import shutil
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode

EVERY = 10.0  # seconds between two lines about a cell that runs, where no line can be written over


def duration(seconds: float) -> str:
    """Return the seconds as a person would say them: 3.2 s, 4 min 10 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def label(page: "NotebookNode", index: int) -> str:
    """Return which of the notebook's own code cells stands at the index, with the heading above it or its first line."""
    code = [i for i, cell in enumerate(page.cells) if cell.cell_type == "code"]
    own = [i for i in code if "injected-parameters" not in page.cells[i].metadata.get("tags", [])]
    above = "\n".join(cell.source for cell in page.cells[:index] if cell.cell_type == "markdown")
    title = (re.findall(r"^#+ +(.+)$", above, re.MULTILINE) or page.cells[index].source.splitlines()[:1])[-1]
    return f"cell {sum(i <= index for i in own)} of {len(own)}, {textwrap.shorten(title, 60, placeholder='…')}"


class Cells:
    """The cells of one notebook as they run; a context manager around the run.

    Beside other notebooks each line is written whole, with the notebook's name.
    """

    def __init__(self, name: str, page: "NotebookNode", beside_others: bool) -> None:
        self.name = name
        self.page = page
        self.beside_others = beside_others
        self.now = ""  # the cell that runs
        self.live = sys.stdout.isatty() and not beside_others
        self.over = threading.Event()
        self.writing = threading.RLock()  # a cell may end while its time is being shown

    def __enter__(self) -> "Cells":
        threading.Thread(target=self.tick, daemon=True).start()
        if not self.live and not self.beside_others:
            print(self.name, flush=True)
        return self

    def __exit__(self, *error: object) -> None:
        self.over.set()
        self.end_cell()

    def start_cell(self, cell: "NotebookNode", cell_index: int) -> None:
        """Show that this cell begins, after the time that the one before took."""
        self.end_cell()
        if "injected-parameters" in cell.metadata.get("tags", []):
            return  # the values given; no cell of the notebook's own
        with self.writing:
            self.now = label(self.page, cell_index)
            self.since = self.seen = time.monotonic()
            if not self.beside_others:
                self.write(f"{self.name}: {self.now}" if self.live else f"  {self.now} … ")

    def end_cell(self) -> None:
        """Show that the cell now running, if any, has ended."""
        with self.writing:
            if self.now:
                start = f"  {self.name}: {self.now} … " if self.beside_others else ""
                self.write("" if self.live else start + duration(time.monotonic() - self.since) + "\n")
            self.now = ""

    def tick(self) -> None:
        """Show the time that the cell has taken so far: on a terminal over the line, once a second; elsewhere now and then."""
        while not self.over.wait(min(1, EVERY)):
            with self.writing:
                taken = duration(time.monotonic() - self.since) if self.now else ""
                if taken and self.live:
                    self.write(f"{self.name}: {self.now}, {taken}")
                elif taken and time.monotonic() - self.seen >= EVERY:
                    self.seen = time.monotonic()
                    line = f"  {self.name}: {self.now} … " if self.beside_others else ""
                    self.write(f"{line}{taken} so far\n" + ("" if self.beside_others else f"  {self.now} … "))

    def write(self, text: str) -> None:
        """Write the text: over the line on a terminal, after what is there elsewhere."""
        width = shutil.get_terminal_size().columns - 1  # a longer line could not be written over
        print("\r\x1b[K" + text[:width] if self.live else text, end="", flush=True)
