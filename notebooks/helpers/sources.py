"""One reader of complaint files: their kind is told by their content, and they come as Arrow tables of the columns asked for."""

import codecs
import contextlib
import csv
import io
import itertools
import json
import re
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path, PurePath, PurePosixPath
from typing import Any
from urllib.parse import unquote

import ijson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from helpers.files import DATA_ENDINGS

NARRATIVE, PRODUCT, COMPANY = "Consumer complaint narrative", "Product", "Company"  # columns, as the bureau names them
ID = "Complaint ID"
DATE = "Date received"  # as is this one

ROWS = 10_000  # in a table

HEAD = 2**18  # bytes that tell a file's kind

LONGEST = 10_000_000  # characters of a CSV field: a quote that is never closed must not take the whole file into memory

SAME = {  # the search API's names of columns, where they are not the bureau's own in snake case
    "complaint what happened": "consumer complaint narrative",
    "company response": "company response to consumer",
    "timely": "timely response",
}


class Kind(Enum):
    """What a file's first bytes say it is."""

    CSV = "CSV (comma, semicolon or tab)"
    JSON = "JSON or JSON lines"
    PARQUET = "Parquet"
    ZIP = "zip"
    GZIP = "gz"
    BZ2 = "bz2"
    ZSTD = "zst"
    UNKNOWN = "unknown"


MAGIC = {b"PAR1": Kind.PARQUET, b"PK\3\4": Kind.ZIP, b"PK\5\6": Kind.ZIP, b"\x1f\x8b": Kind.GZIP, b"BZh": Kind.BZ2}

MAGIC |= {b"\x28\xb5\x2f\xfd": Kind.ZSTD}

CODECS = {Kind.GZIP: "gzip", Kind.BZ2: "bz2", Kind.ZSTD: "zstd"}

MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}

SAVED = ("state.json", "dataset_dict.json")  # what save_to_disk leaves: of a data set, and of several splits

READ = (
    "What is read: CSV (comma, semicolon, tab), JSON, JSON lines, Parquet; zip (of the first three), gz, bz2, zst; "
    "a folder of these or of save_to_disk"
)

UNREADABLE: tuple[type[Exception], ...] = (
    pa.ArrowException,
    csv.Error,
    ijson.JSONError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
)

UNREADABLE += (UnicodeError, RuntimeError)  # the latter is zipfile's for a password, or a packing that it does not know


class SourceError(ValueError):
    """A source that cannot be used, in at most three lines: which and why, what was found, and what to type instead.

    `source` is the parameter with what was given: DATASET path/to/file.
    """

    def __init__(self, source: str, cause: str, found: object = "", fix: str = ""):
        parameter = source.partition(" ")[0]
        mini = ", or take the embedded complaints: python run_all.py --mini" if parameter == "DATASET" else ""
        here = "FILE" if parameter == "FILE" else f"-p {parameter} PATH"
        lines = [f"{source} {one_line(cause, 600)}.", f"Found: {one_line(found)}" if found else ""]
        lines.append(f"Fix: {fix or f'pass another file or folder: {here}{mini}'}.")
        super().__init__("\n".join(filter(None, lines)))


def one_line(value: object, width: int = 200) -> str:
    """Return the value in one line of at most `width` characters."""
    line = " ".join(str(value).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def kind_of(head: bytes, encoding: str = "utf-8") -> Kind:
    """Return what a file that starts with these bytes is; text that is neither JSON nor markup is taken for CSV."""
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    text = head.decode(encoding_of(head, encoding), "ignore").lstrip()
    if "\0" in text or text.startswith("<"):
        return Kind.UNKNOWN
    return Kind.JSON if text.startswith(("[", "{")) else Kind.CSV


def encoding_of(head: bytes, encoding: str) -> str:
    """Return the encoding that the byte order mark tells, or the given one."""
    return next((marked for mark, marked in MARKS.items() if head.startswith(mark)), encoding)


@dataclass(frozen=True)
class Part:
    """A file, or a member of a zip archive, and what the names of its folders tell: {column: value} of `column=value`."""

    file: Path
    member: str = ""
    partition: dict[str, str | None] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.file}{' > ' if self.member else ''}{self.member}"

    @contextlib.contextmanager
    def open(self) -> Iterator[io.BufferedReader]:
        """Yield its bytes, unpacked."""
        with contextlib.ExitStack() as stack:
            stream: Any = stack.enter_context(self.file.open("rb"))
            if self.member:
                stream = stack.enter_context(stack.enter_context(zipfile.ZipFile(stream)).open(self.member))
            codec = CODECS.get(kind_of(stream.peek(4)[:4]))
            yield io.BufferedReader(pa.CompressedInputStream(stream, codec) if codec else stream, HEAD)


