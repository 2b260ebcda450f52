"""The offline kit: complaints written for the occasion, and two miniature models pretrained on them."""

import hashlib
import importlib.metadata
import json
from pathlib import Path

import pandas as pd

from mini import complaints

HERE = Path(__file__).parent
COMPANY, NARRATIVE = "Company", "Consumer complaint narrative"
FEWEST = 200  # narratives that a pretraining takes
TRAINING = {"LEARNING_RATE": 3e-3, "EPOCHS": 2}  # chosen on validation, where a third epoch gains nothing


def prepare(dataset: Path | None, company: str, cache: Path) -> dict[str, dict]:
    """Return {notebook: {parameter: value}} for a mini run; data and models are made once and kept in the cache.

    Without a data set the embedded complaints are written. The models are pretrained on the narratives of all companies
    but the study's, so that no text of the study is seen before notebook 03. ValueError says when those are too few.
    """
    data = dataset or write_complaints(cache)
    models = {kind: find_or_pretrain(kind, data, company, cache) for kind in ("distilbert", "gpt2")}
    both = {"DISTILBERT": str(models["distilbert"]), "GPT2": str(models["gpt2"])}
    return {
        "01_data": {"DATASET": str(data), **both},
        "03_distilbert_lora": {"MODEL": str(models["distilbert"]), **TRAINING},
        "04_gpt2_lora": {"MODEL": str(models["gpt2"]), **TRAINING},
        "05_gpt2_qlora": {"MODEL": str(models["gpt2"]), **TRAINING},
        "controls": {"HEAD_RATE": 3e-3, "FULL_RATE": 3e-4},
    }


def write_complaints(cache: Path) -> Path:
    """Return the embedded complaints' file, named by what wrote it; write it unless the cache has it."""
    digest = hashlib.sha256((HERE / "complaints.py").read_bytes()).hexdigest()[:8]
    path = cache / f"mini-complaints-{digest}.parquet"
    return path if path.exists() else complaints.write_complaints(path)


def find_or_pretrain(kind: str, data: Path, company: str, cache: Path) -> Path:
    """Return the folder of the miniature model for this data; pretrain it first unless the cache has it.

    The folder is named by all that the model follows from: the data's bytes, the company left out, the code, the libraries.
    """
    code = (HERE / "models.py").read_bytes() + (HERE / "__init__.py").read_bytes()
    versions = [importlib.metadata.version(name) for name in ("torch", "transformers", "tokenizers")]
    digest = hashlib.sha256(data.read_bytes() + code + json.dumps([company, *versions]).encode()).hexdigest()[:8]
    folder = cache / f"mini-{kind}-{digest}"
    if not folder.exists():
        from mini import models  # torch and transformers take seconds to import

        models.build(kind, other_narratives(data, company), folder)
    return folder


def other_narratives(data: Path, company: str) -> list[str]:
    """Return the narratives of all companies but one; ValueError says when there are too few to learn from."""
    columns = [COMPANY, NARRATIVE]
    rows = (
        pd.read_csv(data, usecols=columns) if data.suffix.lower() == ".csv" else pd.read_parquet(data, columns=columns)
    )
    texts = rows.loc[rows[COMPANY] != company, NARRATIVE].dropna()
    texts = texts[texts.str.strip() != ""].tolist()
    if len(texts) < FEWEST:
        raise ValueError(
            f"DATASET {data} has {len(texts)} narratives of companies other than {company}; the miniature models are "
            f"pretrained on those and need {FEWEST}. Pass a larger file (-p DATASET PATH), or full-size models without --mini."
        )
    return texts
