"""The letters: read from the source, labelled, compared for copies (taught in 01), and masked."""

import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from helpers import LABELS, is_data_file, place, short_name
from hub import data_pattern, hub_snapshot
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer

ID, COMPANY_COLUMN, PRODUCT, NARRATIVE = "Complaint ID", "Company", "Product", "Consumer complaint narrative"
COLUMNS = {ID: pa.int64(), COMPANY_COLUMN: pa.string(), PRODUCT: pa.string(), NARRATIVE: pa.string()}


def check_columns(path: Path) -> None:
    """Return when the local file is one the study can read; an error names what is wrong with it and the mend."""
    mend = "pass another file with -p DATASET PATH, or run the embedded data with --mini"
    if not path.is_file():
        raise FileNotFoundError(f"DATASET {path} is not there: {mend}.")
    if path.stat().st_size == 0:
        raise ValueError(f"DATASET {path} is empty (0 bytes): {mend}.")
    try:
        found = (
            pq.read_schema(path).names
            if path.suffix.lower() == ".parquet"
            else list(pd.read_csv(path, nrows=0).columns)
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"DATASET {path} is not UTF-8 text ({error}): save it as UTF-8, or {mend}.") from None
    except (pa.ArrowInvalid, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"DATASET {path} cannot be read, it may be truncated ({error}): {mend}.") from None
    missing = [column for column in COLUMNS if column not in found]
    if missing:
        raise ValueError(f"DATASET {path} lacks the column(s) {missing}; it has {found}: {mend}.")


def read_parquet(files: list[Path]) -> Iterator[pa.Table]:
    """Yield the files' rows in order, the four columns alone; two threads read what comes next, and no further."""
    with ThreadPoolExecutor(2) as pool:
        read, ahead = deque(), 3
        for file in files:
            about = pq.read_metadata(file)
            for groups in row_groups(about):
                read.append(pool.submit(read_groups, file, about, groups))
                if len(read) == ahead:
                    yield read.popleft().result()
        while read:
            yield read.popleft().result()


def row_groups(about: pq.FileMetaData) -> list[list[int]]:
    """Return the numbers of a file's row groups in order, as many together as make up 10,000 rows."""
    parts, rows = [[]], 0
    for group in range(about.num_row_groups):
        if rows >= 10_000:
            parts, rows = [*parts, []], 0
        parts[-1].append(group)
        rows += about.row_group(group).num_rows
    return parts


def read_groups(file: Path, about: pq.FileMetaData, groups: list[int]) -> pa.Table:
    """Return some row groups of a file, the four columns alone."""
    with pq.ParquetFile(file, metadata=about, pre_buffer=False) as source:  # a buffer would hold the whole file
        table = source.read_row_groups(groups, columns=list(COLUMNS), use_threads=False)
    return table.select(list(COLUMNS)).cast(pa.schema(COLUMNS))


def read_csv(path: Path) -> Iterator[pa.Table]:
    """Yield the file's rows in order, the four columns alone, 10,000 at a time."""
    kinds = {name: kind.to_pandas_dtype() for name, kind in COLUMNS.items()}
    with pd.read_csv(path, usecols=list(COLUMNS), dtype=kinds, chunksize=10_000) as parts:
        yield from (pa.Table.from_pandas(part, pa.schema(COLUMNS), preserve_index=False) for part in parts)


def load_complaints(dataset: str, config: str, revision: str) -> Iterator[pa.Table]:
    """Yield the source's rows (id, company, product, narrative) in Arrow tables of about 10,000, so that memory stays small.

    `dataset` is a hub id, read at the pinned config and revision, or a local CSV or Parquet file. Both are read in place.
    """
    path = place(dataset)
    if is_data_file(dataset):
        check_columns(path)
        rows = read_csv(path) if path.suffix.lower() == ".csv" else read_parquet([path])
    else:
        pattern = data_pattern(config)
        files = sorted(hub_snapshot(dataset, revision, "dataset", [pattern]).glob(pattern))
        if not files:
            raise ValueError(f"DATASET {dataset} at {revision} has no {pattern}: pass another one, -p CONFIG NAME.")
        rows = read_parquet(files)
    try:
        yield from rows
    except UnicodeDecodeError as error:
        raise ValueError(f"DATASET {dataset} is not UTF-8 text ({error}): save it as UTF-8.") from None
    except (pa.ArrowException, pd.errors.ParserError, OSError, ValueError) as error:
        raise ValueError(f"DATASET {dataset} cannot be read to its end, it may be truncated ({error}).") from None


