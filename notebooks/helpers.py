"""What the notebooks share beside models: places, files, the data source, copies, scores, floors and figures.

Whatever changes a number is decided on the pages; a function that a page teaches stands there first, and here word for word.
What handles models is in `modelling.py`.
"""

import contextlib
import hashlib
import http.client
import importlib.metadata
import json
import logging
import os
import re
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import seaborn as sns
from huggingface_hub import get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import CachedRepoTreeNotFoundError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import tqdm
from IPython.display import display
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_matrix
from scipy.special import expit, logit
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss, precision_recall_fscore_support
from sklearn.pipeline import make_pipeline
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

ROOT = Path(__file__).resolve().parents[1]
LABELS = ("Mortgage", "Credit card or prepaid card")  # a label's place is its id; id 1 is the positive class
ID, COMPANY_COLUMN, PRODUCT, NARRATIVE = "Complaint ID", "Company", "Product", "Consumer complaint narrative"
COLUMNS = {ID: pa.int64(), COMPANY_COLUMN: pa.string(), PRODUCT: pa.string(), NARRATIVE: pa.string()}
METRICS = ("accuracy", "precision", "recall", "f1")
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "scikit-learn", "numpy", "pandas")
HUB_SECONDS = 5  # how long the hub may take to answer before we say that it does not
HUB_SILENCE = 60  # how long a download may bring nothing: a slow line takes some time for the ten megabytes of a piece
MODEL_FILES = (  # what is taken of a model on the hub: no pickles
    "config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.safetensors",
    "*.safetensors.index.json",
)
MAKERS = {
    "data/pool.parquet": "01_data",
    "data/train.parquet": "01_data",
    "data/test.parquet": "02_test_data",
    "data/unseen.parquet": "02_test_data",
}


# --- places and files -------------------------------------------------------------------------------------------------


def place(path: str | Path) -> Path:
    """Return the absolute path; a relative one hangs on the repository's root, wherever you stand."""
    return (ROOT / Path(path).expanduser()).resolve()


def short_name(source: str) -> str:
    """Return how pages and results name a data set or model: a hub id as it is, a local path without its folders."""
    return Path(source).stem if is_data_file(source) else Path(source).name if place(source).is_dir() else source


def is_data_file(source: str) -> bool:
    """Return whether the source names a local CSV or Parquet file (there or not), and not a hub id."""
    return Path(source).suffix.lower() in (".csv", ".parquet") or place(source).is_file()


def is_mini(name: str) -> bool:
    """Return whether a data set or model is one of the offline kit's, which are all named mini-…"""
    return Path(name).name.startswith("mini-")


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of the file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, write) -> None:
    """Call write(temporary path), then rename it to path: the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def peak_memory_mb() -> dict:
    """Return this process's peak memory so far in MB: {"host": …, "cuda": … or None}."""
    if sys.platform == "win32":
        host = psutil.Process().memory_info().peak_wset / 2**20
    else:
        import resource  # not on Windows

        host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    torch = sys.modules.get("torch")
    cuda = torch.cuda.max_memory_allocated() / 2**20 if torch and torch.cuda.is_available() else None
    return {"host": round(host), "cuda": cuda and round(cuda)}


@contextlib.contextmanager
def measured():
    """Yield a dict that holds, once the block has ended, its `seconds` and its `memory_mb`: {"host": …, "cuda": … or None}.

    `host` is the most memory that the whole process took meanwhile, looked at fifty times a second; `cuda` is what torch
    allocated at most. Both are in MB (2**20 bytes).
    """
    torch, process, over = sys.modules.get("torch"), psutil.Process(), threading.Event()
    found, cuda = {}, torch is not None and torch.cuda.is_available()
    seen = [process.memory_info().rss]

    def look():
        while not over.wait(0.02):
            seen.append(max(seen.pop(), process.memory_info().rss))

    if cuda:
        torch.cuda.reset_peak_memory_stats()
    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    started = time.perf_counter()
    try:
        yield found
    finally:
        over.set()
        looking.join()
        host = max(*seen, process.memory_info().rss) / 2**20
        allocated = torch.cuda.max_memory_allocated() / 2**20 if cuda else None
        found["seconds"] = time.perf_counter() - started
        found["memory_mb"] = {"host": round(host), "cuda": allocated and round(allocated)}


