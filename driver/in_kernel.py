"""The kernel of a stage: an ordinary ipykernel, except that nothing fails in silence and no output is too long.

Started by kernel.py as a script, with its standard output going to the stage's log.
"""

import atexit
import contextlib
import ctypes
import importlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TextIO

KEEP = 10_000  # characters of a cell's stream that reach the notebook from its beginning, and as many from its end
IMPORTS = "RUN_ALL_IMPORTS"  # the variable that names what a kernel imports while it waits for its first cell
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
EVERY = 10.0  # seconds from one line of a progress that writes over itself to the next


class Lines:
    """Text on its way to a file: of what a terminal would write over, a line now and then, and the last state."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self.put = write
        self.lock = threading.Lock()
        self.over = False  # a terminal would write over what comes now
        self.line = ""  # what such a line shows
        self.fresh = False  # the next piece begins it anew
        self.at_start = True  # of a line in the file

    def write(self, text: str) -> int:
        """Pass on what stays; of what is written over, pass on what it has come to every ten seconds; return the length."""
        with self.lock:
            for piece in re.split("(\r\n|\r|\n)", text):
                if piece == "\r":
                    if not self.over:
                        self.over, self.line, self.since = True, "", time.monotonic()
                    self.fresh = True
                elif piece in ("\n", "\r\n"):
                    self.show()
                    if not self.over or not self.at_start:
                        self.pass_on("\n")
                    self.over = False
                elif piece and self.over:
                    self.line, self.fresh = piece if self.fresh else self.line + piece, False
                elif piece:
                    self.pass_on(piece)
            if self.over and time.monotonic() - self.since >= EVERY:
                self.show()
        return len(text)

    def show(self) -> None:
        """Pass on what the line that is written over shows, as a line of its own, if it has not been."""
        if self.line:
            self.pass_on(("" if self.at_start else "\n") + self.line.rstrip() + "\n")
        self.line, self.since = "", time.monotonic()

    def pass_on(self, text: str) -> None:
        """Write the text to the file."""
        self.put(text)
        self.at_start = text.endswith("\n")

    def end(self) -> None:
        """Pass on the last state: nothing more comes."""
        with self.lock:
            self.show()
            self.over = False


def in_lines(stream: TextIO) -> None:
    """Let progress bars on the stream, when it is no terminal, become a line every ten seconds."""
    if not stream.isatty():
        lines = Lines(stream.write)
        stream.write = lines.write  # type: ignore[method-assign]
        atexit.register(lines.end)


class Tap:
    """Sends a stream's full text to the log, and to the notebook no more than the beginning and end of each cell's."""

    def __init__(self, stream: TextIO, log: int) -> None:
        self.log = log
        self.lines = Lines(self.keep)
        self.forward = stream.write
        self.clear()
        stream.write = self.write  # type: ignore[method-assign]

    def clear(self) -> None:
        """Begin a cell: nothing forwarded, nothing held back."""
        self.sent = self.held = 0
        self.tail: deque[str] = deque()

    def write(self, text: str) -> int:
        """Log the text; forward it while it fits, then hold it back; return its length, as streams do."""
        self.lines.write(text)
        left = max(0, KEEP - self.sent)
        head, rest = text[:left], text[left:]
        if head:
            self.forward(head)
        if rest:
            self.hold(rest)
        self.sent += len(head)
        return len(text)

    def keep(self, text: str) -> None:
        """Write the text to the log."""
        data = text.encode(errors="replace")
        while data:
            data = data[os.write(self.log, data) :]

    def hold(self, text: str) -> None:
        """Keep the last KEEP characters, in pieces, of what is not forwarded."""
        self.held += len(text)
        self.tail.append(text[-KEEP:])
        while sum(map(len, self.tail)) - len(self.tail[0]) >= KEEP:
            self.tail.popleft()

    def finish(self) -> None:
        """End a cell: forward the end of what was held back, after a line that says how much is only in the log."""
        self.lines.end()
        end = "".join(self.tail)[-KEEP:]
        if self.held > len(end):
            self.forward(f"\n[… {self.held - len(end):,} characters are only in the log …]\n")
        if end:
            self.forward(end)
        self.clear()


def run_loudly(shell: Any) -> None:
    """Make a failing shell command and exit() raise in the cell that has them."""
    quietly = shell.system
    interactive: Any = sys.modules["IPython.core.interactiveshell"]

    def system(command: str) -> None:
        quietly(command)
        if shell.user_ns.get("_exit_code"):
            raise subprocess.CalledProcessError(shell.user_ns["_exit_code"], command)

    def getoutput(command: str) -> str:
        text = subprocess.run(
            command, shell=True, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        return text.stdout

    def ask_exit() -> None:
        raise SystemExit("the cell calls exit()")

    shell.system = system
    shell.ask_exit = ask_exit
    interactive.getoutput = getoutput


def die_with_parent() -> None:
    """Have Linux kill this process when its parent ends, however that ends: nobody could tell it to stop any more."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # no libc of that kind
            ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != int(os.environ.get("JPY_PARENT_PID", os.getppid())):
            sys.exit("The process that started this kernel has ended.")


def import_while_waiting(names: list[str], shell: Any) -> None:
    """Import the modules, and look up the names in them, in a thread; no cell runs before it is done."""

    def work() -> None:
        with shell.builtin_trap:  # as in a cell, or pandas takes this for a terminal and cuts wide tables
            for name in names:
                package, _, last = name.rpartition(".")
                with contextlib.suppress(Exception):  # the cell that imports it will tell
                    if not package or getattr(importlib.import_module(package), last, None) is None:
                        importlib.import_module(name)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    shell.events.register("pre_execute", thread.join)


def main() -> None:
    """Run a kernel on the connection file given in the arguments until it is told to shut down."""
    die_with_parent()
    told = False

    def leave() -> None:
        if told:
            os._exit(0)  # Python would take thousands of modules apart for two seconds or three

    atexit.register(leave)  # first, and so called last: after the hooks of all that the cells import
    log = os.dup(1)
    sys.modules.setdefault("debugpy", None)  # type: ignore[arg-type]  # a quarter of a kernel's start, and nobody debugs here
    from ipykernel.kernelapp import IPKernelApp

    class App(IPKernelApp):
        """A kernel that keeps its messages for a driver that is slow to read: a lost one would be waited for."""

        def init_iopub(self, context: Any) -> None:
            context.sndhwm = 0  # by default what is beyond a thousand messages is dropped
            super().init_iopub(context)

    app: Any = App.instance()
    app.initialize(sys.argv[1:])
    taps = [Tap(stream, log) for stream in (sys.stdout, sys.stderr)]
    for tap in taps:
        app.shell.events.register("post_run_cell", lambda result, tap=tap: tap.finish())
    run_loudly(app.shell)
    import_while_waiting(os.environ.pop(IMPORTS, "").split(), app.shell)
    app.start()
    told = True


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [os.getcwd(), *(folder for folder in sys.path if folder != here)]  # the notebooks' own modules first
    main()
