"""Where models and data come from: a checked local folder, or the hub's pinned snapshot, from its cache or from itself."""

import contextlib
import http.client
import json
import os
import re
import threading
import time
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import CachedRepoTreeNotFoundError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import build_hf_headers, filter_repo_objects, tqdm

from helpers import minilm
from helpers.files import is_local, place

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


def check_hub(repository: str, revision: str, kind: str, parameter: str = "DATASET") -> None:
    """Raise ConnectionError with the fix unless the hub answers in time that it knows the pinned repository.

    It is asked as everything after it will be, with the token that is set, whatever repository that token is for.
    """
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    failure = [f"no answer within {HUB_SECONDS} s"]  # until there is one
    headers = {name: value for name, value in build_hf_headers().items() if name == "authorization"}

    def ask() -> None:
        try:
            where = f"{endpoint}/api/{kind}s/{repository}/revision/{revision}"
            urllib.request.urlopen(urllib.request.Request(where, headers=headers)).close()
            failure.clear()
        except (OSError, ValueError, http.client.HTTPException) as error:
            refused = headers and getattr(error, "code", None) == 401
            failure[:] = [refused_token() if refused else f"{type(error).__name__}: {error}"]

    asking = threading.Thread(target=ask, daemon=True)  # urlopen's own limit counts anew for each address of the hub
    asking.start()
    asking.join(HUB_SECONDS)
    if failure:
        raise hub_error(repository, revision, parameter, failure[0])


def refused_token() -> str:
    """Return what to do about a token that the hub refuses, for it then refuses what is public, too."""
    by_variable = [name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)]
    where = f"in the variable {by_variable[0]}" if by_variable else f"saved in {constants.HF_TOKEN_PATH}"
    fix = f"`unset {by_variable[0]}`, or set" if by_variable else "`hf auth logout`, or `hf auth login` with"
    return f"401: it refuses the token {where}, wrong or expired. What is public needs none: {fix} a new one"


def hub_error(repository: str, revision: str, parameter: str, cause: str) -> ConnectionError:
    """Return the error that says what the hub does not serve, why, and the ways out."""
    local = f"{parameter} path/to/{'complaints.parquet' if parameter == 'DATASET' else 'folder'}"
    return ConnectionError(
        f"The hub does not serve {repository} at {revision} ({cause}). Without the hub: `python run_all.py --mini` "
        f"runs everything offline on miniature models, or pass a local copy: `-p {local}`. With the hub once at hand: "
        "`python run_all.py --prefetch` keeps all that a full run needs."
    )