def megabytes(folder: Path, pattern: str = "*") -> float:
    """Return the size in MB (2**20 bytes) of the folder's files whose names match."""
    return sum(file.stat().st_size for file in folder.glob(pattern)) / 2**20


def filter_known_warnings() -> None:
    """Silence three messages, one by one; everything else is heard."""
    # bitsandbytes asks for an optional package of faster CPU kernels; the 4-bit numbers are the same without it.
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda r: "kernels-community" not in r.getMessage())
    # each load reports that the head is new: the pages say so in words
    logging.getLogger("transformers.modeling_utils").addFilter(lambda r: "LOAD REPORT" not in r.getMessage())
    # peft reads an attribute of transformers under its old name
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)


def plain(value):
    """Return the value as JSON can hold it: numpy's numbers and arrays as Python's, tuples as lists, missing as None."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and np.isnan(value) else value


class Run:
    """One notebook's run: its folder of outputs, what it was given, its clock, and the result file it leaves."""

    def __init__(self, notebook: str, page: dict):
        """Take the page's globals() for the parameters (upper-case plain values) and set the figures' one style."""
        filter_known_warnings()
        plain = (str, int, float, bool, list, dict, type(None))
        self.notebook = notebook
        self.parameters = {k: v for k, v in page.items() if k.isupper() and isinstance(v, plain)}
        self.out = place(page["OUT"])
        is_further_seed = self.out.parent.name == "seeds"  # such a run has its own folder beside what 01 and 02 made
        self.series = self.out.parents[1] if is_further_seed else self.out
        self.trained = {}
        self.started = time.perf_counter()
        self.data_sha256 = {}
        sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
        plt.rcParams.update(
            {"figure.figsize": (8, 4), "figure.dpi": 100, "savefig.bbox": "tight", "figure.autolayout": True}
        )

    def made_from(self, data: str, *models: str) -> None:
        """Note which data and models this run's numbers come from, and print it with the values, mini said as mini."""
        self.sources = {"data": short_name(data), "models": [short_name(model) for model in models]}
        names = [self.sources["data"], *self.sources["models"]]
        self.mini = any(map(is_mini, names))
        if self.mini:
            letters = "written by a program in the style of complaints" if is_mini(names[0]) else "real complaints"
            print("Outputs on this page come from a mini run: numbers that show how things work and no more.")
            print(f"The letters are {letters}, the models miniatures.")
        else:
            print("Outputs on this page come from a full run.")
        print(f"Data: {names[0]}. Models: {', '.join(names[1:]) or 'none'}.")
        numbers = [f"{name} {value}" for name, value in self.parameters.items() if isinstance(value, int | float)]
        print(f"Values: {', '.join(numbers)}.")

    def path(self, name: str) -> Path:
        """Return the path of an earlier notebook's output; FileNotFoundError says which notebook makes it."""
        maker = MAKERS.get(name, Path(name).stem)
        path = (self.series if maker in ("01_data", "02_test_data") else self.out) / name
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is not there. {maker} makes it: run that notebook first, or: python run_all.py --only {maker} --out {self.out}"
            )
        return path

    def read_table(self, name: str) -> pd.DataFrame:
        """Return data/<name>.parquet as a table and note the hash of its bytes for the result file."""
        path = self.path(f"data/{name}.parquet")
        self.data_sha256[name] = sha256(path)
        return pd.read_parquet(path)

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write data/<name>.parquet whole or not at all, and note the hash of its bytes for the result file."""
        path = self.out / f"data/{name}.parquet"
        write_whole(path, lambda temporary: table.to_parquet(temporary, index=False))
        self.data_sha256[name] = sha256(path)
        print(f"Wrote data/{name}.parquet: {len(table):,} rows.")

    def read_result(self, notebook: str) -> dict:
        """Return an earlier notebook's result file; a further seed's is named with its folder: seeds/7/04_gpt2_lora."""
        folder, slash, name = notebook.rpartition("/")
        return json.loads(self.path(f"{folder}{slash}results/{name}.json").read_text())

    def show_figure(self, figure: plt.Figure, name: str, alt: str) -> None:
        """Save the figure as plots/<name>.png, show it with its text for those who cannot see it, and close it."""
        path = self.out / f"plots/{name}.png"
        write_whole(path, lambda temporary: figure.savefig(temporary, dpi=120))
        display(figure, metadata={"image/png": {"alt": alt}})
        plt.close(figure)

    def save_result(self, **content) -> None:
        """Write results/<notebook>.json: what was run, on what, at which cost, and the content given."""
        torch = sys.modules.get("torch")
        device = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "cpu"
        result = {
            "notebook": self.notebook,
            "mini": self.mini,
            **self.sources,
            "parameters": {k: str(v) if isinstance(v, Path) else v for k, v in self.parameters.items() if k != "OUT"},
            "seed": self.parameters["SEED"],
            "labels": LABELS,
            "data_sha256": self.data_sha256,
            "versions": {"python": sys.version.split()[0], **{p: importlib.metadata.version(p) for p in PACKAGES}},
            "device": device,
            "seconds": round(time.perf_counter() - self.started, 1),
            "peak_memory_mb": peak_memory_mb(),
            **({"trained": self.trained} if self.trained else {}),
            **content,
        }
        text = json.dumps(plain(result), indent=1, allow_nan=False)
        write_whole(self.out / f"results/{self.notebook}.json", lambda temporary: temporary.write_text(text))
        print(f"Wrote results/{self.notebook}.json.")

    def note_training(
        self,
        name: str,
        kind: str,
        checkpoint: str,
        *,
        counts,
        size_mb: float,
        cost: dict,
        texts: int,
        history,
        answers,
        twin=None,
    ) -> None:
        """Note a trained model for the result file: what it stands on, where its weights are, its costs and its validation.

        `checkpoint` is the base's folder, `cost` what `measured` found, `texts` how many were read in all epochs, `answers` are the probabilities on
        validation. The base is the one in the page's parameters, or that of the `twin`, another model's record.
        """
        given, seconds = self.parameters, history["seconds"].sum()  # of all epochs, in whichever run that was
        base = {
            "architecture": name.partition("_")[0],
            "checkpoint": twin["checkpoint"] if twin else given["MODEL"],
            "revision": twin["revision"] if twin else given["MODEL_REVISION"],
            "max_tokens": twin["max_tokens"] if twin else given["MAX_TOKENS"],
            "seed": given["SEED"],
        }
        self.trained[name] = {
            "kind": kind,
            **base,
            "base_mb": megabytes(Path(checkpoint), "*.safetensors"),
            "weights": f"models/{self.notebook}/{name}" if twin else f"models/{self.notebook}",
            "parameters": counts.to_dict(),
            "size_mb": size_mb,
            "train_seconds": seconds,
            "train_texts_per_second": texts / seconds,
            "train_memory_mb": cost["memory_mb"],
            "micro_batch": history["micro-batch"].min(),
            "curve": history.reset_index().to_dict("list"),
            "validation_probability": answers,
        }


# --- the data source --------------------------------------------------------------------------------------------------


def check_hub(repository: str, revision: str, kind: str) -> None:
    """Return when the hub knows the pinned repository; ConnectionError with the mend when it does not answer in time."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    failure = [f"no answer within {HUB_SECONDS} s"]  # until there is one

    def ask():
        try:
            urllib.request.urlopen(f"{endpoint}/api/{kind}s/{repository}/revision/{revision}").close()
            failure.clear()
        except (OSError, ValueError, http.client.HTTPException) as error:
            failure[:] = [f"{type(error).__name__}: {error}"]

    asking = threading.Thread(target=ask, daemon=True)  # urlopen's own limit counts anew for each address of the hub
    asking.start()
    asking.join(HUB_SECONDS)
    if failure:
        raise unserved(repository, revision, kind, failure[0])


