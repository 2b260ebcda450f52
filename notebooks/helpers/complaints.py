"""The complaints: read from their source, selected and labelled, compared for duplicates (taught in 01), and masked."""

import array
import difflib
import json
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from helpers.files import is_local, place, short_name
from helpers.hub import data_pattern, hub_snapshot
from helpers.sources import COMPANY, DATE, NARRATIVE, PRODUCT, SourceError, one_line, read

CARD, MORTGAGE = "Credit card or prepaid card", "Mortgage"  # the study's classes

MASK = re.compile("x{2,}")  # how a normalised text has the bureau's masks
RUN = 5  # words in a row that are compared

AT_ONCE = 2**21  # runs of words that are sorted at once, and sums of a block of texts: some hundred MB of memory


def load_complaints(
    dataset: str,
    config: str,
    revision: str,
    *,
    text_column: str = NARRATIVE,
    label_column: str = PRODUCT,
    company: str = "",
    encoding: str = "utf-8",
    parameter: str = "DATASET",
    dated: bool = False,
) -> Iterator[pa.Table]:
    """Yield the source's rows in Arrow tables of about 10,000: id (their place), company if one is asked for, product, text.

    `dated` adds date, when the bureau received them, as the text that stands there, null where there is none.

    `dataset` is a hub id, read at the pinned config and revision, or a local file or folder. Both are read in place.
    """
    columns = (
        ({"company": COMPANY} if company else {})
        | ({"date?": DATE} if dated else {})
        | {"product": label_column, "text": text_column}
    )
    path = place(dataset)
    pattern = "**/*"
    if not is_local(dataset):
        pattern = data_pattern(config)
        path = hub_snapshot(dataset, revision, "dataset", [pattern])
        if not any(path.glob(pattern)):
            raise ValueError(f"DATASET {dataset} at {revision} has no {pattern}: pass another one, -p CONFIG NAME.")
    for part in read(path, columns, parameter=parameter, encoding=encoding, pattern=pattern):
        yield part.rename_columns([name.removesuffix("?") for name in part.column_names])


