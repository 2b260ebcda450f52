"""Row 3, data: the study's rows out of a file as large as the hub's, by the series' reader and selection."""

import os
import shutil
import tempfile
import time
from pathlib import Path

from benchmarks import measure
from helpers.files import MB


def by_study(path: str, company: str, cache: str) -> dict:
    """Return how many rows the study's way leaves, and its seconds: load all columns, let a function look at every row."""
    os.environ["HF_HOME"] = cache
    from datasets import load_dataset

    from benchmarks.pages import CLASSES

    names = {name for names in CLASSES.values() for name in names}
    started = time.perf_counter()
    rows = load_dataset("parquet", data_files=path, split="train").filter(
        lambda row: (
            row["Company"] == company and row["Product"] in names and row["Consumer complaint narrative"] is not None
        )
    )
    return {"seconds": time.perf_counter() - started, "rows": len(rows)}


def by_series(path: str, company: str, cache: str) -> dict:
    """Return how many rows notebook 01 finds, and the seconds, the writing of the letters it keeps included."""
    os.environ["HF_HOME"] = cache
    from benchmarks import pages

    started = time.perf_counter()
    _, found = pages.select(path, company)
    found.to_parquet(Path(cache) / "pool.parquet", index=False)
    return {"seconds": time.perf_counter() - started, "rows": len(found)}


def in_fresh_cache(function: str, path: Path, company: str) -> dict:
    """Return what the function returns in a process of its own, with the MB that it left on the disk."""
    cache = tempfile.mkdtemp(dir=path.parent)
    try:
        found = measure.in_child(f"benchmarks.selecting:{function}", path=path, company=company, cache=cache)
        files = [file for file in Path(cache).rglob("*") if file.is_file()]
        return found | {"disk_mb": sum(file.stat().st_size for file in files) / MB}
    finally:
        shutil.rmtree(cache)