def unserved(repository: str, revision: str, kind: str, cause: str) -> ConnectionError:
    """Return the error that says what the hub does not serve, why, and the ways out."""
    parameter = "DATASET path/to/complaints.parquet" if kind == "dataset" else "MODEL path/to/folder"
    return ConnectionError(
        f"The hub does not serve {repository} at {revision} ({cause}). Without the hub: `python run_all.py --mini` "
        f"runs everything offline on miniature models, or pass a local copy: `-p {parameter}`. With the hub once at hand: "
        "`python run_all.py --prefetch` keeps all that a full run needs."
    )


def hub_snapshot(repository: str, revision: str, kind: str, patterns: Iterable[str]) -> Path:
    """Return the folder of the repository ("model" or "dataset") at the revision, with all its files of these patterns.

    What is in the hub's cache already is taken from there without asking the hub; only what lacks is downloaded.
    ConnectionError gives the cause and the ways out when the hub does not answer, or stops to answer.
    """
    wanted = {"repo_id": repository, "revision": revision, "repo_type": kind, "allow_patterns": list(patterns)}
    with contextlib.suppress(CachedRepoTreeNotFoundError, LocalEntryNotFoundError, HFValidationError):
        # without the list of what there is, any part of a snapshot would pass for the whole
        get_cached_repo_tree(repository, revision=revision, repo_type=kind)
        return Path(snapshot_download(**wanted, local_files_only=True))
    check_hub(repository, revision, kind)
    heard, outcome = [time.monotonic()], [f"nothing came for {HUB_SILENCE} s"]

    class Listening(tqdm):
        def update(self, n=1):
            heard[0] = time.monotonic()
            return super().update(n)

    def download():
        try:
            outcome[:] = [Path(snapshot_download(**wanted, tqdm_class=Listening))]
        except Exception as error:
            outcome[:] = [f"{type(error).__name__}: {error}"]

    downloading = threading.Thread(target=download, daemon=True)  # the hub's library would itself wait for many minutes
    downloading.start()
    while downloading.is_alive() and time.monotonic() - heard[0] < HUB_SILENCE:
        downloading.join(0.2)
    if isinstance(outcome[0], str):
        raise unserved(repository, revision, kind, outcome[0])
    return outcome[0]


