"""Classify many rows, undisturbed and killed at random moments: python tests/by_hand/kill_classify.py MODEL [ROWS] [KILLS]

It prints rate and peak memory of 5,000 rows and of ROWS (200,000), then kills the program KILLS (20) times and compares: one row for
each row, equal to the undisturbed run. MODEL is a merged checkpoint: python run_all.py --mini --export 03_distilbert_lora.
"""

import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pandas as pd
import psutil
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "notebooks")]

from helpers.files import MB  # noqa: E402
from helpers.sources import NARRATIVE, PRODUCT  # noqa: E402
from mini.writer import write_complaints  # noqa: E402


def write_rows(path: Path, number: int, told: pd.DataFrame) -> Path:
    """Write so many rows, the invented complaints over and over, each with its own number at the end, and return the path."""
    rows = told.iloc[[i % len(told) for i in range(number)]].reset_index(drop=True)
    rows[NARRATIVE] = rows[NARRATIVE] + " Case " + rows.index.astype(str)
    rows["Complaint ID"] = rows.index.astype(str)
    rows[["Complaint ID", PRODUCT, NARRATIVE]].to_csv(path, index=False)
    return path


def start(model: Path, file: Path, out: Path) -> psutil.Popen:
    """Start the program on the file."""
    command = [sys.executable, ROOT / "classify.py", model, file, "--out", out]
    return psutil.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def measured(model: Path, file: Path, out: Path) -> tuple[float, float]:
    """Return the seconds that the program takes on the file, and its peak memory in MB."""
    started, peak = time.perf_counter(), 0.0
    process = start(model, file, out)
    over = threading.Event()
    while process.poll() is None:
        try:
            peak = max(peak, process.memory_info().rss / MB)
        except psutil.Error:
            break
        over.wait(0.2)
    if process.wait():
        sys.exit(f"classify.py ended with exit status {process.returncode}")
    return time.perf_counter() - started, peak


def main() -> None:
    """Measure, kill, compare."""
    model = Path(sys.argv[1])
    given = [*map(int, sys.argv[2:]), *(200_000, 20)[len(sys.argv) - 2 :]]
    number, kills = given
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        told = pd.read_parquet(write_complaints(folder / "complaints.parquet")).dropna(subset=[NARRATIVE])
        few, many = (write_rows(folder / f"{n}.csv", n, told) for n in (5_000, number))
        seconds, small = measured(model, few, folder / "few.parquet")
        print(f"5,000 rows: {seconds:,.0f} s, peak {small:,.0f} MB", flush=True)
        seconds, large = measured(model, many, folder / "whole.parquet")
        print(
            f"{number:,} rows: {seconds:,.0f} s, {number / seconds:,.0f} rows/s, peak {large:,.0f} MB, {large / small:.2f} times",
            flush=True,
        )
        chance = random.Random(0)
        for kill in range(kills):
            process = start(model, many, folder / "out.parquet")
            time.sleep(10 + chance.random() * seconds / kills)
            process.kill()
            process.wait()
            kept = len(list(folder.glob(".out.parquet.parts/[0-9]*.parquet")))
            print(f"kill {kill + 1}: {kept} parts are kept", flush=True)
        print(f"the rest: {measured(model, many, folder / 'out.parquet')[0]:,.0f} s")
        found, whole = (pq.read_table(folder / name) for name in ("out.parquet", "whole.parquet"))
        same = found.equals(whole) and found["id"].to_pylist() == [str(i) for i in range(number)]
        print("one row for each row, equal to the undisturbed run" if same else "NOT EQUAL")
        sys.exit(not same)


if __name__ == "__main__":
    main()
