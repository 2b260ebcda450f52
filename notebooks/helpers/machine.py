"""The machine: what a notebook computes on and in which precision, what makes its numbers its own, and what a block costs.

torch takes two seconds to import; it is imported where it is needed, since notebooks 01 and 02 do without.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.metadata
import math
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from helpers.files import MB

if TYPE_CHECKING:
    import torch


PACKAGES = (  # those whose version may change a number
    *("torch", "transformers", "peft", "bitsandbytes", "accelerate", "tokenizers", "datasets", "pyarrow"),
    *("scikit-learn", "statsmodels", "scipy", "numpy", "pandas"),
)

LAUNCHERS = re.compile(  # what launchers of distributed trainings leave behind
    r"(ACCELERATE|FSDP|TORCHELASTIC|OMPI_COMM_WORLD|MV2_COMM_WORLD|PMI|PMIX)_\w+"
    r"|((LOCAL|GROUP|ROLE)_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|MPI_LOCAL(RANKID|NRANKS)"
)

THREADS = "OMP_NUM_THREADS"
POWERCAP = Path("/sys/class/powercap")  # where Linux counts the energy of processors
HIGHEST = {"cuda": 0}  # bytes on the card before its count of them was last set back
CPUINFO = Path("/proc/cpuinfo")  # where Linux says what the processor has; elsewhere it has AVX2, most likely
PINS = {  # what makes two CPUs compute the same; on Arm there is nothing of the kind, and another table comes out
    THREADS: "2",  # sums are divided among the threads
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # what torch has from oneDNN
    "MKL_CBWR": "COMPATIBLE",  # torch's matrix products: the one branch that is the same on Intel and AMD
    "OPENBLAS_CORETYPE": "Haswell",  # numpy's and scipy's
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",  # numpy's own kernels
}


class Computing(NamedTuple):
    """What a model computes on and in: a torch.device and a torch.dtype."""

    device: torch.device
    precision: torch.dtype

    @property
    def precision_name(self) -> str:
        """Return the precision as PRECISION names it: float32, bfloat16, or float16."""
        return str(self.precision).removeprefix("torch.")

    def __str__(self) -> str:
        return f"{self.device.type} in {self.precision_name}"


def choose_computing(device: str, precision: str) -> Computing:
    """Return what DEVICE ("auto", "cpu", "cuda") and PRECISION ("auto", "float32", "bfloat16", "float16") come to here.

    `auto` takes a CUDA card where there is one, and bfloat16 where the device multiplies it natively; else float16 on a card
    and float32 on a CPU. ValueError says what this machine does not have.
    """
    import torch

    precisions = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if device not in ("auto", "cpu", "cuda") or precision not in ("auto", *precisions):
        raise ValueError(
            f"DEVICE is auto, cpu or cuda, PRECISION auto or one of {', '.join(precisions)}: not {device!r}, {precision!r}."
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("DEVICE cuda: torch finds no CUDA card on this machine. Pass -p DEVICE cpu, or auto.")
    kind = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cpu" and precision == "float16":
        raise ValueError(
            "PRECISION float16 is for CUDA cards: its range is too small without their loss scaling. Pass -p PRECISION float32, or auto."
        )
    if precision != "auto":
        return Computing(torch.device(kind), precisions[precision])
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return Computing(torch.device(kind), torch.bfloat16 if native else torch.float16)
    return Computing(torch.device(kind), torch.bfloat16 if multiplies_bfloat16() else torch.float32)


def multiplies_bfloat16() -> bool:
    """Return whether the CPU has instructions for products of bfloat16 numbers: AMX, AVX512-BF16, or Arm's.

    With them a full-size training took 1/1.5 to 1/1.9 of its time in float32 (two cores, AVX512-BF16); where torch emulates
    them, nine times as long.
    """
    import torch

    return any(has for name, has in torch.cpu.get_capabilities().items() if name.endswith("bf16") and has is True)


def settle() -> None:
    """Keep what a launcher left in the environment from changing a training: one process, and at most one GPU.

    With several GPUs in sight the Trainer would split each batch among them, which 4-bit layers do not survive.
    """
    for name in [name for name in os.environ if LAUNCHERS.fullmatch(name)]:
        del os.environ[name]
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")


def pins() -> dict[str, str]:
    """Return the environment variables under which a mini run computes the same on every x86-64 CPU with AVX2.

    On another CPU it is the number of threads alone.
    """
    has_avx2 = not CPUINFO.exists() or " avx2 " in CPUINFO.read_text()
    if platform.machine().lower() in ("x86_64", "amd64") and has_avx2:
        return PINS
    return {THREADS: PINS[THREADS]}


def cpu_name() -> str:
    """Return the processor's name, or its kind where the system does not tell the name."""
    told = CPUINFO.read_text() if CPUINFO.exists() else ""
    names = re.findall(r"^model name\s*: (.+)$", told, re.MULTILINE)
    return names[0] if names else platform.machine()


