"""What the notebooks share beside models: places, files, the data source, copies, scores, floors and figures.

Whatever changes a number is decided on the pages; a function that a page teaches stands there first, and here word for word.
What handles models is in `modelling.py`.
"""

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
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import seaborn as sns
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


def filter_known_warnings() -> None:
    """Silence three messages, one by one; everything else is heard."""
    # bitsandbytes asks for an optional package of faster CPU kernels; the 4-bit numbers are the same without it.
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda r: "kernels-community" not in r.getMessage())
    # each load reports that the head is new: the pages say so in words
    logging.getLogger("transformers.modeling_utils").addFilter(lambda r: "LOAD REPORT" not in r.getMessage())
    # peft reads an attribute of transformers under its old name
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)


class Run:
    """One notebook's run: its folder of outputs, what it was given, its clock, and the result file it leaves."""

    def __init__(self, notebook: str, page: dict):
        """Take the page's globals() for the parameters (upper-case plain values) and set the figures' one style."""
        filter_known_warnings()
        plain = (str, int, float, bool, list, dict, type(None))
        self.notebook = notebook
        self.parameters = {k: v for k, v in page.items() if k.isupper() and isinstance(v, plain)}
        self.out = place(page["OUT"])
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
        path = self.out / name
        if not path.exists():
            maker = MAKERS.get(name, Path(name).stem)
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
        """Return an earlier notebook's result file."""
        return json.loads(self.path(f"results/{notebook}.json").read_text())

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
            **content,
        }
        text = json.dumps(result, indent=1, default=lambda value: value.tolist())
        write_whole(self.out / f"results/{self.notebook}.json", lambda temporary: temporary.write_text(text))
        print(f"Wrote results/{self.notebook}.json.")

    def save_training(
        self, *, counts, adapter_mb: float, seconds: float, texts: int, history, validation: dict, **more
    ) -> None:
        """Write the result file of a training: its costs, its curve by epoch, and its scores on validation."""
        self.save_result(
            trained_parameters=counts.to_dict(),
            adapter_mb=adapter_mb,
            train_seconds=seconds,
            train_texts_per_second=texts / seconds,
            curve=history.reset_index().to_dict("list"),
            validation=validation,
            **more,
        )


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
        parameter = "DATASET path/to/complaints.parquet" if kind == "dataset" else "MODEL path/to/folder"
        raise ConnectionError(
            f"The hub does not serve {repository} at {revision} ({failure[0]}). Without the hub: `python run_all.py --mini` "
            f"runs everything offline on miniature models, or pass a local copy: `-p {parameter}`."
        )


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


def mirrored_files(dataset: str, config: str, revision: str) -> list[Path]:
    """Return the Parquet files of a hub data set's config at that revision, downloaded unless the hub's cache has them."""
    from huggingface_hub import snapshot_download  # a local file needs no hub

    check_hub(dataset, revision, "dataset")
    part = "data" if config == "default" else config  # the folder in which the hub keeps a config
    folder = snapshot_download(dataset, repo_type="dataset", revision=revision, allow_patterns=f"{part}/*.parquet")
    files = sorted(Path(folder, part).glob("*.parquet"))
    if not files:
        raise FileNotFoundError(f"The hub's {dataset} at {revision} has no Parquet files of a config {config}.")
    return files


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
        rows = read_parquet(mirrored_files(dataset, config, revision))
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
    colours = dict(zip(("floor", "base", "lora", "qlora"), sns.color_palette("colorblind"), strict=False))
    low, high = np.array([ranges[metric] for ranges in scores["intervals"]]).T
    error = np.clip([scores[metric] - low, high - scores[metric]], 0, None)
    axes.barh(scores.index, scores[metric], xerr=error, color=scores["kind"].map(colours), capsize=3)
    axes.set(xlabel=metric, xlim=(0, 1.02))
