"""What surrounds a run and must change nothing that it computes: launchers' variables, the GPUs, a home that is read-only."""

import contextlib
import functools
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from helpers.machine import LAUNCHERS

SWITCHES = re.compile(
    r"PYTHON(OPTIMIZE|SAFEPATH|HASHSEED|IOENCODING|STARTUP)"
)  # they make another interpreter of Python


def settle() -> None:
    """Drop such variables for this process and all that it starts, and let no sign that its output cannot show stop it."""
    for name in [name for name in os.environ if LAUNCHERS.fullmatch(name) or SWITCHES.fullmatch(name)]:
        del os.environ[name]
    os.environ.update(PYTHONHASHSEED="0", PYTHONUTF8="1")  # in all that is started from here
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")


def give_folders(folder: Path) -> None:
    """Let Jupyter and IPython keep in the folder what they write, and matplotlib, unless the home takes its cache."""
    os.environ.update(JUPYTER_RUNTIME_DIR=str(folder), IPYTHONDIR=str(folder))
    homes = [os.environ.get(f"XDG_{kind}_HOME") or f"~/.{kind.lower()}" for kind in ("CONFIG", "CACHE")]
    homes = homes if sys.platform.startswith(("linux", "freebsd")) else ["~"]
    own = os.environ.get("MPLCONFIGDIR")
    if not all(can_write(os.path.expanduser(home)) for home in ([own] if own else homes)):
        os.environ["MPLCONFIGDIR"] = str(folder / "matplotlib")


def can_write(folder: str) -> bool:
    """Return whether the folder is there, or can be made, and takes files."""
    there = next(path for path in (Path(folder), *Path(folder).absolute().parents) if os.path.exists(path))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


@functools.cache
def gpus() -> dict[str, str]:
    """Return {how CUDA_VISIBLE_DEVICES calls it: name} of the GPUs that this process may use, without importing torch."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", "--query-gpu=uuid,name", "--format=csv,noheader"]
    asked = subprocess.run(command, capture_output=True, text=True)
    rows = [line.split(", ", 1) for line in asked.stdout.splitlines() if ", " in line]
    there = {} if asked.returncode else {str(place): name for place, (_, name) in enumerate(rows)}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = {}
    for entry in there if visible is None else visible.split(","):
        names = [name for uuid, name in rows if there and entry.strip() and uuid.startswith(entry.strip())]
        name = there.get(entry.strip()) or next(iter(names), "MIG" if entry.startswith("MIG-") and there else None)
        if name is None:
            break  # as CUDA does: what comes after an entry that is not there is not seen
        found[entry.strip()] = name
    return found


class Gpus:
    """Shares the GPUs out among the kernels that run side by side: one to each, so that no training spreads over several."""

    def __init__(self):
        self.kernels, self.lock = dict.fromkeys(gpus(), 0), threading.Lock()

    @contextlib.contextmanager
    def one(self):
        """Yield the variables that give a kernel the GPU with the fewest kernels now; none where there is no GPU."""
        if not self.kernels:
            yield {}
            return
        with self.lock:
            chosen = min(self.kernels, key=self.kernels.get)
            self.kernels[chosen] += 1
        try:
            yield {"CUDA_VISIBLE_DEVICES": chosen}
        finally:
            with self.lock:
                self.kernels[chosen] -= 1
