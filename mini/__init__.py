"""The offline demo: complaints written for the occasion, and two miniature models, shipped or pretrained anew."""

import hashlib
import importlib.metadata
import json
from pathlib import Path

from helpers.files import code_of, sha256
from helpers.sources import COMPANY, NARRATIVE, read
from mini import writer

HERE = Path(__file__).parent
CHECKPOINTS = HERE / "checkpoints"
KINDS = ("distilbert", "gpt2")
FEWEST = 200  # narratives that a pretraining takes
TRAINING = {"LEARNING_RATE": 3e-3, "EPOCHS": 2}  # chosen on validation, where a third epoch gains nothing
MAP = {  # of learning rates: the miniatures' best ones are larger than those of full-size models; half of the complaints
    "HEAD_RATES": [6.3e-4, 2e-3, 6.3e-3, 2e-2, 6.3e-2],
    "LORA_RATES": [2e-4, 6.3e-4, 2e-3, 6.3e-3, 2e-2],
    "FULL_RATES": [2e-5, 6.3e-5, 2e-4, 6.3e-4, 2e-3],
    "MAP_ROWS": 800,
}
COMPUTING = {"DEVICE": "cpu", "PRECISION": "float32"}


def values(data: Path, models: dict[str, Path], embedded: bool) -> dict[str, dict]:
    """Return {notebook: {parameter: value}} of a mini run on this data with these miniature models.

    Of the embedded data the best accuracy that anyone can expect is known.
    """
    distilbert, gpt2 = ({name.upper(): str(models[name])} for name in KINDS)
    training = COMPUTING | TRAINING
    known = {"CEILING": writer.ceiling()} if embedded else {}
    return {
        "01_data": {"DATASET": str(data), **distilbert, **gpt2},
        "02_test_data": distilbert | gpt2 | COMPUTING | known | {"MORE_ROWS": 150},  # of the 800 there are, for speed
        "03_distilbert_lora": distilbert | training,
        "04_gpt2_lora": gpt2 | training,
        "05_gpt2_qlora": gpt2 | training,
        "appendix_rates": MAP,
    }


def embedded_data(cache: Path) -> Path:
    """Return where the embedded complaints lie once they are written, in a file named by the writer's code and grammar."""
    code = code_of((HERE / "writer.py").read_text(encoding="utf-8")) + writer.GRAMMAR_FILE.read_text(encoding="utf-8")
    digest = hashlib.sha256(code.encode()).hexdigest()[:8]
    return cache / f"mini-complaints-{digest}.parquet"


def shipped_models() -> dict[str, Path]:
    """Return the folder of each miniature model that comes with the project, named by a hash of its weights."""
    return {kind: next(CHECKPOINTS.glob(f"mini-{kind}-*")) for kind in KINDS}


def prepare(dataset: Path | None, company: str, cache: Path, pretrain: bool, make: bool = True) -> dict[str, dict]:
    """Return the values of a mini run; where `make` says so, what lacks of data and models is made, and kept in the cache.

    Without a data set the embedded complaints are written. To pretrain takes the narratives of all companies but the
    study's, so that no text of the study is seen before notebook 03. ValueError says when those are too few.
    """
    data = dataset or embedded_data(cache)
    if make and not data.exists():
        writer.write_complaints(data)
    if not pretrain:
        return values(data, shipped_models(), dataset is None)
    models = {kind: find_or_pretrain(kind, data, company, cache, make) for kind in KINDS}
    return values(data, models, dataset is None)


def find_or_pretrain(kind: str, data: Path, company: str, cache: Path, make: bool) -> Path:
    """Return the folder of a miniature model that has learned from this data, in the cache; pretrain it if it is not there.

    It lies in a folder named by what it was made from: the data's bytes, the company left out, the code, the libraries.
    """
    code = code_of((HERE / "pretrain.py").read_text(encoding="utf-8"))
    about = [company, *(importlib.metadata.version(name) for name in ("torch", "transformers", "tokenizers"))]
    digest = hashlib.sha256((code + json.dumps([sha256(data), *about])).encode()).hexdigest()[:8]
    folder = cache / f"pretrained-{digest}"
    for found in folder.glob(f"mini-{kind}-*"):
        return found
    if not make:
        return folder / f"mini-{kind}-not-made-yet"
    from mini import pretrain  # torch and transformers take seconds to import

    return pretrain.build(kind, other_narratives(data, company), folder)


def other_narratives(data: Path, company: str) -> list[str]:
    """Return the narratives of all companies but one; ValueError says when there are too few to learn from."""
    columns = {"company": COMPANY, "text": NARRATIVE}
    texts = []
    for part in read(data, columns):
        rows = part.to_pandas()
        rows = rows[(rows["company"] != company) & (rows["text"].fillna("").str.strip() != "")]
        texts += rows["text"].tolist()
    if len(texts) < FEWEST:
        raise ValueError(
            f"DATASET {data} has {len(texts)} narratives of companies other than {company}; --pretrain makes the miniature "
            f"models from those and needs {FEWEST}. Pass a larger file (-p DATASET PATH), or run without --pretrain."
        )
    return texts
