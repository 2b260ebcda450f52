"""A model hub on localhost: two tiny checkpoints and a data set under their true names and pinned revisions.

It speaks as much of the hub's HTTP API as transformers, peft and datasets use to read, and notes every request.
"""

import contextlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pandas as pd
import torch
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer
from transformers import DistilBertConfig, DistilBertForMaskedLM, GPT2Config, GPT2Model

from mini.complaints import write_complaints

DISTILBERT, GPT2, COMPLAINTS = "distilbert-base-uncased", "gpt2", "BEE-spoke-data/consumer-finance-complaints"
REVISIONS = {
    DISTILBERT: "12040accade4e8a0f71eabdb258fecc2e7e948be",
    GPT2: "607a30d783dfa663caf39e06633721c8d4cfcd7e",
    COMPLAINTS: "088cc7308d4afc2a880f2329d08e2f7a09188ec6",
}
RENAMED = {DISTILBERT: f"distilbert/{DISTILBERT}", GPT2: f"openai-community/{GPT2}"}  # the hub redirects the old names
NARRATIVE = "Consumer complaint narrative"
STATUS = {"RepoNotFound": 401, "RevisionNotFound": 404, "EntryNotFound": 404}  # 401: it may be private, for all we know
WHAT = r"(?P<kind>model|dataset)s/(?P<name>(?:[^/]+/)?[^/]+)"
ROUTES = {  # what is asked for: the form of its path
    "info": re.compile(rf"/api/{WHAT}/revision/(?P<revision>[^/]+)"),
    "tree": re.compile(rf"/api/{WHAT}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?"),
    "paths-info": re.compile(rf"/api/{WHAT}/paths-info/(?P<revision>[^/]+)"),
    "file": re.compile(r"/(?:(?P<kind>dataset)s/)?(?P<name>(?:[^/]+/)?[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"),
}


class Asked(NamedTuple):
    """One request: what was wanted of which repository at which revision, and the status of the answer."""

    route: str
    kind: str
    name: str
    revision: str
    path: str
    status: int


# --- what it serves: TARGET/models/NAME/REVISION/… and TARGET/datasets/NAME/REVISION/… --------------------------------


def write_repositories(target: Path) -> Path:
    """Return the folder, filled with the two checkpoints and the data set that the study pins."""
    rows = pd.read_parquet(write_complaints(target / "complaints.parquet"))
    told = rows[rows[NARRATIVE].notna()]
    write_complaints_repository(target / "datasets" / COMPLAINTS / REVISIONS[COMPLAINTS], rows, told)
    torch.manual_seed(0)
    write_distilbert(target / "models" / DISTILBERT / REVISIONS[DISTILBERT], told[NARRATIVE])
    write_gpt2(target / "models" / GPT2 / REVISIONS[GPT2], told[NARRATIVE])
    return target


def write_complaints_repository(folder: Path, rows: pd.DataFrame, told: pd.DataFrame) -> None:
    """Write the mirror's two configs, `default` in one shard and `has-text` in three, and the card that names them."""
    third = len(told) // 3 + 1
    configs = {"default": ("data", [rows]), "has-text": ("has-text", [told[i * third :][:third] for i in range(3)])}
    files, infos = [], []
    for config, (where, shards) in configs.items():
        (folder / where).mkdir(parents=True)
        for i, shard in enumerate(shards):
            shard.to_parquet(folder / where / f"train-{i:05d}-of-{len(shards):05d}.parquet", index=False)
        types = [(column, "int64" if kind == "int64" else "string") for column, kind in rows.dtypes.items()]
        split = {"name": "train", "num_bytes": 1, "num_examples": sum(map(len, shards))}
        features = [{"name": column, "dtype": kind} for column, kind in types]
        files.append({"config_name": config, "data_files": [{"split": "train", "path": f"{where}/train-*"}]})
        infos.append({"config_name": config, "features": features, "splits": [split]})
    card = {"license": "cc0-1.0", "dataset_info": infos, "configs": files}
    (folder / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n# Consumer complaints\n")  # JSON is YAML


def write_distilbert(folder: Path, texts: pd.Series) -> None:
    """Write a masked language model with random weights and an uncased WordPiece tokenizer."""
    trained = BertWordPieceTokenizer()
    trained.train_from_iterator(texts, vocab_size=800, show_progress=False)
    vocabulary = trained.get_vocab()
    tokenizer = BertWordPieceTokenizer(vocabulary)  # now that it knows them, it puts [CLS] first and [SEP] last
    config = DistilBertConfig(vocab_size=len(vocabulary), dim=64, hidden_dim=128, n_layers=2, n_heads=2)
    DistilBertForMaskedLM(config).save_pretrained(folder)
    write_tokenizer(folder, tokenizer, {"do_lower_case": True, "model_max_length": 512})
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)))


def write_gpt2(folder: Path, texts: pd.Series) -> None:
    """Write a bare body (its weights' names have no prefix) with random weights and a BPE without a pad token."""
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=800, show_progress=False, special_tokens=["<|endoftext|>"])
    end = tokenizer.token_to_id("<|endoftext|>")
    config = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(), n_embd=64, n_layer=2, n_head=2, bos_token_id=end, eos_token_id=end
    )
    GPT2Model(config).save_pretrained(folder)
    write_tokenizer(folder, tokenizer, {"model_max_length": 1024})
    tokenizer.save_model(str(folder))  # vocab.json and merges.txt


def write_tokenizer(folder: Path, tokenizer: Tokenizer, settings: dict) -> None:
    """Add to a checkpoint its tokenizer, and weights as a pickle that nobody may ask for."""
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "pytorch_model.bin").write_bytes(b"not weights")


# --- how it answers ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def serving(folder: Path):
    """Yield a hub that serves the folder until the end of the block: its `url`, and `asked`, the requests so far."""
    hub = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.folder, hub.asked, hub.url = folder, [], f"http://127.0.0.1:{hub.server_port}"
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class Handler(BaseHTTPRequestHandler):
    """Answers HEAD, GET and POST as the hub does, and notes each in the server's `asked`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        """Answer one request of any method."""
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        where = unquote(self.path.partition("?")[0])
        route, match = next(((r, m) for r, form in ROUTES.items() if (m := form.fullmatch(where))), (None, None))
        if route is None:
            return self.answer(404, b"")
        name = match["name"]
        ...

    do_HEAD = do_POST = do_GET

    def log_message(self, *_):
        """Print nothing: the requests are in `asked`."""