def in_cache(wanted: dict) -> tuple[Path | None, list[str]]:
    """Return the snapshot's folder in the hub's cache, or None, and the files that it lacks.

    Where the hub's list of files is cached beside it, and the hub may be asked for others, all files of the patterns are
    wanted. Another program fills the cache without that list: then what a run cannot do without is wanted, as it is where
    nothing can be asked.
    """
    try:
        folder = Path(snapshot_download(**wanted | {"allow_patterns": []}, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None, list(wanted["allow_patterns"])
    with contextlib.suppress(CachedRepoTreeNotFoundError):
        if not constants.HF_HUB_OFFLINE:
            place = {name: wanted[name] for name in ("repo_id", "revision", "repo_type")}
            names = (file.path for file in get_cached_repo_tree(**place))
            names = filter_repo_objects(names, allow_patterns=wanted["allow_patterns"])
            return folder, [name for name in names if not (folder / name).exists()]
    needed = shards(folder, *wanted["allow_patterns"]) if wanted["repo_type"] == "dataset" else checkpoint_files(folder)
    return folder, [name for name in needed if not (folder / name).exists()]


def shards(folder: Path, pattern: str) -> list[str]:
    """Return the names of all files of a pattern whose names end in -00000-of-00003 and so on; the pattern when none is there."""
    counts = {match[1] for path in folder.glob(pattern) if (match := re.search(r"-of-(\d+)\.\w+$", path.name))}
    names = [pattern.replace("*", f"{i:05d}-of-{count}") for count in counts for i in range(int(count))]
    return sorted(names) or [pattern]


def checkpoint_files(folder: Path) -> list[str]:
    """Return the names of the files of a checkpoint that loading it takes."""
    weights = ["model.safetensors"]
    with contextlib.suppress(OSError, ValueError, LookupError):  # one file, then, or an index that is no good
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        weights = sorted(set(index["weight_map"].values()))
    names = ["config.json", "tokenizer.json", *weights]
    return names if constants.HF_HUB_OFFLINE else [*names, "tokenizer_config.json"]  # loading can do without the last


def hub_snapshot(
    repository: str, revision: str, kind: str, patterns: Iterable[str], parameter: str = "DATASET"
) -> Path:
    """Return the folder of the repository ("model" or "dataset") at the revision, with all its files of these patterns.

    What is in the hub's cache already is taken from there without asking the hub; only what lacks is downloaded.
    ConnectionError gives the cause and the ways out, for the parameter that names the repository, when the hub does not
    answer, stops to answer, or must not be asked (HF_HUB_OFFLINE).
    """
    wanted: dict[str, Any] = {
        "repo_id": repository,
        "revision": revision,
        "repo_type": kind,
        "allow_patterns": list(patterns),
    }
    folder, lacking = in_cache(wanted)
    if folder and not lacking:
        return folder
    if constants.HF_HUB_OFFLINE:
        cause = f"HF_HUB_OFFLINE is set, and the cache {constants.HF_HUB_CACHE} lacks {', '.join(lacking)}: unset it"
        raise hub_error(repository, revision, parameter, cause)
    check_hub(repository, revision, kind, parameter)
    heard = [time.monotonic()]
    outcome: list[Path | str] = [f"nothing came for {HUB_SILENCE} s"]

    class Listening(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            heard[0] = time.monotonic()
            return super().update(n)

    def download() -> None:
        try:
            outcome[:] = [Path(snapshot_download(**wanted, tqdm_class=Listening))]
        except Exception as error:
            outcome[:] = [f"{type(error).__name__}: {error}"]

    downloading = threading.Thread(target=download, daemon=True)  # the hub's library would itself wait for many minutes
    downloading.start()
    while downloading.is_alive() and time.monotonic() - heard[0] < HUB_SILENCE:
        downloading.join(0.2)
    if isinstance(outcome[0], str):
        raise hub_error(repository, revision, parameter, outcome[0])
    return outcome[0]


def data_pattern(config: str) -> str:
    """Return where the training split of a data set's config lies in its repository: `default` in data/."""
    return f"{'data' if config == 'default' else config}/train-*.parquet"


def find_model(model: str, revision: str, architecture: str, max_tokens: int | None = None) -> str:
    """Return the folder of the checkpoint to load: a local one, minilm, or a hub id's at the pinned revision, once it is checked.

    ValueError says what the folder lacks: a readable configuration, a tokenizer, weights, the architecture with its layers,
    or positions for so many tokens.
    """
    folder = minilm.checkpoint() if model == minilm.NAME else place(model)
    parameter = architecture.upper()
    if not folder.is_dir():
        if is_local(model):
            raise FileNotFoundError(f"{parameter} {folder} is not a folder. Pass a checkpoint's: -p {parameter} PATH.")
        folder = hub_snapshot(model, revision, "model", MODEL_FILES, parameter)
    config = configuration(folder, parameter)
    if config.get("model_type") != architecture:
        raise ValueError(
            f"{parameter} {folder} is a {config.get('model_type')!r} checkpoint; this notebook needs {architecture!r}. Pass such a folder: -p {parameter} PATH."
        )
    positions = config.get("max_position_embeddings") or config.get("n_positions")  # the two models' own names for it
    if max_tokens and positions and max_tokens > positions:
        raise ValueError(
            f"MAX_TOKENS {max_tokens} is too many for {parameter} {folder}, which has {positions} positions. Pass "
            f"-p MAX_TOKENS {positions}, or a model of more positions: -p {parameter} PATH."
        )
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(
            f"{parameter} {folder} has no tokenizer.json: save the model's tokenizer into the same folder."
        )
    if not list(folder.glob("*.safetensors")):
        raise ValueError(
            f"{parameter} {folder} has no weights in a .safetensors file. A pickle (pytorch_model.bin) may hold code and is "
            "never loaded: write the model anew with its save_pretrained, on a machine that may run it."
        )
    return str(folder)


def configuration(folder: Path, parameter: str) -> dict:
    """Return a checkpoint's config.json; ValueError, in terms of the parameter that named it, when there is no good one."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return config if isinstance(config, dict) else {}
    except FileNotFoundError:
        raise ValueError(
            f"{parameter} {folder} has no config.json: it is not a checkpoint in the hub's layout."
        ) from None
    except ValueError as error:
        raise ValueError(
            f"{parameter} {folder} has a config.json that cannot be read ({error}): save the model anew."
        ) from None


def was_fine_tuned(checkpoint: str) -> bool:
    """Return whether a checkpoint that find_model has found holds a head for classes, which a new one will replace."""
    names = configuration(Path(checkpoint), "checkpoint").get("architectures") or []
    return any(name.endswith("ForSequenceClassification") for name in names)
