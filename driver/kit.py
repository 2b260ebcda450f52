"""The offline demo, made in a process of its own: the memory of a pretraining is given back, and a signal ends it at once."""

import contextlib
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from driver import Refused, guard
from driver.in_kernel import in_lines

CPUINFO = Path("/proc/cpuinfo")  # where Linux says what the processor has; elsewhere it has AVX2, most likely
PINS = {  # what makes two CPUs compute the same; on Arm there is nothing of the kind, and another table comes out
    "OMP_NUM_THREADS": "2",  # sums are divided among the threads
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # what torch has from oneDNN
    "MKL_CBWR": "COMPATIBLE",  # torch's matrix products: the one branch that is the same on Intel and AMD
    "OPENBLAS_CORETYPE": "Haswell",  # numpy's and scipy's
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",  # numpy's own kernels
}


def pins() -> dict[str, str]:
    """Return the environment variables under which a mini run computes the same on every x86-64 CPU with AVX2.

    On another CPU it is the number of threads alone.
    """
    has_avx2 = not CPUINFO.exists() or " avx2 " in CPUINFO.read_text()
    if platform.machine().lower() in ("x86_64", "amd64") and has_avx2:
        return PINS
    return {"OMP_NUM_THREADS": PINS["OMP_NUM_THREADS"]}


def cache_folder(root: Path, out: Path) -> Path:
    """Return the folder in which what a mini run needs is kept for the next: the project's, or the run's own."""
    return (root / "runs" if os.access(root, os.W_OK) else out) / "cache"


def values(root: Path, cache: Path, dataset: str, company: str, pretrain: bool, make: bool) -> dict:
    """Return mini's {notebook: {parameter: value}} for the data set ("": the embedded one); Refused when it cannot be made.

    Unless `make` says so, nothing is written: the values are then those of what would be made.
    """
    command = [sys.executable, "-m", "driver.kit", json.dumps([str(cache), dataset, company, pretrain, make])]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise Refused(
            f"the mini data and models could not be made (exit status {done.returncode}; -9 means out of memory)."
        )
    answer = json.loads(done.stdout.splitlines()[-1])
    if isinstance(answer, str):
        raise Refused(f"the mini data and models cannot be made. {answer}")
    return answer


def main(cache: str, dataset: str, company: str, pretrain: bool, make: bool) -> None:
    """Print, as JSON, what mini.prepare returns, or the text of the error that says why it cannot."""
    sys.path.insert(0, "notebooks")  # for the reader of complaint files
    import mini

    in_lines(sys.stderr)
    folder, lock = Path(cache), contextlib.nullcontext()
    if make:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")  # runs in other output folders share the cache
    with lock:
        guard.sweep(folder)
        try:
            answer = mini.prepare(Path(dataset) if dataset else None, company, folder, pretrain, make)
        except (ValueError, LookupError, OSError) as error:
            answer = f"{type(error).__name__}: {error}"
    print(json.dumps(answer, default=str))


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
