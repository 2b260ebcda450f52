"""The reader of complaint files: every form gives the same rows, and what cannot be read says why (texts: test_odd_inputs.py)."""

import bz2
import gzip
import io
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from toy_complaints import CLASSES, COMPANY, as_csv, complaints, written

from helpers import sources
from helpers.complaints import load_complaints, select
from helpers.files import is_local, short_name
from helpers.sources import NARRATIVE, PRODUCT, SourceError, read

COLUMNS = {"company": "Company", "product": PRODUCT, "text": NARRATIVE}


def as_json(rows, lines=False) -> bytes:
    return rows.to_json(orient="records", lines=lines, force_ascii=False).encode()


def as_parquet(rows) -> bytes:
    rows.to_parquet(buffer := io.BytesIO())
    return buffer.getvalue()


def as_zip(members: dict[str, bytes]) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return buffer.getvalue()


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


def folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        written(path / name, content)
    return path


def hive(path: Path, rows) -> Path:
    """Write a folder as Spark does: a folder for each product, a marker, and checksums."""
    written(path / "_SUCCESS", b"")
    for product, part in rows.groupby(PRODUCT):
        name = path / f"{PRODUCT}={product.replace(' ', '%20')}" / "part-00000-c000.snappy.parquet"
        written(name, as_parquet(part.drop(columns=PRODUCT)))
        written(name.with_name(f".{name.name}.crc"), b"\0\1")
    return path


def saved(path: Path, data) -> Path:
    data.save_to_disk(str(path))
    return path


R = complaints()
FIRST, SECOND, LAST = R[:20], R[20:40], R[40:]
FORMS = {
    "comma": lambda at: written(at / "c.csv", as_csv(R)),
    "gz": lambda at: written(at / "c.csv.gz", gzip.compress(as_csv(R))),
    "gz in two pieces": lambda at: written(
        at / "c.csv.gz", gzip.compress(as_csv(R)[:3000]) + gzip.compress(as_csv(R)[3000:])
    ),
    "bz2, semicolon": lambda at: written(at / "c.csv.bz2", bz2.compress(as_csv(R, ";"))),
    "zst": lambda at: written(at / "c.csv.zst", zstd(as_csv(R))),
    "zst of JSON, UTF-16": lambda at: written(at / "c.zst", zstd(as_json(R).decode().encode("utf-16"))),
    "zip as the bureau's": lambda at: written(at / "complaints.csv.zip", as_zip({"complaints.csv": as_csv(R)})),
    "zip of a Mac, two parts": lambda at: written(
        at / "c.zip",
        as_zip(
            {"d/b.csv": as_csv(R[30:]), "__MACOSX/d/a.csv": b"\0", "d/a.csv": as_csv(R[:30]), "d/.DS_Store": b"\0\0"}
        ),
    ),
    "zip of JSON parts": lambda at: written(
        at / "c.zip", as_zip({"a.json": as_json(R[:9]), "b.jsonl": as_json(R[9:], True)})
    ),
    "zip of gz": lambda at: written(at / "c.zip", as_zip({"a.csv.gz": gzip.compress(as_csv(R))})),
    "Parquet": lambda at: written(at / "c.parquet", as_parquet(R)),
    "Parquet called CSV": lambda at: written(at / "c.csv", as_parquet(R)),
    "Parquet of categories": lambda at: written(at / "c.parquet", as_parquet(R.astype({PRODUCT: "category"}))),
    "JSON": lambda at: written(at / "c.json", as_json(R)),
    "JSON lines, gz": lambda at: written(at / "c.jsonl.gz", gzip.compress(as_json(R, True))),
    "one ID for all": lambda at: written(at / "c.parquet", as_parquet(R.assign(**{"Complaint ID": 0}))),
    "shards": lambda at: folder(
        at / "d", {"p0.parquet": as_parquet(FIRST), "p1.parquet": as_parquet(SECOND), "p2.parquet": as_parquet(LAST)}
    ),
    "shards of all kinds": lambda at: folder(
        at / "d",
        {
            "a.csv": as_csv(FIRST),
            "b.json.gz": gzip.compress(as_json(SECOND)),
            "x/c.zip": as_zip({"c.csv": as_csv(LAST)}),
        },
    ),
    "shards, one empty, with a page beside": lambda at: folder(
        at / "d", {"a.csv": as_csv(R[:0]), "b.csv": b"", "c.csv": as_csv(R), "README.md": b"# Data", ".git/x.csv": b"x"}
    ),
    "Spark's CSV": lambda at: written(at / "d" / "part-00000", as_csv(R, doublequote=False, escapechar="\\")).parent,
    "save_to_disk": lambda at: saved(at / "d", Dataset.from_pandas(R)),
    "save_to_disk in shards": lambda at: saved(
        at / "d", Dataset.from_pandas(R, preserve_index=False).shuffle(seed=0).sort("Complaint ID")
    ),
    "save_to_disk, two splits": lambda at: saved(
        at / "d", DatasetDict(train=Dataset.from_pandas(FIRST), aside=Dataset.from_pandas(R[20:]))
    ),
}


