"""One notebook's run: its parameters, tables, figures, and the result file that it leaves."""

import functools
import importlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display

from helpers import check, minilm
from helpers.figures import set_style
from helpers.files import is_mini, megabytes, place, plain, sha256, short_name, write_whole
from helpers.machine import Computing, numerics, peak_memory_mb, settle, versions

if TYPE_CHECKING:
    from helpers.training import Training  # which loads torch

PARAMETERS = (  # every name that a parameters cell may hold
    *("DATASET", "CONFIG", "REVISION", "ENCODING", "TEXT_COLUMN", "LABEL_COLUMN", "COMPANY", "CLASSES"),
    *("TRAIN_ROWS", "TEST_ROWS", "MORE_ROWS", "MARGIN", "CEILING", "EXTRA_TEST", "TEXT", "RUNS"),
    *("DISTILBERT", "DISTILBERT_REVISION", "GPT2", "GPT2_REVISION", "DEVICE", "PRECISION", "MAX_TOKENS"),
    *("RANK", "ALPHA", "DROPOUT", "LEARNING_RATE", "EPOCHS", "BATCH_SIZE"),
    *("HEAD_RATES", "LORA_RATES", "FULL_RATES", "RANKS", "MAP_ROWS", "SEED", "OUT"),
    *("LABELS", "DRAWS", "HEAD_RATE", "LORA_RATE", "FULL_RATE"),
    *("MODEL", "FILE", "ROWS", "PERSON_MINUTES", "WRONG_MINUTES"),
)

HELD_OUT = "held_out"  # the table that no choice may look at
JUDGES = ("06_comparing", "appendix_confidence", "appendix_errors", "appendix_labels")  # the notebooks that open it
SERIES = "RUN_ALL_SERIES"  # the variable that tells a run with a folder of its own where 01 and 02 keep theirs