def select(
    parts: Iterable[pa.Table], company: str, classes: dict[str, list[str]], parameter: str = "DATASET"
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return the complaints that meet the conditions, and the rows left after each.

    The columns are id, text, label, product.
    """
    label_of = labels_of(classes)
    conditions = {
        "have a narrative": pc.utf8_trim_whitespace(pc.field("text")) != "",
        "were sent to the company": pc.field("company") == company,
        "are about one of the classes": pc.utf8_trim_whitespace(pc.field("product")).isin(list(label_of)),
    }
    if not company:
        del conditions["were sent to the company"]
    left = dict.fromkeys(["are in the source", *conditions], 0)
    kept = []
    seen: defaultdict[str, Counter] = defaultdict(Counter)
    for rows in parts:
        left["are in the source"] += len(rows)
        for name, condition in conditions.items():
            count_values(seen, name, rows)
            rows = rows.filter(condition)
            left[name] += len(rows)
        kept.append(rows)
    found = pa.concat_tables(kept).to_pandas()
    found["product"] = found["product"].str.strip()
    found["label"] = encode_labels(found["product"], classes)
    require_both(found, left, seen, company, classes, parameter)
    return found[["id", "text", "label", "product"]], left


def labels_of(classes: dict[str, list[str]]) -> dict[str, int]:
    """Return {product name: the place of its class}; SourceError unless there are two classes, each with names of its own."""
    fix = "for example -p CLASSES " + shlex.quote('{"Mortgage": ["Mortgage"], "Card": ["Credit card", "Prepaid card"]}')
    if len(classes) != 2:
        raise SourceError("CLASSES", f"must be two, not {len(classes)}", list(classes), fix)
    if not all(isinstance(names, list | tuple) and names for names in classes.values()):
        raise SourceError("CLASSES", "must give each class a list of product names", classes, fix)
    one, other = ({str(name).strip() for name in names} for names in classes.values())
    if one & other:
        raise SourceError("CLASSES", "must not have a product in both classes", sorted(one & other), fix)
    return dict.fromkeys(one, 0) | dict.fromkeys(other, 1)


def encode_labels(products: pd.Series, classes: dict[str, list[str]]) -> pd.Series:
    """Return the places of the products' classes; ValueError names a product that is in none."""
    label_of = labels_of(classes)
    if unknown := sorted(set(products) - set(label_of)):
        raise ValueError(f"Product {one_line(unknown)} is in none of the classes {list(classes)}.")
    return products.map(label_of).astype("int64")


def count_values(seen: dict[str, Counter], condition: str, rows: pa.Table) -> None:
    """Add the values that a condition looks at to its counts, for what to say when it leaves nothing."""
    column = {"were sent to the company": "company", "are about one of the classes": "product"}.get(condition)
    if column:
        values = pc.value_counts(pc.utf8_trim_whitespace(rows[column])).to_pylist()
        seen[condition].update({each["values"]: each["counts"] for each in values if each["values"]})
        if len(seen[condition]) > 50_000:  # a column of texts: the commonest will do
            seen[condition] = Counter(dict(seen[condition].most_common(10_000)))


def require_both(found: pd.DataFrame, left: dict, seen: dict, company: str, classes: dict, source: str) -> None:
    """Return when each class has complaints; SourceError says what there is instead, and what to type."""
    told = f"{left['have a narrative']:,} of {left['are in the source']:,} rows have a text"
    if not left["have a narrative"]:
        raise SourceError(source, "has no row with a text", told)
    if company and not left["were sent to the company"]:
        near = nearest(company, seen["were sent to the company"])
        fix = f"-p COMPANY {shlex.quote(next(iter(near), 'NAME'))}, or -p COMPANY '' for all companies"
        raise SourceError(f"COMPANY {company!r}", f"has no complaint: {told}, none of that company", counted(near), fix)
    absent = [name for label, name in enumerate(classes) if label not in set(found["label"])]
    if absent:
        products = seen["are about one of the classes"]
        to_whom = f" to {company}" if company else ""
        cause = f"has no complaint{to_whom} of the class {' nor of '.join(map(repr, absent))}"
        fix = other_classes(products, classes, absent) if source == "DATASET" else ""
        raise SourceError(source, cause, counted(dict(products.most_common(8))), fix)


def other_classes(products: Counter, classes: dict[str, list[str]], absent: list[str]) -> str:
    """Return what to type when classes are empty, the commonest other products in their place; "" where there are none."""
    others = [name for name, _ in products.most_common() if name not in labels_of(classes)]
    if len(others) < len(absent):
        return ""
    chosen = dict((others[0], [others.pop(0)]) if name in absent else (name, classes[name]) for name in classes)
    return f"-p CLASSES {shlex.quote(json.dumps(chosen, ensure_ascii=False))}"


def nearest(name: str, counts: Counter, most: int = 5) -> dict[str, int]:
    """Return the names nearest to one, with their counts: those that hold it or that it holds, then those spelled alike."""
    key = name.casefold()
    keys = {each.casefold(): each for each, _ in reversed(counts.most_common())}
    held = [each for each, _ in counts.most_common() if key in each.casefold()]
    held += [each for each, _ in counts.most_common() if each.casefold() in key and 3 * len(each) > len(key)]
    alike = [keys[each] for each in difflib.get_close_matches(key, keys, most)]
    names = list(dict.fromkeys(held + alike)) or [each for each, _ in counts.most_common()]
    return {each: counts[each] for each in names[:most]}


def counted(counts: dict[str, int]) -> str:
    """Return the counts in a line: Mortgage 30, Credit card 25."""
    return ", ".join(f"{one_line(name, 60)} {count:,}" for name, count in counts.items())


def rows_per_class(rows: pd.DataFrame, names: Iterable[str]) -> str:
    """Return a line for each class: how many rows it has, and under which of the source's product names."""
    products = [rows.loc[rows["label"] == label, "product"].value_counts() for label, _ in enumerate(names)]
    return "\n".join(
        f"{name}: {each.sum():,} ({counted(each.to_dict())})" for name, each in zip(names, products, strict=True)
    )


def require_rows(rows: pd.DataFrame, per_class: int, parameter: str, names: Sequence[str]) -> None:
    """Return when each class has per_class rows; ValueError says how many there are and what to type instead."""
    there = rows["label"].value_counts().reindex(range(len(names)), fill_value=0)
    if there.min() >= per_class:
        return
    counts = " and ".join(f"{there[label]:,} of {name!r}" for label, name in enumerate(names))
    fix = f"Lower it (-p {parameter} {there.min()}), or pass a larger source (-p DATASET PATH)."
    if there.min() == 0:
        fix = (
            "Pass another source (-p DATASET PATH), company (-p COMPANY NAME, '' for all) or classes (-p CLASSES ...)."
        )
    raise ValueError(f"{parameter}={per_class} asks for {per_class:,} rows per class, but there are {counts}. {fix}")


def other_complaints(
    path: str,
    known: list[str],
    classes: dict[str, list[str]],
    *,
    text_column: str = NARRATIVE,
    label_column: str = PRODUCT,
    encoding: str = "utf-8",
) -> pd.DataFrame:
    """Return the complaints (id, text, label, product) of EXTRA_TEST, to whatever company, that duplicate no known text.

    It prints how many rows the source holds and how many complaints are left, by class and by the source's product name.
    SourceError when a class has none.
    """
    parts = load_complaints(
        path, "", "", text_column=text_column, label_column=label_column, encoding=encoding, parameter="EXTRA_TEST"
    )
    found, left = select(parts, "", classes, f"EXTRA_TEST {place(path)}")
    normal = {normalise(text) for text in known}
    duplicates = set(found.index[found["text"].map(normalise).isin(normal)])
    for _, new in near_pairs([*known, *found["text"]], first=len(known)):
        duplicates.update((new - len(known)).tolist())
    rest = found.drop(index=list(duplicates)).reset_index(drop=True)
    print(
        f"{short_name(path)}: {left['are in the source']:,} rows, {len(found):,} complaints on these products, "
        f"{len(rest):,} of them no duplicate of a known text."
    )
    print(rows_per_class(rest, list(classes)))
    if rest["label"].nunique() < 2:
        cause = f"has nothing new of one class: {len(duplicates):,} complaints duplicate known texts"
        raise SourceError(f"EXTRA_TEST {place(path)}", cause, rows_per_class(rest, list(classes)))
    return rest


def normalise(text: str) -> str:
    """Return the text in lower case, all but letters and digits as single spaces."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def words_in_common(text: str, narratives: Iterable[str], length: int = 12) -> set[str]:
    """Return the runs of so many words in a row that the text has in common with a narrative, masks dropped in both."""

    def runs(words: list[str]) -> set[str]:
        words = [word for word in words if not MASK.fullmatch(word)]
        return {" ".join(words[i : i + length]) for i in range(len(words) - length + 1)}

    own = runs(normalise(text).split())
    return {run for narrative in narratives for run in own & runs(normalise(narrative).split())} if own else set()


def words_of(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the words of all texts in a row, as numbers, and where each text begins, and the last one ends."""
    number: defaultdict[str, int] = defaultdict()
    number.default_factory = number.__len__  # a new word gets the next number
    words = array.array("i")
    starts = [0]
    for text in texts:
        words.extend(map(number.__getitem__, normalise(text).split()))
        starts.append(len(words))
    return np.frombuffer(words, np.int32) if words else np.zeros(0, np.int32), np.array(starts)


def shared_runs(texts: Sequence[str], first: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how many runs of five words each text has, and the pairs (text, run) of the runs that may make two texts alike.

    The runs are told apart by their words, in portions that are sorted one after the other.
    """
    words, starts = words_of(texts)
    sizes = np.zeros(len(texts), np.int64)
    pairs = [(np.zeros(0, np.int32),) * 2]
    number = 0
    whole = np.ones(max(len(words) - RUN + 1, 0), bool)  # the run that begins here ends in the same text
    for k in range(1, RUN):
        ends = starts[1:] - k
        whole[ends[(ends >= 0) & (ends < len(whole))]] = False
    portions = min(128, 2 ** int(np.ceil(np.log2(max(1, len(whole) / AT_ONCE)))))
    low = words.astype(np.uint8)
    portion = (low[: len(whole)] + 3 * low[2 : len(whole) + 2] + 5 * low[4:]) % portions  # follows from the words alone
    for each in range(portions):
        at = np.flatnonzero(whole & (portion == each))
        keys = [words[at + k].astype(np.int64) << 32 | words[at + k + 1] for k in (0, 2)] + [words[at + 4]]
        order = np.lexsort(keys)  # stable: among equal runs the texts stay in order
        text = np.searchsorted(starts, at[order], "right") - 1
        other = np.ones(len(at), bool)  # another run than the one before
        other[1:] = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
        once = other | (np.diff(text, prepend=-1) != 0)  # a run counts once in a text
        run, text = np.cumsum(other)[once] - 1, text[once]
        sizes += np.bincount(text, minlength=len(texts))
        shared = are_shared(text, run, first)
        kept = shared[run]
        pairs.append((text[kept].astype(np.int32), (np.cumsum(shared)[run[kept]] + number - 1).astype(np.int32)))
        number += shared.sum()
    text, run = map(np.concatenate, zip(*pairs, strict=True))
    return sizes, text, run


def are_shared(text: np.ndarray, run: np.ndarray, first: int | None) -> np.ndarray:
    """Return for each run whether two texts have it; where `first` is given, one before it and one from it on."""
    holders = np.bincount(run)
    if first is None:
        return holders > 1
    new = np.bincount(run[text >= first], minlength=len(holders))
    return (new > 0) & (new < holders)


def near_pairs(
    texts: Sequence[str], threshold: float = 0.5, first: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the pairs i < j of texts whose runs of five words have a Jaccard similarity of at least `threshold`, in blocks.

    Where `first` is given, i lies before it and j does not. No pair is missed: of n runs a near duplicate has at least
    threshold * n too (`need`). So a text with fewer shared runs has none; and two near duplicates, their runs sorted from
    the rarest on, have one in common before the last need - 1. Only pairs with such a run are compared as a whole.
    """
    sizes, text, run = shared_runs(texts, first)
    need = np.ceil(threshold * sizes - 1e-9)
    before = -1
    while len(text) != before:  # each text that is left out may leave runs that nobody else has
        before = len(text)
        kept = (np.bincount(text, minlength=len(texts)) >= need)[text]
        text, run = text[kept], run[kept]
        kept = are_shared(text, run, first)[run]
        text, run = text[kept], run[kept]
    rank = np.argsort(np.argsort(np.bincount(run), kind="stable"))  # by how many texts have the run
    sets = csr_matrix((np.ones(len(text), np.int32), (text, rank[run])), shape=(len(texts), len(rank)))
    sets.sort_indices()
    held = np.diff(sets.indptr)
    place_in_text = np.arange(sets.nnz) - np.repeat(sets.indptr[:-1], held)
    early = sets.copy()
    early.data = (place_in_text <= np.repeat(held - need, held)).astype(np.int32)
    early.eliminate_zeros()
    rows, columns = early[:first], early[first or 0 :].T.tocsr()
    sums = np.cumsum(rows @ columns.getnnz(axis=1))  # so much work, and so many candidates at most
    for block in np.split(np.arange(rows.shape[0]), np.flatnonzero(np.diff(sums // AT_ONCE)) + 1):
        candidates = (rows[block] @ columns).tocoo()
        i, j = block[candidates.row], candidates.col + (first or 0)
        alike = (i < j) & (np.minimum(sizes[i], sizes[j]) >= threshold * np.maximum(sizes[i], sizes[j]) - 1e-9)
        i, j = i[alike], j[alike]
        for part in range(0, len(i), 20_000):
            one, other = i[part : part + 20_000], j[part : part + 20_000]
            both = np.asarray(sets[one].multiply(sets[other]).sum(axis=1)).ravel()
            near = both / (sizes[one] + sizes[other] - both) >= threshold
            yield one[near], other[near]


def near_duplicates(
    texts: Sequence[str], threshold: float = 0.5, known: Sequence[str] | None = None
) -> list[tuple[int, int]]:
    """Return the pairs of texts whose sets of five-word runs have a Jaccard similarity of at least `threshold`.

    These are places i < j in `texts`; where known texts are given, i is a place in `known` and j one in `texts`.
    """
    first = None if known is None else len(known)
    pairs = near_pairs([*(known or ()), *texts], threshold, first)
    return sorted(
        (i, j - (first or 0)) for one, other in pairs for i, j in zip(one.tolist(), other.tolist(), strict=True)
    )


def overlap(train_texts: list[str], test_texts: list[str]) -> dict:
    """Return how many test texts duplicate a training text, by how alike they are."""
    known = {normalise(text) for text in train_texts}
    near = {j for _, j in near_duplicates(test_texts, known=train_texts)}
    return {
        "exact": len(set(test_texts) & set(train_texts)),
        "normalised": sum(normalise(text) in known for text in test_texts),
        "near": len(near),
    }


def containment(train_texts: Sequence[str], texts: Sequence[str]) -> dict[str, float]:
    """Return the shares of the texts' sentences and runs that stand in a training text.

    A run is five words in a row, and sentences of fewer words do not count.
    """

    def sentences(text: str) -> list[str]:
        found = [normalise(part) for part in re.split(r"[.!?]\s|\n", text)]
        return [sentence for sentence in found if len(sentence.split()) >= 5]

    def runs(text: str) -> list[str]:
        words = normalise(text).split()
        return [" ".join(words[i : i + 5]) for i in range(len(words) - 4)]

    shares = {}
    for name, pieces in (("sentences", sentences), ("runs of five words", runs)):
        known = {piece for text in train_texts for piece in pieces(text)}
        found = [piece in known for text in texts for piece in pieces(text)]
        shares[name] = sum(found) / max(1, len(found))
    return shares


def mask_words(texts: Iterable[str], words: list[str], mask: str = "XXXX") -> list[str]:
    """Return the texts with every occurrence of the words, in any case, masked as the bureau does; an empty mask deletes them."""
    space = "" if mask else " ?"
    pattern = re.compile(rf"{space}\b(?:{'|'.join(map(re.escape, words))})\b", re.IGNORECASE)
    return [pattern.sub(mask, text) for text in texts]