class Unusable(Exception):
    """What is wrong with a part: the arguments of SourceError but for the source."""


def read(
    path: Path,
    columns: dict[str, str],
    *,
    parameter: str = "DATASET",
    encoding: str = "utf-8",
    pattern: str = "**/*",
) -> Iterator[pa.Table]:
    """Yield the rows of a file or folder in tables of about 10,000: `id`, their place counted from 0, and columns of text.

    `columns` is {our name: the source's}, found under the bureau's names, the search API's, and in any case; one of ours that
    ends in a question mark may lack. What is missing is null. `encoding` is that of text without a byte order mark; `pattern` picks a folder's files. SourceError
    says what cannot be read, and what to type for the parameter that named it.
    """
    start = 0
    keys: dict[str, None] = {}
    for part in parts_of(path, parameter, encoding, pattern):
        with errors_told(parameter, part):
            for table in tables(part, columns, encoding, keys):
                yield table.add_column(0, "id", pa.array(range(start, start + len(table)), pa.int64()))
                start += len(table)
    if keys:  # any JSON object may leave out a key that is null: only the end tells that a column lacks
        with errors_told(parameter, path):
            require_columns(keys, columns)
    if not start:
        yield pa.table({"id": pa.array([], pa.int64()), **{ours: pa.array([], pa.string()) for ours in columns}})


@contextlib.contextmanager
def errors_told(parameter: str, part: Part | Path) -> Iterator[None]:
    """Raise what is found wrong, and what the libraries say, as a SourceError."""
    source = f"{parameter} {part}"
    unpack = f"unpack it and pass what is in it: -p {parameter} PATH" if getattr(part, "member", "") else ""
    try:
        yield
    except Unusable as error:
        raise SourceError(source, *error.args) from None
    except UnicodeDecodeError as error:
        found = f"{error.reason} at {error.object[max(0, error.start - 40) : error.start + 40]!r}"
        fix = "save it as UTF-8, or say what it is, as -p ENCODING cp1252 does for a Windows code page"
        raise SourceError(source, f"is not {error.encoding.upper()} text", found, fix) from None
    except UNREADABLE as error:
        raise SourceError(source, "cannot be read to its end", f"{type(error).__name__}: {error}", unpack) from None


def parts_of(path: Path, parameter: str, encoding: str, pattern: str) -> list[Part]:
    """Return what is to be read, in the order of the names; SourceError when there is nothing, or no such encoding."""
    with errors_told(parameter, path):
        if not path.exists():
            raise Unusable("is not there")
        try:
            b"a".decode(encoding)
        except LookupError as error:
            raise Unusable(
                "cannot be decoded", error, "pass an encoding that Python knows: -p ENCODING cp1252"
            ) from None
        if any((path / name).is_file() for name in SAVED):
            return [Part(path)]
        inside = sorted(file.relative_to(path) for file in path.glob(pattern) if file.is_file())
        files = [path / file for file in usable(inside) if (path / file).stat().st_size] if path.is_dir() else [path]
        if not files:
            raise Unusable(f"holds no file with rows. {READ}", ", ".join(map(str, inside)) or "an empty folder")
        if not files[0].stat().st_size:
            raise Unusable("is empty (0 bytes)")
    parts = []
    for file in files:
        told = [folder.split("=", 1) for folder in file.relative_to(path).parts[:-1] if "=" in folder]
        partition = {name: None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value) for name, value in told}
        with errors_told(parameter, file):
            parts += [Part(file, member, partition) for member in members_of(file)]
    return parts


def members_of(file: Path) -> list[str]:
    """Return the names of what a zip archive holds; one empty name for a file that is none."""
    with file.open("rb") as stream:
        if kind_of(stream.read(4)) is not Kind.ZIP:
            return [""]
        with zipfile.ZipFile(stream) as packed:
            listed = [PurePosixPath(member.filename) for member in packed.infolist() if member.file_size]
    if not (members := usable(sorted(listed))):
        raise Unusable(f"holds no file with rows. {READ}", ", ".join(map(str, listed)) or "an empty archive")
    return [str(member) for member in members]


def usable(names: Sequence[PurePath]) -> list[PurePath]:
    """Return those that are neither hidden nor bookkeeping (_SUCCESS, __MACOSX); with a known ending, if any has one."""
    plain = [name for name in names if not any(part.startswith((".", "_")) for part in name.parts)]
    return [name for name in plain if name.suffix.lower() in DATA_ENDINGS] or plain