def load(path, **options):
    return pa.concat_tables(read(Path(path), COLUMNS, **options)).to_pandas()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_complaints_in_their_order(form, tmp_path):
    path = FORMS[form](tmp_path)
    found, left = select(load_complaints(str(path), "", "", company=COMPANY), COMPANY, CLASSES)
    assert found["id"].tolist() == list(range(60))
    assert found["text"].tolist() == R[NARRATIVE].tolist()
    assert found["label"].tolist() == [0, 1] * 30
    assert list(left.values()) == [60] * 4
    assert found["product"].value_counts().to_dict() == {"Mortgage": 30, "Credit card": 25, "Prepaid card": 5}


def test_sparks_folders_name_the_product_and_its_own_files_are_left_alone(tmp_path):
    unnamed = R.replace({PRODUCT: {"Prepaid card": "__HIVE_DEFAULT_PARTITION__"}})
    found = load(hive(tmp_path / "complaints", unnamed))
    assert found["product"].value_counts().to_dict() == {"Mortgage": 30, "Credit card": 25}
    assert found["product"].isna().sum() == 5
    assert found["id"].tolist() == list(range(60)) and set(found["text"]) == set(R[NARRATIVE])


@pytest.mark.parametrize("form", ["comma", "JSON", "Parquet", "save_to_disk", "shards of all kinds"])
def test_rows_come_a_few_at_a_time_and_in_order_whatever_their_number(form, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "ROWS", 5)
    parts = list(read(FORMS[form](tmp_path), COLUMNS))
    assert max(map(len, parts)) <= 5 and pa.concat_tables(parts)["id"].to_pylist() == list(range(60))
    assert pa.concat_tables(parts)["text"].to_pylist() == R[NARRATIVE].tolist()


def test_many_small_row_groups_are_read_together_and_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "ROWS", 10)
    pq.write_table(pa.Table.from_pandas(R), tmp_path / "c.parquet", row_group_size=3)
    parts = list(read(tmp_path / "c.parquet", COLUMNS))
    assert [len(part) for part in parts] == [12] * 5
    assert pa.concat_tables(parts)["text"].to_pylist() == R[NARRATIVE].tolist()


def test_a_code_page_is_read_when_it_is_named(tmp_path):
    path = written(tmp_path / "c.csv", as_csv(R, ";", encoding="cp1252"))
    assert load(path, encoding="cp1252")["text"].tolist() == R[NARRATIVE].tolist()
    path = written(tmp_path / "marked.csv", as_csv(R, encoding="utf-16"))
    assert load(path, encoding="cp1252")["text"].tolist() == R[NARRATIVE].tolist()  # the mark knows better