def data_pattern(config: str) -> str:
    """Return where the training split of a data set's config lies in its repository: `default` in data/."""
    return f"{'data' if config == 'default' else config}/train-*.parquet"


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


def read_parquet(files: list[Path]) -> Iterator[pa.RecordBatch]:
    """Yield the files' rows in order, the four columns alone; a few row groups are in memory at a time."""
    lean = ds.ParquetFileFormat(default_fragment_scan_options=ds.ParquetFragmentScanOptions(pre_buffer=False))
    rows = ds.dataset(list(map(str, files)), format=lean)
    batches = rows.to_batches(columns=list(COLUMNS), batch_size=10_000, batch_readahead=4, fragment_readahead=1)
    yield from (batch.cast(pa.schema(COLUMNS)) for batch in batches)


def read_csv(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the file's rows in order, the four columns alone, 10,000 at a time."""
    kinds = {name: kind.to_pandas_dtype() for name, kind in COLUMNS.items()}
    with pd.read_csv(path, usecols=list(COLUMNS), dtype=kinds, chunksize=10_000) as parts:
        yield from (pa.RecordBatch.from_pandas(part, pa.schema(COLUMNS), preserve_index=False) for part in parts)


def load_complaints(dataset: str, config: str, revision: str) -> Iterator[pa.RecordBatch]:
    """Yield the source's rows (id, company, product, narrative) in Arrow batches of up to 10,000, so that memory stays small.

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
    rows = pa.Table.from_batches(load_complaints(path, "", "")).to_pandas()
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


# --- copies: taught in 01 ---------------------------------------------------------------------------------------------


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


# --- scores and floors: taught in 02 ----------------------------------------------------------------------------------


def overlap(train_texts: list[str], test_texts: list[str]) -> dict:
    """Return how many test texts are in the training texts too: exactly, once normalised, or nearly."""
    known, first = {normalise(text) for text in train_texts}, len(train_texts)
    near = {j for i, j in near_copies([*train_texts, *test_texts]) if i < first <= j}
    return {
        "exact": len(set(test_texts) & set(train_texts)),
        "normalised": sum(normalise(text) in known for text in test_texts),
        "near": len(near),
    }


def score(labels, predictions) -> dict:
    """Return accuracy, precision, recall, f1 and macro_f1 of the predicted ids, each 0 to 1."""
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predictions, average="binary", pos_label=1, zero_division=0.0
    )
    return {
        "accuracy": accuracy_score(labels, predictions),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "macro_f1": f1_score(labels, predictions, average="macro", zero_division=0.0),
    }


def scores_of_counts(tp, fp, fn, tn) -> dict:
    """Return the same five scores from counts of outcomes; the counts may be arrays, one entry a resample."""

    def ratio(part, whole):
        return np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole) > 0)

    f1, f1_other = ratio(2.0 * tp, 2 * tp + fp + fn), ratio(2.0 * tn, 2 * tn + fp + fn)
    return {
        "accuracy": ratio(1.0 * (tp + tn), tp + fp + fn + tn),
        "precision": ratio(1.0 * tp, tp + fp),
        "recall": ratio(1.0 * tp, tp + fn),
        "f1": f1,
        "macro_f1": (f1 + f1_other) / 2,
    }


def intervals(labels, predictions, seed: int, draws: int = 10_000) -> dict:
    """Return a 95 % interval (low, high) for each score: Wilson's for accuracy, the percentile bootstrap for the rest."""
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    n, right = len(labels), int((labels == predictions).sum())
    cells = [((labels == a) & (predictions == b)).mean() for a, b in ((1, 1), (0, 1), (1, 0), (0, 0))]
    resampled = np.random.default_rng(seed).multinomial(n, cells, size=draws).T
    found = {k: tuple(np.percentile(v, [2.5, 97.5]).tolist()) for k, v in scores_of_counts(*resampled).items()}
    return found | {"accuracy": proportion_confint(right, n, method="wilson")}


CARD_WORDS = ("card", "cards", "prepaid", "visa", "rewards", "purchase", "merchant", "charge", "charges", "fraud")
MORTGAGE_WORDS = ("mortgage", "loan", "escrow", "home", "house", "property", "foreclosure", "modification", "refinance")


def keyword_rule(texts) -> np.ndarray:
    """Return the probability of class 1 by counting give-away words: 1 where card words lead, 0 where not, ½ at a tie."""
    words = [normalise(text).split() for text in texts]
    lead = [sum(w in CARD_WORDS for w in ws) - sum(w in MORTGAGE_WORDS for w in ws) for ws in words]
    return (np.sign(lead) + 1) / 2


def linear_model(texts, labels):
    """Return a fitted TF-IDF over single words and pairs with a logistic regression on top."""
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    return make_pipeline(words, LogisticRegression(C=10, max_iter=1000)).fit(texts, labels)


def mask_words(texts, words: list[str]) -> list[str]:
    """Return the texts with every occurrence of the words, in any case, replaced by a line."""
    pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, words))})\b", re.IGNORECASE)
    return [pattern.sub("____", text) for text in texts]


