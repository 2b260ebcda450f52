"""The offline demo: complaints written for the occasion, and two miniature models, shipped or pretrained anew."""

import hashlib
import importlib.metadata
import json
from pathlib import Path

from helpers.complaints import normalise
from helpers.files import code_of, is_mini, sha256
from helpers.sources import COMPANY, NARRATIVE, read
from mini import writer

HERE = Path(__file__).parent
CHECKPOINTS = HERE / "checkpoints"
KINDS = ("distilbert", "gpt2")
FEWEST = 200  # narratives that a pretraining takes
ROWS = {"TRAIN_ROWS": 600}  # a class, of the embedded complaints: two thirds of the time that the notebook's 1,000 take
TRAINING = {"LEARNING_RATE": 3e-3, "EPOCHS": 2}  # chosen on validation, where a third epoch gains nothing
MAP = {  # of learning rates: the miniatures' best ones are larger than those of full-size models; half of the complaints
    "HEAD_RATES": [6.3e-4, 2e-3, 6.3e-3, 2e-2, 6.3e-2],
    "LORA_RATES": [2e-4, 6.3e-4, 2e-3, 6.3e-3, 2e-2],
    "FULL_RATES": [2e-5, 6.3e-5, 2e-4, 6.3e-4, 2e-3],
    "MAP_ROWS": 480,
}
LABELS = {  # few and small for speed; the miniatures' own learning rates, fixed on the validation of other seeds
    "LABELS": [8, 64, 256],
    "HEAD_RATE": 1e-2,
    "LORA_RATE": 3e-3,
    "FULL_RATE": 1e-3,
}
COMPUTING = {"DEVICE": "cpu", "PRECISION": "float32"}


def values(data: Path, models: dict[str, str], embedded: bool) -> dict[str, dict]:
    """Return {notebook: {parameter: value}} of a mini run on this data with these models.

    The settings of a training are for miniatures; another model keeps the notebook's. Of the embedded data the best accuracy
    that anyone can expect is known.
    """
    distilbert, gpt2 = ({kind.upper(): models[kind]} for kind in KINDS)
    training = {kind: COMPUTING | (TRAINING if is_mini(models[kind]) else {}) for kind in KINDS}
    known = {"CEILING": writer.ceiling()} if embedded else {}
    return {
        "01_data": {"DATASET": str(data), **distilbert, **gpt2} | (ROWS if embedded else {}),
        "02_test_data": distilbert | gpt2 | COMPUTING | known | {"MORE_ROWS": 150},  # of the 800 there are, for speed
        "03_distilbert_lora": distilbert | training["distilbert"],
        "04_gpt2_lora": gpt2 | training["gpt2"],
        "05_gpt2_qlora": gpt2 | training["gpt2"],
        "appendix_rates": MAP,
        "appendix_labels": LABELS if is_mini(models["distilbert"]) else {},
    }


def embedded_data(cache: Path) -> Path:
    """Return where the embedded complaints lie once they are written, in a file named by the writer's code and grammar."""
    code = code_of((HERE / "writer.py").read_text(encoding="utf-8")) + writer.GRAMMAR_FILE.read_text(encoding="utf-8")
    digest = hashlib.sha256(code.encode()).hexdigest()[:8]
    return cache / f"mini-complaints-{digest}.parquet"


def shipped_models() -> dict[str, Path]:
    """Return the folder of each miniature model that comes with the project, named by a hash of its weights."""
    return {kind: next(CHECKPOINTS.glob(f"mini-{kind}-*")) for kind in KINDS}


def prepare(
    dataset: Path | None,
    company: str,
    cache: Path,
    *,
    given: dict[str, str] | None = None,
    pretrain: int = 0,
    left_out: Path | None = None,
    make: bool = True,
) -> dict[str, dict]:
    """Return the values of a mini run; where `make` says so, what lacks of data and models is made, and kept in the cache.

    Without a data set the embedded complaints are written. The models are those given, {kind: checkpoint}, and otherwise the
    shipped ones or, with a number of steps to pretrain, new ones. These learn from the narratives of all companies but the
    study's, without those of the file `left_out`, so that no text of an evaluation is seen before it. ValueError says when
    those are too few.
    """
    data = dataset or embedded_data(cache)
    if make and not data.exists():
        writer.write_complaints(data)
    models = {kind: str(folder) for kind, folder in shipped_models().items()} | (given or {})
    for kind in [kind for kind in KINDS if pretrain and kind not in (given or {})]:
        models[kind] = str(find_or_pretrain(kind, pretrain, data, company, left_out, cache, make))
    return values(data, models, dataset is None)


def find_or_pretrain(
    kind: str, steps: int, data: Path, company: str, left_out: Path | None, cache: Path, make: bool
) -> Path:
    """Return the folder of a miniature model that has learned from this data, in the cache; pretrain it if it is not there.

    It lies in a folder named by what it was made from: the data's bytes, what was left out, the steps, code and libraries.
    """
    code = code_of((HERE / "pretrain.py").read_text(encoding="utf-8"))
    about = [
        company,
        steps,
        *(sha256(path) for path in (data, left_out) if path),
        *(importlib.metadata.version(name) for name in ("torch", "transformers", "tokenizers")),
    ]
    digest = hashlib.sha256((code + json.dumps(about)).encode()).hexdigest()[:8]
    folder = cache / f"pretrained-{digest}"
    for found in folder.glob(f"mini-{kind}-*"):
        return found
    if not make:
        return folder / f"mini-{kind}-not-made-yet"
    from mini import pretrain  # torch and transformers take seconds to import

    return pretrain.build(kind, other_narratives(data, company, left_out), folder, steps)


def other_narratives(data: Path, company: str, left_out: Path | None = None) -> list[str]:
    """Return the narratives of all companies but one that are not in the file `left_out`.

    ValueError says when there are too few to learn from.
    """
    columns = {"company": COMPANY, "text": NARRATIVE}
    texts: list[str] = []
    known: set[str] = set()
    for part in read(left_out, {"text": NARRATIVE}) if left_out else ():
        known.update(map(normalise, part.column("text").drop_null().to_pylist()))
    for part in read(data, columns):
        rows = part.to_pandas()
        rows = rows[(rows["company"] != company) & (rows["text"].fillna("").str.strip() != "")]
        texts += [text for text in rows["text"] if normalise(text) not in known]
    if len(texts) < FEWEST:
        raise ValueError(
            f"DATASET {data} has {len(texts)} narratives of companies other than {company}; --pretrain makes the miniature "
            f"models from those and needs {FEWEST}. Pass a larger file (-p DATASET PATH), or run without --pretrain."
        )
    return texts