def test_values_are_text_and_numbers_as_they_are_written(tmp_path):
    columns = {"label": "label", "text": "text"}
    table = pd.DataFrame({"label": [1.0, 2.5, None], "text": ["N/A", "null", ""]})
    for path in (
        written(tmp_path / "a.parquet", as_parquet(table)),
        written(tmp_path / "a.json", '[{"label": 1.0, "text": "N/A"}, {"label": 2.5, "text": "null"}, {"text": ""}]'),
    ):
        rows = pa.concat_tables(read(path, columns))
        assert rows["label"].to_pylist() == ["1", "2.5", None] and rows["text"].to_pylist() == ["N/A", "null", ""]
    pq.write_table(pa.table({"label": [1.0, float("nan")], "text": ["a", "b"]}), tmp_path / "nan.parquet")
    assert pa.concat_tables(read(tmp_path / "nan.parquet", columns))["label"].to_pylist() == ["1", None]
    path = written(tmp_path / "a.csv", "label,text\n1,N/A\n2.5,null\n,\n")
    rows = pa.concat_tables(read(path, columns))
    assert rows["label"].to_pylist() == ["1", "2.5", None] and rows["text"].to_pylist() == ["N/A", "null", None]


def test_a_column_of_the_very_name_goes_before_one_of_another_case(tmp_path):
    path = written(tmp_path / "a.csv", "product,Product,PRODUCT\na,b,c\n")
    assert pa.concat_tables(read(path, {"x": "Product", "y": "PRODUCT", "z": "pRODUCT"})).to_pylist() == [
        {"id": 0, "x": "b", "y": "c", "z": "a"}
    ]


# --- what cannot be read


def locked_zip() -> bytes:
    content = bytearray(as_zip({"c.csv": as_csv(R)}))
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + at] |= 1  # the flag of a password
    return bytes(content)