# --- the comparison: taught in 06 -------------------------------------------------------------------------------------


def check_comparable(results: dict, data_sha256: dict, mini: bool) -> None:
    """Return when all results stem from the same letters, labels and scale as this run; ValueError says what differs."""
    for stage, result in results.items():
        mend = f"run it again on the same data: python run_all.py --from {stage}"
        for name, found in result["data_sha256"].items():
            if found != data_sha256.get(name, found):
                raise ValueError(
                    f"{stage} was made from another data/{name}.parquet than the one that is there: {mend}."
                )
        if result["labels"] != list(LABELS):
            raise ValueError(f"{stage} has the labels {result['labels']}, this page has {list(LABELS)}: {mend}.")
        if result["models"] and result["mini"] != mini:
            raise ValueError(
                f"{stage} is a {'mini' if result['mini'] else 'full'} result among others that are not: {mend}."
            )


def cost_of(scoring: dict, made: dict | None) -> dict:
    """Return what a model costs: scoring from what `measured` found, the rest from its record; what has none is left out.

    Sizes and memory are in MB (2**20 bytes), times in seconds; `base` is the checkpoint's weights as they are on disk.
    """
    found = {
        "scoring, letters/s": scoring["letters"] / scoring["seconds"],
        "scoring, MB host": scoring["memory_mb"]["host"],
    }
    found["scoring, MB device"] = scoring["memory_mb"]["cuda"]
    if made:
        found["base, MB"] = made["base_mb"]
        found["weights"] = made["parameters"]["all"]
    if made and made["weights"]:
        found |= {"trained in the adapter": made["parameters"]["trained in the adapter"]}
        found |= {"trained in the head": made["parameters"]["trained in the head"], "trained, MB": made["size_mb"]}
        found |= {"training, s": made["train_seconds"], "letters/s": made["train_texts_per_second"]}
        found |= {
            "training, MB host": made["train_memory_mb"]["host"],
            "training, MB device": made["train_memory_mb"]["cuda"],
        }
    elif made:
        found["weights"] -= made["parameters"]["trained in the adapter"]
    return found