class Run:
    """One notebook's run: its folder of outputs, what it was given, its clock, and the result file it leaves."""

    def __init__(self, notebook: str, variables: dict[str, Any]):
        """Take the parameters from the notebook's globals(), and set the figures' one style."""
        settle()
        set_style()
        self.notebook = notebook
        self.parameters = {name: variables[name] for name in PARAMETERS if name in variables}
        self.computing: Computing | None = None  # set by the notebooks that run a model
        self.out = place(variables["OUT"])
        self.trainings: list[dict] = []
        self.data_sha256: dict[str, str] = {}
        self.sources: dict[str, Any] = {}  # set by made_from
        self.started = time.perf_counter()

    def made_from(self, data: str, *models: str) -> None:
        """Note which data and models this run's numbers come from, and print it with the values, mini said as mini."""
        names = [short_name(source) for source in (data, *models)]
        self.sources = {"data": names[0], "models": names[1:]}
        self.mini = any(map(is_mini, names))
        if is_mini(names[0]):
            print(
                "The outputs in this notebook come from the offline demo (--mini): they show how things work, not what full-size models reach."
            )
            print("The complaints are synthetic, written by a program; the models are miniatures.")
        elif self.mini:
            print(
                "The outputs in this notebook come from a run with a miniature, not of what a full-size model reaches."
            )
        else:
            print("The outputs in this notebook come from a full run.")
        told = [minilm.ABOUT if name == minilm.NAME else name for name in names[1:]]
        print(f"Data: {names[0]}. Models: {', '.join(told) or 'none'}.")
        numbers = [f"{name} {value}" for name, value in self.parameters.items() if isinstance(value, int | float)]
        print(f"Values: {', '.join(numbers)}.")

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """Return the names of the classes; a label is a name's place, and id 1 is the positive class."""
        return tuple(self.parameters.get("CLASSES") or self.read_result("01_data")["labels"])

    def path(self, name: str) -> Path:
        """Return the path of an earlier notebook's output; FileNotFoundError says what to run first."""
        places = [folder / name for folder in (self.out, place(os.environ.get(SERIES, self.out)))]
        found = next((path for path in places if path.exists()), None)
        if found is None:
            raise FileNotFoundError(
                f"{places[0]} is not there: an earlier notebook makes it. Run the notebooks before this one first, or: "
                f"python run_all.py --out {self.out}"
            )
        return found

    def read_table(self, name: str) -> pd.DataFrame:
        """Return data/<name>.parquet as a table and note the hash of its bytes for the result file.

        CheckFailed when it is held out, and this notebook is none that may judge.
        """
        check(
            name != HELD_OUT or self.notebook in JUDGES,
            f"{self.notebook} must not open data/{name}.parquet: held-out complaints are for {', '.join(JUDGES)} alone",
        )
        path = self.path(f"data/{name}.parquet")
        self.data_sha256[name] = sha256(path)
        return pd.read_parquet(path)

    def read_split(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the training complaints and the validation complaints, as 01 has divided them, each numbered from 0."""
        table = self.read_table("train")
        train, validation = (table[table["split"] == part] for part in ("train", "validation"))
        return train.reset_index(drop=True), validation.reset_index(drop=True)

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """Write data/<name>.parquet whole or not at all, and note the hash of its bytes for the result file."""
        path = self.out / f"data/{name}.parquet"
        write_whole(path, lambda temporary: table.to_parquet(temporary, index=False))
        self.data_sha256[name] = sha256(path)
        print(f"Wrote data/{name}.parquet: {len(table):,} rows.")

    def read_result(self, notebook: str) -> dict:
        """Return an earlier notebook's result file; one with a folder of its own is named with it: seeds/7/04_gpt2_lora."""
        name = Path(notebook)
        return json.loads(self.path(f"{name.parent}/results/{name.name}.json").read_text(encoding="utf-8"))

    def read_trainings(self, notebooks: list[str]) -> pd.DataFrame:
        """Return the trainings in these notebooks' results, a row each; `weights` is the folder of what was trained."""
        rows = [
            row | {"weights": self.out / Path(name).parent / row["weights"]}
            for name in notebooks
            for row in self.read_result(name)["trainings"]
        ]
        return pd.DataFrame(rows)

    def read_predictions(self) -> pd.DataFrame:
        """Return the predictions that 06 has kept: a row a text and a training, with set, id, label and probability."""
        return pd.read_parquet(self.path("results/predictions.parquet"))

    def show_figure(self, figure: plt.Figure, name: str, alt: str) -> None:
        """Save the figure as plots/<name>.png, show it with its text for those who cannot see it, and close it.

        In a corner stand the models, for its labels say distilbert and gpt2 whatever their base is.
        """
        if models := self.sources.get("models"):
            figure.text(0.99, 0.005, f"Models: {', '.join(models)}", ha="right", fontsize=6, color="grey")
        path = self.out / f"plots/{name}.png"
        write_whole(path, lambda temporary: figure.savefig(temporary, dpi=120))
        display(figure, metadata={"image/png": {"alt": alt}})
        plt.close(figure)

    def save_result(self, **content: Any) -> None:
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
            **({"trainings": self.trainings} if self.trainings else {}),
            **content,
        }
        write_whole(self.out / f"results/{self.notebook}.json", json.dumps(plain(result), indent=1, allow_nan=False))
        print(f"Wrote results/{self.notebook}.json.")

    def save_training(self, record: dict, training: "Training", counts: pd.Series, size_mb: float) -> None:
        """Add a row to the result file's trainings: what was trained (the record), with which costs, and what came of it.

        The folder of its weights becomes one that works anywhere, with its base's name, tokenizer and card.

        The record says model, method, checkpoint, revision, bits, max_tokens, learning_rate, rank, and where the weights lie.
        """
        from helpers.hub import find_model  # for the notebooks that train

        computing = self.computing
        assert computing is not None
        checkpoint = find_model(record["checkpoint"], record["revision"], record["model"])
        history = training.history
        seconds = history["seconds"].sum()  # of all epochs, in whichever run that was
        costs = {
            "base_mb": megabytes(Path(checkpoint), "*.safetensors"),
            "parameters": counts.to_dict(),
            "size_mb": size_mb,
            "train_seconds": seconds,
            "train_texts_per_second": training.texts / seconds,
            "train_memory_mb": training.cost["memory_mb"],
            # of a training that a kill has interrupted only the rest was measured
            "train_energy_wh": training.cost["energy_wh"] if training.cost["seconds"] >= seconds else None,
            "micro_batch": history["micro-batch"].min(),
        }
        self.trainings.append(
            record
            | {"seed": self.parameters["SEED"], "draw": 0, "train_rows": training.texts // len(history)}
            | {"device": computing.device.type, "precision": computing.precision_name}
            | costs
            | {"curve": history.reset_index().to_dict("list"), "validation_probability": training.probability}
        )
        classes = self.read_result("01_data")["parameters"].get("CLASSES")
        # by name, so that what a model's folder says of itself is no reason to train again, and 01 rests on no training
        complete = importlib.import_module("helpers.handover").complete
        complete(self.out / record["weights"], self.trainings[-1], self.labels, classes, str(self.sources["data"]))