def encode_labels(products: pd.Series) -> pd.Series:
    """Return the products' ids, their places in LABELS; ValueError names a product that the study does not know."""
    unknown = sorted(set(products) - set(LABELS))
    if unknown:
        raise ValueError(
            f"Product {unknown} is not one of the study's classes {list(LABELS)}: filter such rows out first."
        )
    return products.map({name: i for i, name in enumerate(LABELS)}).astype("int64")


def require_rows(rows: pd.DataFrame, per_class: int, parameter: str) -> None:
    """Return when each label has per_class rows; ValueError says how many there are and which parameter to lower."""
    there = rows["label"].value_counts().reindex(range(len(LABELS)), fill_value=0)
    if there.min() < per_class:
        counts = " and ".join(f"{there[i]:,} of {name!r}" for i, name in enumerate(LABELS))
        raise ValueError(
            f"{parameter}={per_class} asks for {per_class:,} rows per class, but the source leaves {counts}. "
            f"Lower it (-p {parameter} {there.min()}) or pass a larger file (-p DATASET PATH)."
        )


def other_complaints(path: str, known: list[str]) -> pd.DataFrame:
    """Return id, text and label of a file's letters on the study's products, to whatever company, without copies of known texts.

    The file has the raw schema. It prints how many rows it holds and how many letters are left.
    """
    rows = pa.concat_tables(load_complaints(path, "", "")).to_pandas()
    letters = rows[rows[PRODUCT].isin(LABELS) & (rows[NARRATIVE].fillna("").str.strip() != "")]
    letters = letters.rename(columns={ID: "id", NARRATIVE: "text"}).reset_index(drop=True)
    letters["label"] = encode_labels(letters[PRODUCT])
    copies = {j - len(known) for i, j in near_copies([*known, *letters["text"]]) if i < len(known) <= j}
    copies |= set(letters.index[letters["text"].map(normalise).isin({normalise(text) for text in known})])
    letters = letters.drop(index=list(copies)).reset_index(drop=True)
    if not len(letters):
        raise ValueError(f"EXTRA_TEST {path} leaves no letter of {LABELS}: pass another file with -p EXTRA_TEST PATH.")
    print(
        f"{short_name(path)}: {len(rows):,} rows, {len(letters):,} letters on these products and no copy of a known one."
    )
    return letters[["id", "text", "label"]]


def normalise(text: str) -> str:
    """Return the text in lower case with every run of anything but letters and digits as one space."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def shingles(texts: list[str], size: int = 5) -> csr_matrix:
    """Return a 0/1 matrix (texts × runs of `size` words): which runs occur in which normalised text."""
    counter = CountVectorizer(preprocessor=normalise, token_pattern=r"\S+", ngram_range=(size, size), binary=True)
    return counter.fit_transform(texts)


def near_copies(texts: list[str], threshold: float = 0.5) -> list[tuple[int, int]]:
    """Return the pairs i < j of texts whose sets of five-word runs have a Jaccard similarity of at least `threshold`."""
    sets = shingles(texts)
    sizes = np.asarray(sets.sum(axis=1)).ravel()
    shared = (sets @ sets.T).tocoo()
    upper = shared.row < shared.col
    i, j, both = shared.row[upper], shared.col[upper], shared.data[upper]
    close = both / (sizes[i] + sizes[j] - both) >= threshold
    return list(zip(i[close].tolist(), j[close].tolist(), strict=True))


def overlap(train_texts: list[str], test_texts: list[str]) -> dict:
    """Return how many test texts are in the training texts too: exactly, once normalised, or nearly."""
    known, first = {normalise(text) for text in train_texts}, len(train_texts)
    near = {j for i, j in near_copies([*train_texts, *test_texts]) if i < first <= j}
    return {
        "exact": len(set(test_texts) & set(train_texts)),
        "normalised": sum(normalise(text) in known for text in test_texts),
        "near": len(near),
    }


def mask_words(texts, words: list[str]) -> list[str]:
    """Return the texts with every occurrence of the words, in any case, replaced by a line."""
    pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b", re.IGNORECASE)
    return [pattern.sub("____", text) for text in texts]