def tables(part: Part, columns: dict[str, str], encoding: str, keys: dict[str, None]) -> Iterator[pa.Table]:
    """Yield a part's columns; the keys of JSON objects are added to `keys`."""
    if part.file.is_dir():
        yield from read_saved(part.file, columns)
        return
    with part.open() as stream:
        head = stream.peek(HEAD)
        kind = kind_of(head, encoding)
        encoding = encoding_of(head, encoding)
        if kind is Kind.CSV:
            text = io.TextIOWrapper(stream, encoding, newline="")
            yield from read_csv(text, head.decode(encoding, "ignore"), part, columns)
        elif kind is Kind.JSON:
            with part.open() as first:
                where = place_of_rows(AsUtf8(io.TextIOWrapper(first, encoding)))
            yield from read_json(AsUtf8(io.TextIOWrapper(stream, encoding, newline="")), where, part, columns, keys)
        elif kind is Kind.PARQUET and isinstance(stream.raw, io.BufferedReader):  # the file itself, not packed
            yield from read_parquet(part, columns)
        elif kind is Kind.UNKNOWN:
            raise Unusable(f"is of no kind that is read here. {READ}", f"it starts with {head[:40]!r}")
        else:
            raise Unusable(
                f"holds {kind.value} in a packed file, which is not read", "", "unpack it and pass what is in it"
            )


def key_of(column: str) -> str:
    """Return the one form of a column's name in any case and spacing, the bureau's or the search API's."""
    key = re.sub(r"[\W_]+", " ", column.casefold()).strip()
    return SAME.get(key, key)


def find_columns(found: Collection[str], columns: dict[str, str]) -> dict[str, str]:
    """Return {our name: the source's own} of the columns that are among those found."""
    own = {key_of(name): name for name in reversed(list(found))} | {name: name for name in found}
    places = {ours: own.get(name, own.get(key_of(name))) for ours, name in columns.items()}
    return {ours: name for ours, name in places.items() if name is not None}


def require_columns(found: Collection[str], columns: dict[str, str]) -> dict[str, str]:
    """Return {our name: the source's own} of the columns that are there; Unusable names those that lack, and what was found.

    One of ours that ends in a question mark may lack.
    """
    places = find_columns(found, columns)
    if lacking := [name for ours, name in columns.items() if ours not in places and not ours.endswith("?")]:
        fix = "name those that it has, such as -p TEXT_COLUMN NAME (classify.py: --text-column NAME), or pass another file"
        raise Unusable(f"lacks the column(s) {lacking}", f"{len(found)} column(s): {', '.join(map(str, found))}", fix)
    return places


def as_asked(table: pa.Table, part: Part, columns: dict[str, str]) -> pa.Table:
    """Return the columns under our names and as text, null where they are not: a number is 1 and not 1.0."""
    rows = len(table)
    made = {}
    places = find_columns([*table.column_names, *part.partition], columns)
    for ours in columns:
        own = places.get(ours, "")
        values = table[own] if own in table.column_names else pa.array([part.partition.get(own)] * rows, pa.string())
        if pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_nan(values), None, values)
        made[ours] = values.cast(pa.string())
    return pa.table(made)


def read_csv(text: io.TextIOWrapper, head: str, part: Part, columns: dict[str, str]) -> Iterator[pa.Table]:
    """Yield the columns of a CSV file, whose header tells what divides it; Unusable names a row of another length.

    By Python's own reader: pandas, asked for some columns only, moves the values of a row with too many fields in silence.
    """
    csv.field_size_limit(LONGEST)
    first = re.split(r"[\r\n]", head.lstrip("\r\n"), maxsplit=1)[0]
    headers = {mark: next(csv.reader([first], delimiter=mark), []) for mark in ",;\t"}
    mark = max(headers, key=lambda mark: (len(find_columns(headers[mark], columns)), len(headers[mark])))
    escape = "\\" if re.search(r'\\"[^,;\t\r\n"]', head) else None  # so Spark writes a quote within quotes
    reader = csv.reader(text, delimiter=mark, strict=True, escapechar=escape)
    filled = filter(None, reader)  # no blank lines
    header = next(filled, [])
    places = require_columns([*header, *part.partition], columns)
    taken = {own: header.index(own) for own in places.values() if own in header}
    while rows := list(itertools.islice(filled, ROWS)):
        if odd := next((row for row in rows if len(row) != len(header)), None):
            cause = f"has a row of {len(odd)} fields, where its header has {len(header)}, before line {reader.line_num + 1:,}"
            raise Unusable(cause, odd)
        texts = {own: pa.array([row[at] or None for row in rows], pa.string()) for own, at in taken.items()}
        yield as_asked(pa.table(texts), part, columns)


