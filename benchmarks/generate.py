"""A file of complaints as large as the hub's: 1,689,573 rows in the raw schema, made from a small one."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from helpers.files import write_whole

ROWS = 1_689_573
GROUP = 1000  # rows in a row group, as the library that filled the hub writes them
MEDIAN_WORDS, SPREAD = 195, 0.8  # of the letters' lengths, log-normal: one in twenty is longer than 720 words
COMPANY_SHARE = 0.01  # of the study's company; the others share the rest
PRODUCTS = {  # shares of the rows; a seventh is about one of the study's two products
    "Credit reporting, credit repair services, or other personal consumer reports": 0.45,
    "Debt collection": 0.18,
    "Checking or savings account": 0.12,
    "Student loan": 0.11,
    "Credit card or prepaid card": 0.08,
    "Mortgage": 0.06,
}
NARRATIVE, COMPANY, PRODUCT, ID = "Consumer complaint narrative", "Company", "Product", "Complaint ID"


def rows_like(source: pa.Table, company: str, rows: int, first_id: int, random: np.random.Generator) -> pa.Table:
    """Return that many rows: the source's values column by column, and letters cut from all its letters in a row."""
    table = source.take(random.integers(0, len(source), rows))
    others = np.array([name for name in source[COMPANY].unique().to_pylist() if name and name != company])
    made = {
        COMPANY: np.where(random.random(rows) < COMPANY_SHARE, company, random.choice(others, rows)),
        PRODUCT: random.choice(list(PRODUCTS), rows, p=list(PRODUCTS.values())),
        NARRATIVE: letters(source, rows, random),
        ID: np.arange(first_id, first_id + rows),
    }
    for name, values in made.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, pa.array(values, type=table.schema.field(name).type))
    return table


def letters(source: pa.Table, rows: int, random: np.random.Generator) -> list[str | None]:
    """Return that many letters, as long as real ones are; one in a thousand is missing and one is blank."""
    text = "\n".join(filter(None, source[NARRATIVE].to_pylist())).encode("ascii", "ignore").decode()
    characters = len(text) / len(text.split())  # of a word and the space behind it
    longest = len(text) // 2  # of a letter
    lengths = np.exp(random.normal(np.log(MEDIAN_WORDS * characters), SPREAD, rows)).astype(int).clip(1, longest)
    starts = random.integers(0, len(text) - longest, rows)
    found = [text[start : start + length] for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)]
    for place, empty in zip(
        random.integers(0, rows, rows // 500).tolist(), itertools.cycle([None, " \n"]), strict=False
    ):
        found[place] = empty
    return found


def generate(source: Path, company: str, path: Path, rows: int = ROWS, seed: int = 0) -> Path:
    """Return the path of the Parquet file; write it, whole or not at all, unless it is there."""
    if path.exists():
        return path
    table, random = pq.read_table(source).replace_schema_metadata(), np.random.default_rng(seed)

    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, table.schema) as file:
            for first in range(0, rows, 50 * GROUP):
                part = rows_like(table, company, min(50 * GROUP, rows - first), first, random)
                file.write_table(part, row_group_size=GROUP)

    write_whole(path, write)
    return path
