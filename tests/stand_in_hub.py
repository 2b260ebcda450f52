"""A model hub on localhost: two tiny checkpoints and a data set under their true names and pinned revisions.

It speaks as much of the hub's HTTP API as transformers, peft and datasets use to read, and notes every request.
"""

import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from tokenizers import ByteLevelBPETokenizer, Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer
from transformers import DistilBertConfig, DistilBertForMaskedLM, GPT2Config, GPT2Model

from mini.writer import write_complaints

DISTILBERT, GPT2 = "distilbert/distilbert-base-uncased", "openai-community/gpt2"
RENAMED = {"distilbert-base-uncased": DISTILBERT, "gpt2": GPT2}  # the hub redirects their old names, those of the study
COMPLAINTS = "BEE-spoke-data/consumer-finance-complaints"
REVISIONS = {
    DISTILBERT: "12040accade4e8a0f71eabdb258fecc2e7e948be",
    GPT2: "607a30d783dfa663caf39e06633721c8d4cfcd7e",
    COMPLAINTS: "088cc7308d4afc2a880f2329d08e2f7a09188ec6",
}
NARRATIVE = "Consumer complaint narrative"
TOKEN = "Bearer hf_good"  # the one that it knows; it refuses any other, as the hub does even for what is public
STATUS = {"RepoNotFound": 401, "RevisionNotFound": 404, "EntryNotFound": 404}  # 401: it may be private, for all we know
WHAT = r"(?P<kind>model|dataset)s/(?P<name>(?:[^/]+/)?[^/]+)"
ROUTES = {  # what is asked for: the form of its path
    "info": re.compile(rf"/api/{WHAT}/revision/(?P<revision>[^/]+)"),
    "tree": re.compile(rf"/api/{WHAT}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?"),
    "file": re.compile(r"/(?:(?P<kind>dataset)s/)?(?P<name>(?:[^/]+/)?[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"),
}


class Asked(NamedTuple):
    """One request that was no redirect: its method, what it wanted of which repository, and the status of our answer."""

    method: str
    route: str  # one of ROUTES, or "unknown"
    name: str
    revision: str
    path: str
    status: int


# --- what it serves: TARGET/models/NAME/REVISION/… and TARGET/datasets/NAME/REVISION/… --------------------------------


def write_repositories(target: Path, opening: str = "") -> Path:
    """Return the folder, filled with the two checkpoints and the data set that the study pins; so begin its letters."""
    rows = pq.read_table(write_complaints(target / "complaints.parquet"))
    letters = pc.binary_join_element_wise(opening, rows[NARRATIVE], "")
    rows = rows.set_column(rows.schema.get_field_index(NARRATIVE), rows.schema.field(NARRATIVE), letters)
    told = rows.filter(pc.field(NARRATIVE).is_valid())
    texts = told[NARRATIVE].to_pylist()
    write_mirror(target / "datasets" / COMPLAINTS / REVISIONS[COMPLAINTS], rows, told)
    torch.manual_seed(0)
    write_distilbert(target / "models" / DISTILBERT / REVISIONS[DISTILBERT], texts)
    write_gpt2(target / "models" / GPT2 / REVISIONS[GPT2], texts)
    return target