@dataclass
class AsUtf8:
    """Text as the stream of UTF-8 bytes that ijson asks for."""

    text: io.TextIOWrapper

    def read(self, size: int) -> bytes:
        """Return the next characters, encoded."""
        return self.text.read(size).encode()


def place_of_rows(stream: AsUtf8) -> str:
    """Return where ijson finds the rows: in a list, in the search API's answer, or one after the other."""
    for where, event, _ in ijson.parse(stream, multiple_values=True):
        if where == "hits.hits":
            return "hits.hits.item"
        if where == "" and event in ("start_array", "end_map"):
            return "item" if event == "start_array" else ""
    return ""


def read_json(
    stream: AsUtf8, where: str, part: Part, columns: dict[str, str], keys: dict[str, None]
) -> Iterator[pa.Table]:
    """Yield the columns of the objects that stand there, and add the objects' keys to `keys`."""
    found = ijson.items(stream, where, multiple_values=True, use_float=True)
    while rows := list(itertools.islice(found, ROWS)):
        if (odd := next((row for row in rows if not isinstance(row, dict)), rows)) is not rows:
            raise Unusable("holds something else than objects", json.dumps(odd))
        rows = [row["_source"] if isinstance(row.get("_source"), dict) else row for row in rows]
        own = dict.fromkeys(key for row in rows for key in row)
        keys.update(own | part.partition)
        taken = set(find_columns(own, columns).values())
        if odd := next((row for row in rows if any(isinstance(row.get(name), list | dict) for name in taken)), None):
            raise Unusable(
                "holds lists or objects where texts belong, as a table written column by column does", json.dumps(odd)
            )
        texts = {
            name: pa.array([plain_text(row.get(name)) for row in rows], pa.string()) for name in own if name in taken
        }
        yield as_asked(pa.table(texts or {"": pa.nulls(len(rows))}), part, columns)


def plain_text(value: object) -> str | None:
    """Return a JSON value as text: a number as it is written, 1 and not 1.0."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)


def read_saved(folder: Path, columns: dict[str, str]) -> Iterator[pa.Table]:
    """Yield the columns of a folder of save_to_disk, all splits in their order."""
    from datasets import load_from_disk  # takes a second to import

    saved = load_from_disk(str(folder))
    for rows in saved.values() if isinstance(saved, dict) else [saved]:
        own = sorted(set(require_columns(rows.column_names, columns).values()))
        for table in rows.select_columns(own).with_format("arrow").iter(ROWS):
            yield as_asked(table, Part(folder), columns)


def read_parquet(part: Part, columns: dict[str, str]) -> Iterator[pa.Table]:
    """Yield the columns of a Parquet file; two threads read what comes next, and no further."""
    about = pq.read_metadata(part.file)
    found = about.schema.to_arrow_schema().names
    own = [name for name in require_columns([*found, *part.partition], columns).values() if name in found]
    with ThreadPoolExecutor(2) as pool:
        ahead: deque[Callable[[], Iterable[pa.Table]]] = deque()
        for groups in row_groups(about):
            large = sum(about.row_group(group).num_rows for group in groups) > 10 * ROWS
            read = partial(read_large if large else read_groups, part.file, about, groups, own)
            ahead.append(read if large else pool.submit(read).result)
            while len(ahead) > (2 if groups[-1] + 1 < about.num_row_groups else 0):
                yield from (as_asked(table, part, columns) for table in ahead.popleft()())


def row_groups(about: pq.FileMetaData) -> list[list[int]]:
    """Return the numbers of a file's row groups in order, as many together as make up a table."""
    parts: list[list[int]] = []
    rows = ROWS
    for group in range(about.num_row_groups):
        if rows >= ROWS:
            parts = [*parts, []]
            rows = 0
        parts[-1].append(group)
        rows += about.row_group(group).num_rows
    return parts


def read_groups(file: Path, about: pq.FileMetaData, groups: list[int], columns: list[str]) -> list[pa.Table]:
    """Return some columns of some row groups, as one table."""
    with pq.ParquetFile(file, metadata=about, pre_buffer=False) as source:  # a buffer would hold the whole file
        return [source.read_row_groups(groups, columns=columns, use_threads=False)]


def read_large(file: Path, about: pq.FileMetaData, groups: list[int], columns: list[str]) -> Iterator[pa.Table]:
    """Yield some columns of row groups that are too large to be held, a table at a time."""
    with pq.ParquetFile(file, metadata=about, pre_buffer=False, buffer_size=2**20) as source:
        for batch in source.iter_batches(ROWS, groups, columns, use_threads=False):
            yield pa.Table.from_batches([batch])