def paired_test(labels, one, other, seed: int, draws: int = 10_000) -> dict:
    """Return the difference in accuracy (one minus other), its 95 % bootstrap interval, and McNemar's exact p."""
    one_right, other_right = np.asarray(one) == np.asarray(labels), np.asarray(other) == np.asarray(labels)
    n, only_one, only_other = len(labels), (one_right & ~other_right).sum(), (~one_right & other_right).sum()
    shares = np.array([only_one, only_other, n - only_one - only_other]) / n
    resampled = np.random.default_rng(seed).multinomial(n, shares, size=draws)
    low, high = np.percentile((resampled[:, 0] - resampled[:, 1]) / n, [2.5, 97.5])
    p = mcnemar([[0, only_one], [only_other, 0]], exact=True).pvalue if only_one + only_other else 1.0
    found = {"difference": (only_one - only_other) / n, "low": low, "high": high, "p": p}
    return {name: float(value) for name, value in found.items()}


def calibration_error(labels, probability, bins: int = 10) -> float:
    """Return the expected calibration error, 0 to 1, over equal bins of the confidence in the answer."""
    sure, right = np.maximum(probability, 1 - probability), (probability >= 0.5) == labels
    place = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = [abs(right[place == b].mean() - sure[place == b].mean()) * (place == b).mean() for b in np.unique(place)]
    return float(sum(gaps))


def with_temperature(probability, temperature: float) -> np.ndarray:
    """Return the probabilities after their logits are divided by the temperature."""
    return expit(logit(np.clip(probability, 1e-6, 1 - 1e-6)) / temperature)


def best_temperature(labels, probability) -> float:
    """Return the temperature from 1/20 to 20 at which the probabilities fit the labels best, by log loss."""

    def loss(log_temperature):
        return log_loss(labels, with_temperature(probability, np.exp(log_temperature)))

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


# --- figures ----------------------------------------------------------------------------------------------------------