def device_name(computing: Computing) -> str:
    """Return the name of what computes: the card, or the processor."""
    if computing.device.type == "cuda":
        import torch

        return torch.cuda.get_device_name()
    return cpu_name()


def numerics(computing: Computing | None) -> dict[str, str | int]:
    """Return what numbers may depend on beside code, data and versions: device, precision, instructions, threads, pins.

    Without a Computing (a notebook that runs no model) these are the pins alone.
    """
    pinned: dict[str, str | int] = {name: os.environ[name] for name in PINS if name in os.environ and name != THREADS}
    if computing is None:
        return pinned
    import torch

    found: dict[str, str | int] = {"precision": computing.precision_name}
    if computing.device.type == "cuda":
        return {"device": device_name(computing), **found}
    found |= {"instructions": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads()}
    return {"device": "cpu", **found, **pinned}


def versions() -> dict:
    """Return the versions of Python and of the packages that change numbers."""
    return {"python": sys.version.split()[0], **{name: importlib.metadata.version(name) for name in PACKAGES}}


def peak_memory_mb() -> dict:
    """Return this process's peak memory so far in MB: {"host": …, "cuda": … or None}."""
    if sys.platform == "win32":
        host = psutil.Process().memory_info().peak_wset / MB
    else:
        import resource  # not on Windows

        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MB if sys.platform == "darwin" else 2**10)
    torch: Any = sys.modules.get("torch")
    cuda = max(HIGHEST["cuda"], torch.cuda.max_memory_allocated()) / MB if torch and torch.cuda.is_available() else None
    return {"host": round(host), "cuda": cuda and round(cuda)}


def energy_counters() -> list[tuple[Callable[[], float], float]]:
    """Return, for each counter of energy that may be read here, what reads it and where it starts at zero again, in joules.

    Processors count in RAPL's files, which many systems show to root alone, the card in use by NVML.
    """
    found: list[tuple[Callable[[], float], float]] = []
    for zone in sorted(POWERCAP.glob("intel-rapl:*")):
        with contextlib.suppress(OSError, ValueError):
            most, _ = int((zone / "max_energy_range_uj").read_text()), (zone / "energy_uj").read_text()
            if (zone / "name").read_text().startswith("package"):  # others are parts of it, or the whole computer
                found.append((partial(joules_of_processor, zone / "energy_uj"), most / 1e6))
    torch: Any = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        with contextlib.suppress(OSError, AttributeError):  # no such library, or an old one
            nvml, card, spent = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p(), ctypes.c_ulonglong()
            nvml.nvmlInit_v2()
            uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}".encode()
            nvml.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(card))

            def joules_of_card() -> float:
                error = nvml.nvmlDeviceGetTotalEnergyConsumption(card, ctypes.byref(spent))  # in millijoules
                return math.nan if error else spent.value / 1e3

            if not math.isnan(joules_of_card()):
                found.append((joules_of_card, math.inf))
    return found


def joules_of_processor(file: Path) -> float:
    """Return what a counter of RAPL shows."""
    return int(file.read_text()) / 1e6


@contextlib.contextmanager
def measured() -> Iterator[dict]:
    """Yield a dict that holds, once the block has ended, its `seconds`, `memory_mb` {"host": …, "cuda": … or None}, `energy_wh`.

    Memory is the rise in MB from the start of the block to its peak: `host` that of the process, looked at fifty times a
    second, `cuda` that of what torch allocates. What earlier cells have freed and the system has not got back is used without
    a rise. Energy is what the processors and the card report to have spent meanwhile, also on other work, in watt-hours; None
    where nothing reports it.
    """
    torch: Any = sys.modules.get("torch")
    process = psutil.Process()
    over = threading.Event()
    cuda = torch is not None and torch.cuda.is_available()
    found: dict[str, Any] = {}
    counters = energy_counters()
    shown = [read() for read, _ in counters]
    joules, before = 0.0, process.memory_info().rss
    most = before

    def look() -> None:
        nonlocal joules, most
        most = max(most, process.memory_info().rss)
        for place, (read, most_joules) in enumerate(counters):
            now = read()
            joules += (now - shown[place]) % most_joules
            shown[place] = now

    def keep_looking() -> None:
        while not over.wait(0.02):
            look()

    if cuda:
        gc.collect()  # models that are no more would be freed in the block, and counted as its own
        HIGHEST["cuda"] = max(HIGHEST["cuda"], torch.cuda.max_memory_allocated())
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()
    looking = threading.Thread(target=keep_looking, daemon=True)
    looking.start()
    started = time.perf_counter()
    try:
        yield found
    finally:
        found["seconds"] = time.perf_counter() - started
        over.set()
        looking.join()
        look()
        rise = round((torch.cuda.max_memory_allocated() - allocated) / MB) if cuda else None
        found["memory_mb"] = {"host": round((most - before) / MB), "cuda": rise}
        found["energy_wh"] = joules / 3600 if counters else None
