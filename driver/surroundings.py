"""What surrounds a run and must change nothing that it computes: launchers' variables, the GPUs, a home that is read-only."""

import contextlib
import functools
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from helpers.machine import LAUNCHERS

# they make another interpreter of Python
SWITCHES = re.compile(r"PYTHON(OPTIMIZE|SAFEPATH|HASHSEED|IOENCODING|STARTUP)")


def settled(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for what a run starts: without such, and with those under which Python does the same anywhere."""
    kept = {
        name: value
        for name, value in environment.items()
        if not LAUNCHERS.fullmatch(name) and not SWITCHES.fullmatch(name)
    }
    waiting = {"OMP_WAIT_POLICY": "PASSIVE"}  # beside a busy neighbour, threads that spin are 8 times slower
    return waiting | kept | {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}


def own_folders(folder: Path) -> dict[str, str]:
    """Return the variables that let Jupyter and IPython write into the folder, and matplotlib where the home takes no cache."""
    found = {"JUPYTER_RUNTIME_DIR": str(folder), "IPYTHONDIR": str(folder)}
    homes = [os.environ.get(f"XDG_{kind}_HOME") or f"~/.{kind.lower()}" for kind in ("CONFIG", "CACHE")]
    homes = homes if sys.platform.startswith(("linux", "freebsd")) else ["~"]
    own = os.environ.get("MPLCONFIGDIR")
    if not all(can_write(os.path.expanduser(home)) for home in ([own] if own else homes)):
        found["MPLCONFIGDIR"] = str(folder / "matplotlib")
    return found


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

    def __init__(self) -> None:
        self.kernels = dict.fromkeys(gpus(), 0)
        self.lock = threading.Lock()

    @contextlib.contextmanager
    def one(self) -> Iterator[dict[str, str]]:
        """Yield the variables that give a kernel the GPU with the fewest kernels now; none where there is no GPU."""
        if not self.kernels:
            yield {}
            return
        with self.lock:
            chosen = min(self.kernels, key=self.kernels.__getitem__)
            self.kernels[chosen] += 1
        try:
            yield {"CUDA_VISIBLE_DEVICES": chosen}
        finally:
            with self.lock:
                self.kernels[chosen] -= 1
