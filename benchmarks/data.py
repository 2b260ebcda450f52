"""The complaints: as notebook 01 selects and divides them, a file as large as the hub's, and row 3, selecting from it."""

import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.model_selection import train_test_split

from driver.parameters import defaults
from helpers import complaints
from helpers.files import ROOT, megabytes, write_whole
from helpers.sources import COMPANY, ID, NARRATIVE, PRODUCT

GROUP = 1000  # rows in a row group, as the library that filled the hub writes them
MEDIAN_WORDS = 195  # of the texts' lengths, which are log-normal:
SPREAD = 0.8  # so one in twenty is longer than 720 words
COMPANY_SHARE = 0.01  # of the study's company; the others share the rest
PRODUCTS = {  # shares of the rows; a seventh is about one of the study's two products
    "Credit reporting, credit repair services, or other personal consumer reports": 0.45,
    "Debt collection": 0.18,
    "Checking or savings account": 0.12,
    "Student loan": 0.11,
    "Credit card or prepaid card": 0.08,
    "Mortgage": 0.06,
}


def values(notebook: str) -> dict:
    """Return the values in a notebook's parameters cell."""
    return defaults(ROOT / "notebooks" / f"{notebook}.ipynb")


def select(path: str, company: str) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the complaints that notebook 01 finds in the file, and the rows left by each of its conditions."""
    rows = complaints.load_complaints(path, "", "", company=company)
    return complaints.select(rows, company, values("01_data")["CLASSES"])


def split(path: str, company: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return training and validation complaints, as many of each class as 01 takes or as there are, divided as 01 does."""
    given = values("01_data")
    found, _ = select(path, company)
    shuffled = found.drop_duplicates("text").sample(frac=1, random_state=given["SEED"])
    per_class = min(given["TRAIN_ROWS"], shuffled["label"].value_counts().min())
    rows = shuffled.groupby("label").head(per_class)
    train, validation = train_test_split(rows, test_size=0.2, stratify=rows["label"], random_state=given["SEED"])
    return train.reset_index(drop=True), validation.reset_index(drop=True)


# --- the large file


def generate(source: str, company: str, path: str, rows: int, seed: int = 0) -> dict:
    """Write such a Parquet file from a small one, whole or not at all, unless it is there; return its size in rows."""
    table = pq.read_table(source).replace_schema_metadata()
    random = np.random.default_rng(seed)

    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, table.schema) as file:
            for first in range(0, rows, 50 * GROUP):
                part = rows_like(table, company, min(50 * GROUP, rows - first), first, random)
                file.write_table(part, row_group_size=GROUP)

    if not Path(path).exists():
        write_whole(Path(path), write)
    return {"rows": pq.read_metadata(path).num_rows}


def rows_like(source: pa.Table, company: str, rows: int, first_id: int, random: np.random.Generator) -> pa.Table:
    """Return that many rows: the source's values column by column, and texts cut from all its texts in a row."""
    table = source.take(random.integers(0, len(source), rows))
    others = np.array([name for name in source[COMPANY].unique().to_pylist() if name and name != company])
    made = {
        COMPANY: np.where(random.random(rows) < COMPANY_SHARE, company, random.choice(others, rows)),
        PRODUCT: random.choice(list(PRODUCTS), rows, p=list(PRODUCTS.values())),
        NARRATIVE: texts_like(source, rows, random),
        ID: np.arange(first_id, first_id + rows),
    }
    for name, column in made.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, pa.array(column, type=table.schema.field(name).type))
    return table


def texts_like(source: pa.Table, rows: int, random: np.random.Generator) -> list[str | None]:
    """Return that many texts, as long as real ones are; one in a thousand is missing and one is blank."""
    whole = "\n".join(filter(None, source[NARRATIVE].to_pylist())).encode("ascii", "ignore").decode()
    characters = len(whole) / len(whole.split())  # of a word and the space behind it
    longest = len(whole) // 2  # of a text
    lengths = np.exp(random.normal(np.log(MEDIAN_WORDS * characters), SPREAD, rows)).astype(int).clip(1, longest)
    starts = random.integers(0, len(whole) - longest, rows)
    places = zip(starts.tolist(), lengths.tolist(), strict=True)
    found: list[str | None] = [whole[start : start + length] for start, length in places]
    unfilled = random.integers(0, rows, rows // 500).tolist()
    for place, empty in zip(unfilled, itertools.cycle([None, " \n"]), strict=False):
        found[place] = empty
    return found


# --- row 3, each side in a process of its own


def select_large(side: str, path: str, company: str) -> dict:
    """Return how many rows a side keeps of a file, its seconds, and the MB that it leaves on the disk, in a fresh folder."""
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as cache:
        found = {"original": select_by_original, "series": select_by_series}[side](path, company, cache)
        return found | {"disk_mb": megabytes(Path(cache), "**/*")}


def select_by_original(path: str, company: str, cache: str) -> dict:
    """Return how many rows the study's way keeps, and its seconds: load all columns, let a function look at every row."""
    from datasets import load_dataset  # the series' side does without, and without the memory that this takes

    products = {name for names in values("01_data")["CLASSES"].values() for name in names}
    started = time.perf_counter()
    rows = load_dataset("parquet", data_files=path, split="train", cache_dir=cache).filter(
        lambda row: row[COMPANY] == company and row[PRODUCT] in products and row[NARRATIVE] is not None
    )
    return {"seconds": time.perf_counter() - started, "rows": len(rows)}


def select_by_series(path: str, company: str, cache: str) -> dict:
    """Return how many rows notebook 01 keeps, and the seconds, the writing of those rows included."""
    started = time.perf_counter()
    found, _ = select(path, company)
    found.to_parquet(Path(cache) / "pool.parquet", index=False)
    return {"seconds": time.perf_counter() - started, "rows": len(found)}