def write_mirror(folder: Path, rows: pa.Table, told: pa.Table) -> None:
    """Write the mirror's two configs, `default` in one shard and `has-text` in three, and the card that names them."""
    third = len(told) // 3 + 1
    shards = {"data": [rows], "has-text": [told.slice(i * third, third) for i in range(3)]}
    for name, tables in shards.items():
        (folder / name).mkdir(parents=True)
        for i, table in enumerate(tables):
            pq.write_table(table, folder / name / f"train-{i:05d}-of-{len(tables):05d}.parquet")
    features = [{"name": field.name, "dtype": str(field.type)} for field in rows.schema]
    configs, infos = [], []
    for config, name in (("default", "data"), ("has-text", "has-text")):
        split = {"name": "train", "num_bytes": 1, "num_examples": sum(map(len, shards[name]))}
        configs.append({"config_name": config, "data_files": [{"split": "train", "path": f"{name}/train-*"}]})
        infos.append({"config_name": config, "features": features, "splits": [split]})
    card = {"license": "cc0-1.0", "dataset_info": infos, "configs": configs}
    (folder / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n# Consumer complaints\n")  # JSON is YAML


def write_distilbert(folder: Path, texts: list[str]) -> None:
    """Write a masked language model with random weights and an uncased WordPiece tokenizer."""
    trained = BertWordPieceTokenizer()
    trained.train_from_iterator(texts, vocab_size=800, show_progress=False)
    vocabulary = trained.get_vocab()
    tokenizer = BertWordPieceTokenizer(vocabulary)  # now that it knows them, it puts [CLS] first and [SEP] last
    config = DistilBertConfig(vocab_size=len(vocabulary), dim=64, hidden_dim=128, n_layers=2, n_heads=2)
    DistilBertForMaskedLM(config).save_pretrained(folder)
    write_tokenizer(folder, tokenizer, {"do_lower_case": True, "model_max_length": 512})
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.get)))


def write_gpt2(folder: Path, texts: list[str]) -> None:
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
    """Answers HEAD and GET as the hub does, and notes every request in the server's `asked`."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer one request, and note it unless it is only sent on to a repository's new name."""
        where = urlsplit(self.path)
        route, asked = parse(unquote(where.path))
        if asked["name"] in RENAMED:
            new = self.path.replace(asked["name"], RENAMED[asked["name"]], 1)
            return self.send(307, {"Location": new}, b"")
        if self.headers.get("Authorization", TOKEN) != TOKEN:
            error = "Invalid credentials in Authorization header"
            return self.send(401, {"X-Error-Message": error}, json.dumps({"error": error}).encode())
        root = self.server.folder / f"{asked['kind']}s" / asked["name"] / asked["revision"]
        deep = parse_qs(where.query).get("recursive") == ["true"]
        status, headers, body = answer(route, root, asked["path"], deep)
        self.server.asked.append(Asked(self.command, route, asked["name"], asked["revision"], asked["path"], status))
        self.send(status, headers, body)

    do_HEAD = do_POST = do_GET  # nobody should post: that would be noted as unknown

    def send(self, status: int, headers: dict, body: bytes) -> None:
        """Send the answer, to HEAD without its body."""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_) -> None:
        """Print nothing: the requests are in `asked`."""


def parse(path: str) -> tuple[str, dict]:
    """Return the route of a URL's path, and what it asks for: kind, name, revision and path in the repository."""
    for route, form in ROUTES.items():
        if match := form.fullmatch(path):
            given = {part: text or "" for part, text in match.groupdict().items()}
            return route, {"path": "", **given, "kind": given["kind"] or "model"}
    return "unknown", {"kind": "model", "name": "", "revision": "", "path": path}


def answer(route: str, root: Path, path: str, deep: bool) -> tuple[int, dict, bytes]:
    """Return the status, headers and body of the answer about a repository at a revision (its files are in root)."""
    if error := missing(route, root, path):
        return STATUS[error], {"X-Error-Code": error, "X-Error-Message": error}, b""
    if route == "file":
        body = (root / path).read_bytes()
        return 200, {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": root.name}, body
    if route == "info":
        found = {"id": root.parent.relative_to(root.parents[2]).as_posix(), "sha": root.name}
    else:
        found = [
            entry(root, inside) for inside in sorted((root / path).rglob("*") if deep else (root / path).iterdir())
        ]
    return 200, {"Content-Type": "application/json"}, json.dumps(found).encode()


def missing(route: str, root: Path, path: str) -> str | None:
    """Return the hub's code for what is not there, repository, revision or entry, or None."""
    if not root.parent.is_dir():
        return "RepoNotFound"
    if not root.is_dir():
        return "RevisionNotFound"
    there = (root / path).is_file() if route == "file" else (root / path).exists()
    return None if there and route != "unknown" else "EntryNotFound"


def entry(root: Path, path: Path) -> dict:
    """Return what the hub tells about a file or folder of a repository."""
    kind, content = ("file", path.read_bytes()) if path.is_file() else ("directory", b"")
    where = path.relative_to(root).as_posix()
    return {"type": kind, "path": where, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
