"""Draws of labelled complaints: what comes of each is kept as a row without text, and found again by what it was made from."""

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from helpers.files import OWN_DRAWS, PUBLISHED_DRAWS, append_line, code_of, digest, place, read_lines, sha256
from helpers.hub import find_model
from helpers.machine import Computing, device_name, versions
from helpers.scores import predicted


def of_table(part: pd.DataFrame) -> str:
    """Return a hash of complaints and their labels, in their order."""
    return digest([part["text"].tolist(), part["label"].tolist()])


class KeptDraws:
    """The rows of finished draws: this run's own, those of its single draws, and the published ones of the repository."""

    def __init__(
        self,
        out: Path,
        base: Mapping[str, Any],
        sets: Mapping[str, pd.DataFrame],
        computing: Computing,
        functions: Sequence[Callable],
        settings: Mapping[str, Any],
    ):
        """Read the rows; what is given here is what all rows of a run depend on: base model, judged complaints, code, settings."""
        self.own = out / OWN_DRAWS
        files = [self.own, *sorted(out.glob(f"draws/*/{OWN_DRAWS}")), place(PUBLISHED_DRAWS)]
        self.rows = {row["key"]: row for path in files for row in read_lines(path)}
        self.sets = sets
        self.computing = computing
        self.new = 0
        self.shared = {
            "code": [code_of(inspect.getsource(each)) for each in functions],
            "base": sha256(Path(find_model(base["checkpoint"], base["revision"], base["model"]))),
            "max_tokens": base["max_tokens"],
            "precision": computing.precision_name,
            "versions": versions(),
            "sets": {name: of_table(part) for name, part in sets.items()},
            "settings": dict(settings),
        }

    def row(self, about: dict[str, Any], part: pd.DataFrame, learn: Callable[[], Callable[[str], np.ndarray]]) -> dict:
        """Return the row of a draw, made now if it is not kept: its accuracy on each set, and as bits where it is right.

        `about` says what the draw is, `part` holds its labelled complaints, and `learn` learns from them: it returns a function
        from the name of a set to the probabilities of class 1.
        """
        key = digest([self.shared, about, of_table(part)])
        if key not in self.rows:
            started = time.perf_counter()
            probability = learn()
            judged = self.sets.items()
            right = {name: predicted(probability(name)) == rows["label"].to_numpy() for name, rows in judged}
            made = about | {name: float(each.mean()) for name, each in right.items()}
            made |= {"seconds": round(time.perf_counter() - started, 1), "precision": self.computing.precision_name}
            made |= {"cpu": device_name(self.computing)}
            bits = {name: np.packbits(each).tobytes().hex() for name, each in right.items()}
            self.rows[key] = made | {"right": bits, "key": key}
            append_line(self.own, self.rows[key])
            self.new += 1
        return self.rows[key]

    def right(self, rows: pd.DataFrame, name: str) -> np.ndarray:
        """Return where the rows are right on the complaints of a set, shape (rows, texts)."""
        bits = np.stack([np.frombuffer(bytes.fromhex(each[name]), np.uint8) for each in rows["right"]])
        return np.unpackbits(bits, axis=1)[:, : len(self.sets[name])].astype(bool)