def draw_confusion(labels, predictions, title: str, axes: plt.Axes) -> None:
    """Draw the 2 × 2 confusion matrix, true class by row and predicted class by column, with counts in the cells."""
    short = ["Mortgage", "Card"]
    table = pd.crosstab(np.asarray(labels, int), np.asarray(predictions, int)).reindex(
        index=[0, 1], columns=[0, 1], fill_value=0
    )
    sns.heatmap(
        table, annot=True, fmt="d", cmap="Blues", cbar=False, square=True, ax=axes, xticklabels=short, yticklabels=short
    )
    axes.set(title=title, xlabel="predicted class", ylabel="true class")


def draw_scores(scores: pd.DataFrame, metric: str, axes: plt.Axes) -> None:
    """Draw one bar a model for the metric, coloured by the model's kind, with its interval as a line at the end."""
    kinds = ("floor", "base", "lora", "qlora", "head", "full")
    colours = dict(zip(kinds, sns.color_palette("colorblind"), strict=False))
    low, high = np.array([ranges[metric] for ranges in scores["intervals"]]).T
    error = np.clip([scores[metric] - low, high - scores[metric]], 0, None)
    axes.barh(scores.index, scores[metric], xerr=error, color=scores["kind"].map(colours), capsize=3)
    axes.set(xlabel=metric, xlim=(0, 1.02))


def draw_differences(tests: dict[str, pd.DataFrame], axes: plt.Axes) -> None:
    """Draw the differences in accuracy of the same pairs on several sets of letters, {name of the set: its tests}."""
    places = np.arange(len(next(iter(tests.values()))))
    for number, (label, found) in enumerate(tests.items()):
        shift = 0.24 * (number - (len(tests) - 1) / 2)
        reach = np.clip([found["difference"] - found["low"], found["high"] - found["difference"]], 0, None)
        axes.errorbar(100 * found["difference"], places + shift, xerr=100 * reach, fmt="o", capsize=3, label=label)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel="difference in accuracy, points, with 95 % interval")
    axes.set_yticks(places, found["one"] + " − " + found["other"])
    axes.invert_yaxis()
    axes.legend(title="letters", loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)


def draw_against(cost: pd.Series, scores: pd.DataFrame, axes: plt.Axes) -> None:
    """Draw each trained model's accuracy, with its interval, against a cost in a logarithm; the linear model is a line."""
    for number, name in enumerate(cost.drop("tfidf_logreg").dropna().index):
        value, (low, high) = scores.loc[name, "accuracy"], scores.loc[name, "intervals"]["accuracy"]
        marker = "s" if name.startswith("distilbert") else "o"
        reach = [[value - low], [high - value]]
        axes.errorbar(cost[name], value, yerr=reach, fmt=marker, color=f"C{number}", capsize=4, label=name)
    axes.axhline(scores.loc["tfidf_logreg", "accuracy"], linestyle="--", color="grey", label="tfidf_logreg")
    axes.set(xlabel=cost.name, xscale="log", xlim=(cost.min() / 4, cost.max() * 4))
    axes.xaxis.set_minor_formatter("")


def draw_confidence(labels, probability: dict, left: plt.Axes, right: plt.Axes) -> None:
    """Draw, for {model: probability of class 1}, accuracy by confidence, and accuracy by the share of letters routed."""
    shares = np.arange(1, len(labels) + 1) / len(labels)
    for name, values in probability.items():
        sure, hit = np.maximum(values, 1 - values), (values >= 0.5) == labels
        group = pd.DataFrame({"sure": sure, "right": hit}).groupby(pd.qcut(sure, 4, duplicates="drop"), observed=True)
        group.mean().plot(x="sure", y="right", marker="o", label=name, ax=left)
        among = hit[np.argsort(-sure, kind="stable")].cumsum() / np.arange(1, len(labels) + 1)
        right.plot(shares[shares >= 0.1], among[shares >= 0.1], label=name)
    left.plot([0.7, 1], [0.7, 1], color="grey", linestyle="--", label="calibrated")
    left.set(xlabel="mean confidence of a quarter of the letters", ylabel="share of right answers")
    right.set(xlabel="share of letters routed, surest first", ylabel="share of right answers among them")
    left.legend(fontsize="small")
