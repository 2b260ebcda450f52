"""One notebook's run: its parameters, tables, figures, and the result file that it leaves."""

import functools
import json
import logging
import time
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from IPython.display import display

from helpers.files import megabytes, place, plain, sha256, write_whole
from helpers.machine import Computing, numerics, peak_memory_mb, settle, versions
from helpers.sources import is_mini, short_name

PARAMETERS = (  # every name that a parameters cell may hold
    *("DATASET", "CONFIG", "REVISION", "ENCODING", "TEXT_COLUMN", "LABEL_COLUMN", "COMPANY", "CLASSES"),
    *("TRAIN_ROWS", "TEST_ROWS", "MORE_ROWS", "EXTRA_TEST", "TEXT", "RUNS"),
    *("DISTILBERT", "DISTILBERT_REVISION", "GPT2", "GPT2_REVISION", "DEVICE", "PRECISION", "MAX_TOKENS"),
    *("RANK", "ALPHA", "DROPOUT", "LEARNING_RATE", "EPOCHS", "BATCH_SIZE", "HEAD_RATE", "FULL_RATE", "STUDY_RATE"),
    *("SEED", "OUT"),
)

MAKERS = {
    "data/pool.parquet": "01_data",
    "data/train.parquet": "01_data",
    "data/test.parquet": "02_test_data",
    "data/unseen.parquet": "02_test_data",
}


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
        """Take the parameters from the page's globals(), and set the figures' one style."""
        filter_known_warnings()
        settle()
        self.notebook = notebook
        self.parameters = {name: page[name] for name in PARAMETERS if name in page}
        self.computing: Computing | None = None  # set by the notebooks that run a model
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

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """Return the names of the classes; a label is a name's place, and id 1 is the positive class."""
        return tuple(self.parameters.get("CLASSES") or self.read_result("01_data")["labels"])

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
        result = {
            "notebook": self.notebook,
            "mini": self.mini,
            **self.sources,
            "parameters": {k: str(v) if isinstance(v, Path) else v for k, v in self.parameters.items() if k != "OUT"},
            "seed": self.parameters["SEED"],
            "labels": self.labels,
            "data_sha256": self.data_sha256,
            "versions": versions(),
            "numerics": numerics(self.computing),
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

        `checkpoint` is the base's folder, `cost` what `measured` found, `texts` how many were read in all epochs, `answers`
        are the probabilities on validation. The base is the one in the page's parameters, or that of the `twin`, another
        model's record.
        """
        given, seconds = self.parameters, history["seconds"].sum()  # of all epochs, in whichever run that was
        architecture = name.partition("_")[0]
        base = architecture.upper()  # DISTILBERT, or GPT2
        own = {"checkpoint": base, "revision": f"{base}_REVISION", "max_tokens": "MAX_TOKENS"}
        self.trained[name] = {
            "kind": kind,
            "architecture": architecture,
            **{key: twin[key] if twin else given[parameter] for key, parameter in own.items()},
            "device": self.computing.device.type,
            "precision": self.computing.precision_name,
            "seed": given["SEED"],
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
