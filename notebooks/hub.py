"""Where models and data come from: a checked local folder, or the hub's pinned snapshot, from its cache or from itself."""

import contextlib
import http.client
import json
import os
import threading
import time
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from helpers import place
from huggingface_hub import get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import CachedRepoTreeNotFoundError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import tqdm

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
LAYERS = {  # the layers that each architecture's adapter expects to find
    "distilbert": ("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
}


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


def find_model(model: str, revision: str, architecture: str) -> str:
    """Return the folder of the checkpoint to load, a local one or a hub id's at the pinned revision, once it is checked.

    ValueError says what the folder lacks: a readable configuration, a tokenizer, weights, or the architecture with its layers.
    """
    folder = place(model)
    if not folder.is_dir():
        if "/" in model.strip("/").replace("/", "", 1) or model.startswith((".", "/", "~")):
            raise FileNotFoundError(f"MODEL {place(model)} is not a folder. Pass a checkpoint's folder: -p MODEL PATH.")
        folder = hub_snapshot(model, revision, "model", MODEL_FILES)
    if not (folder / "config.json").is_file():
        raise ValueError(f"MODEL {folder} has no config.json: it is not a checkpoint in the hub's layout.")
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except ValueError as error:
        raise ValueError(
            f"MODEL {folder} has a config.json that cannot be read ({error}): save the model anew."
        ) from None
    if found != architecture:
        raise ValueError(
            f"MODEL {folder} is a {found!r} checkpoint; this notebook needs {architecture!r}, whose adapter sits on the "
            f"layers {', '.join(LAYERS[architecture])}. Pass such a folder: -p MODEL PATH."
        )
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"MODEL {folder} has no tokenizer.json: save the model's tokenizer into the same folder.")
    if not list(folder.glob("*.safetensors")):
        raise ValueError(
            f"MODEL {folder} has no weights in a .safetensors file. A pickle (pytorch_model.bin) may hold code and is never "
            "loaded: write the model anew with its save_pretrained, on a machine that may run it."
        )
    return str(folder)