LONG = as_csv(pd.concat([R] * 2000))
REFUSED = {
    "not there": (lambda at: at / "nowhere.csv", r"nowhere\.csv is not there"),
    "empty gz": (lambda at: written(at / "c.csv.gz", gzip.compress(b"")), r"lacks the column\(s\)"),
    "Parquet cut off": (lambda at: written(at / "c.parquet", as_parquet(R)[:-100]), "Parquet magic bytes not found"),
    "gz cut off": (lambda at: written(at / "c.csv.gz", gzip.compress(as_csv(R))[:-99]), "Truncated compressed stream"),
    "zst cut off": (lambda at: written(at / "c.csv.zst", zstd(as_csv(R))[:-9]), "Truncated compressed stream"),
    "zip cut off": (
        lambda at: written(at / "c.zip", as_zip({"c.csv": as_csv(R)})[:-99]),
        "BadZipFile: File is not a zip",
    ),
    "zip damaged": (
        lambda at: written(at / "c.zip", (z := as_zip({"c.csv": as_csv(R)}))[:200] + b"\0" * 50 + z[250:]),
        r"c\.zip > c\.csv cannot be read to its end",
    ),
    "a comma too many": (
        lambda at: written(at / "c.csv", LONG + b"2024-01-01,Mortgage,not, quoted,A,1\n"),
        "has a row of 6 fields, where its header has 5, before line 240,003",
    ),
    "a quote that is not closed": (
        lambda at: written(at / "c.csv", as_csv(R[:1]) + b'2024-01-01,Mortgage,"' + b"x\n" * 6_000_000),
        "field larger than field limit",
    ),
    "CSV of a code page, far behind": (
        lambda at: written(at / "c.csv", LONG + '9,"caf\xe9",A,B,C\n'.encode("latin-1")),
        r"is not UTF-8 text\.\nFound: .*caf\\xe9.*\nFix: .*-p ENCODING cp1252",
    ),
    "zip under a password": (
        lambda at: written(at / "c.zip", locked_zip()),
        "encrypted, password required.*\nFix: unpack it and pass what is in it: -p EXTRA_TEST PATH",
    ),
    "Parquet in a zip": (
        lambda at: written(at / "c.zip", as_zip({"c.parquet": as_parquet(R)})),
        r"c\.zip > c\.parquet holds Parquet in a packed file.*\nFix: unpack it",
    ),
    "Parquet in gz": (lambda at: written(at / "c.gz", gzip.compress(as_parquet(R))), "holds Parquet in a packed file"),
    "zip in a zip": (
        lambda at: written(at / "c.zip", as_zip({"b.zip": as_zip({"c.csv": as_csv(R)})})),
        "holds zip in a packed file",
    ),
    "a workbook": (
        lambda at: written(at / "c.xlsx", as_zip({"xl/workbook.xml": b"<?xml version='1.0'?>"})),
        r"is of no kind that is read here\. What is read: CSV .*\nFound: it starts with b\"<\?xml",
    ),
    "a picture": (
        lambda at: written(at / "c.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
        "is of no kind that is read here",
    ),
    "a column lacks in a shard": (
        lambda at: folder(at / "d", {"a.parquet": as_parquet(R), "b.parquet": as_parquet(R.drop(columns=PRODUCT))}),
        r"b\.parquet lacks the column",
    ),
    "a column lacks in save_to_disk": (
        lambda at: saved(at / "d", Dataset.from_dict({"a": [1]})),
        r"lacks the column\(s\)",
    ),
    "save_to_disk without its rows": (
        lambda at: written(at / "d" / "state.json", "{}").parent,
        "FileNotFoundError",
    ),
    "an empty folder": (
        lambda at: folder(at / "d", {"_SUCCESS": b""}),
        r"holds no file with rows\. What is read.*\nFound: ",
    ),
    "an empty zip": (
        lambda at: written(at / "c.zip", as_zip({})),
        "holds no file with rows.*\nFound: an empty archive",
    ),
    "many columns": (
        lambda at: written(at / "c.csv", ",".join(f"column {i}" for i in range(5000)) + "\n"),
        r"lacks the column\(s\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_named_with_its_cause_and_what_to_type(case, tmp_path):
    make, says = REFUSED[case]
    path = make(tmp_path)
    with pytest.raises(SourceError, match=says) as refused:
        load(path, parameter="EXTRA_TEST")
    lines = str(refused.value).splitlines()
    assert lines[0].startswith(f"EXTRA_TEST {path}") and lines[-1].startswith("Fix: ")
    assert len(lines) <= 4 and len(lines[1]) <= 207 and "DATASET" not in str(refused.value)


def test_an_encoding_that_python_does_not_know_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"unknown encoding: windows.*\nFix: .*-p ENCODING cp1252"):
        load(written(tmp_path / "c.csv", as_csv(R)), encoding="windows")


def test_a_file_without_rows_gives_none(tmp_path):
    assert load(written(tmp_path / "c.json", "[]")).columns.tolist() == ["id", *COLUMNS]
    with pytest.raises(SourceError, match=r"has no row with a text\.\nFound: 0 of 0 rows"):
        select(load_complaints(str(written(tmp_path / "c.csv", as_csv(R[:0]))), "", ""), "", CLASSES)


# --- what is local


@pytest.mark.parametrize(
    ("source", "local", "name"),
    [
        ("owner/name", False, "owner/name"),
        ("gpt2", False, "gpt2"),
        ("owner/data.v2", False, "owner/data.v2"),
        ("nowhere/rows.csv", True, "rows"),
        ("rows.csv.zip", True, "rows"),
        ("ROWS.TSV", True, "ROWS"),
        ("./name", True, "name"),
        ("~/models/mine.v1", True, "mine.v1"),
        ("data/of/mine", True, "mine"),
        ("tests", True, "tests"),
        ("README.md", True, "README.md"),
    ],
)
def test_what_exists_or_looks_like_a_path_is_local_for_notebooks_and_driver_alike(source, local, name):
    assert is_local(source) == local and short_name(source) == name
