"""Loading, training and scoring on toy checkpoints of a few thousand weights."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import LABELS
from modelling import (
    by_epoch,
    count_parameters,
    find_model,
    fit,
    load_distilbert,
    load_gpt2,
    load_gpt2_in_4_bits,
    load_gpt2_tokenizer,
    megabytes_by_part,
    predict,
    save_and_reload,
    tokenise,
    training_arguments,
    with_weights,
)
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from stand_in_hub import write_distilbert, write_gpt2
from transformers import AutoTokenizer

CARD, MORTGAGE = "my credit card was charged a fee", "the escrow on my mortgage was raised"


@pytest.fixture(scope="module")
def distilbert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-distilbert"
    write_distilbert(folder, [CARD, MORTGAGE] * 50)
    return folder


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-gpt2"
    write_gpt2(folder, [CARD, MORTGAGE] * 50)
    return folder


@pytest.fixture
def letters():
    texts = [f"{CARD if i % 2 else MORTGAGE} " * (1 + i % 5) for i in range(24)]
    return pd.DataFrame({"text": texts, "label": [i % 2 for i in range(24)]})


# --- which folder may be loaded


def test_a_checkpoint_of_the_right_architecture_is_found(distilbert, gpt2):
    assert find_model(str(distilbert), "none", "distilbert") == str(distilbert)
    assert find_model(str(gpt2), "none", "gpt2") == str(gpt2)


def test_another_architecture_is_refused_and_the_expected_layers_named(gpt2):
    with pytest.raises(ValueError, match=r"'gpt2' checkpoint.*'distilbert'.*q_lin, k_lin, v_lin, out_lin, lin1, lin2"):
        find_model(str(gpt2), "none", "distilbert")


def test_a_folder_without_a_tokenizer_is_refused(distilbert, tmp_path):
    shutil.copytree(distilbert, tmp_path / "bare")
    (tmp_path / "bare/tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        find_model(str(tmp_path / "bare"), "none", "distilbert")


def test_a_folder_that_is_no_checkpoint_or_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        find_model(str(tmp_path), "none", "gpt2")
    with pytest.raises(FileNotFoundError, match="not a folder"):
        find_model(str(tmp_path / "nowhere"), "none", "gpt2")


# --- what loading promises


def test_the_head_follows_the_seed_and_the_body_does_not(distilbert):
    one, same, other = (load_distilbert(str(distilbert), "none", seed) for seed in (1, 1, 2))
    assert torch.equal(one.classifier.weight, same.classifier.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)
    body = "distilbert.transformer.layer.0.attention.q_lin.weight"
    assert torch.equal(one.get_parameter(body), other.get_parameter(body))
    assert one.config.id2label == dict(enumerate(LABELS))


def test_right_padding_moves_no_logit_of_gpt2(gpt2):
    tokenizer = load_gpt2_tokenizer(str(gpt2), "none")
    model = load_gpt2(str(gpt2), "none", 0, tokenizer.pad_token_id)
    alone = predict(model, tokenizer, [CARD], 64)
    assert predict(model, tokenizer, [CARD, (MORTGAGE + " ") * 6], 64)[0] == pytest.approx(alone[0], abs=1e-6)
    tokenizer.padding_side = "left"
    assert abs(predict(model, tokenizer, [CARD, (MORTGAGE + " ") * 6], 64)[0] - alone[0]) > 1e-6


def test_predictions_come_back_in_the_order_of_the_texts(distilbert):
    tokenizer = AutoTokenizer.from_pretrained(distilbert)
    model = load_distilbert(str(distilbert), "none", 0)
    texts = [CARD, MORTGAGE * 4, "fee", CARD * 3, MORTGAGE]
    one_by_one = [predict(model, tokenizer, [text], 64)[0] for text in texts]
    assert np.allclose(predict(model, tokenizer, texts, 64, batch_size=2), one_by_one, atol=1e-6)
    assert len(set(np.round(one_by_one, 6))) == len(texts)


def test_the_body_in_four_bits_is_really_in_four_bits(gpt2):
    tokenizer = load_gpt2_tokenizer(str(gpt2), "none")
    full = load_gpt2(str(gpt2), "none", 0, tokenizer.pad_token_id)
    four = load_gpt2_in_4_bits(str(gpt2), "none", 0, tokenizer.pad_token_id)
    matrices = [w for name, w in four.named_parameters() if name.endswith("c_fc.weight")]
    assert len(matrices) == four.config.n_layer
    assert all(w.dtype == torch.uint8 and w.quant_state.quant_type == "nf4" and w.quant_state.nested for w in matrices)
    assert torch.equal(full.score.weight, four.score.weight) and four.score.weight.dtype == torch.float32
    assert count_parameters(full)["all"] == count_parameters(four)["all"]
    sizes = pd.DataFrame({"full": megabytes_by_part(full), "four": megabytes_by_part(four)})
    ratio = sizes["full"] / sizes["four"]
    assert 6 < ratio["blocks: matrices"] < 8 and ratio["embeddings"] == 1


def test_the_unused_copy_of_the_head_is_not_counted(distilbert):
    config = LoraConfig(
        task_type="SEQ_CLS", r=2, target_modules=["q_lin"], modules_to_save=["pre_classifier", "classifier"]
    )
    plain = count_parameters(load_distilbert(distilbert, None, 0))
    wrapped = count_parameters(get_peft_model(load_distilbert(distilbert, None, 0), config))
    assert wrapped["all"] == plain["all"] + wrapped["trained in the adapter"]
    assert 0 < wrapped["trained in the head"] < plain["all"] and wrapped["trained in the adapter"] > 0


# --- training


def train_adapter(checkpoint, folder, letters, seed=0):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    config = LoraConfig(
        task_type="SEQ_CLS", r=2, target_modules=["q_lin"], modules_to_save=["pre_classifier", "classifier"]
    )
    model = get_peft_model(load_distilbert(str(checkpoint), "none", seed), config)
    tokens = tokenise(letters, tokenizer, 64)
    log = fit(model, tokenizer, tokens, tokens, training_arguments(folder, 1e-2, 2, 8, seed))
    return model, tokenizer, log


def test_training_is_logged_by_epoch_and_the_adapter_comes_back_whole(distilbert, letters, tmp_path):
    model, tokenizer, log = train_adapter(distilbert, tmp_path / "checkpoints", letters)
    assert list(log) == ["training loss", "validation loss", "accuracy", "f1"] and log.index.tolist() == [1, 2]
    answers = predict(model, tokenizer, letters["text"], 64)
    fresh = load_distilbert(str(distilbert), "none", seed=9)
    size, reloaded = save_and_reload(model, fresh, tmp_path / "adapter", tmp_path / "checkpoints")
    assert np.allclose(predict(reloaded, tokenizer, letters["text"], 64), answers, atol=1e-6)
    assert size > 0 and not (tmp_path / "checkpoints").exists()
    assert {file.name for file in (tmp_path / "adapter").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_the_same_seed_gives_the_same_training_and_another_does_not(distilbert, letters, tmp_path):
    logs = [train_adapter(distilbert, tmp_path / str(i), letters, seed)[2] for i, seed in enumerate((1, 1, 2))]
    assert logs[0].equals(logs[1])
    assert not logs[0].equals(logs[2])


def test_the_log_keeps_whole_epochs_only():
    log = [
        {"epoch": 1, "loss": 0.7},
        {"epoch": 1, "eval_loss": 0.6, "eval_accuracy": 0.5, "eval_f1": 0.4},
        {"epoch": 2, "loss": 0.5},
    ]
    assert by_epoch(log).to_dict("index") == {
        1: {"training loss": 0.7, "validation loss": 0.6, "accuracy": 0.5, "f1": 0.4}
    }


@pytest.mark.parametrize("trained", ["head", "full"])
def test_what_was_trained_without_an_adapter_comes_back_whole(distilbert, letters, tmp_path, trained):
    tokenizer, model = AutoTokenizer.from_pretrained(distilbert), load_distilbert(str(distilbert), "none", 0)
    model.base_model.requires_grad_(trained == "full")
    tokens = tokenise(letters, tokenizer, 64)
    fit(model, tokenizer, tokens, tokens, training_arguments(tmp_path / "checkpoints", 1e-2, 1, 8, 0))
    answers = predict(model, tokenizer, letters["text"], 64)
    fresh = load_distilbert(str(distilbert), "none", seed=9)
    _, reloaded = save_and_reload(model, fresh, tmp_path / "model", tmp_path / "checkpoints")
    assert np.array_equal(predict(reloaded, tokenizer, letters["text"], 64), answers)
    saved = set(load_file(tmp_path / "model/trained.safetensors"))
    head = {name for name in saved if name.startswith(("pre_classifier", "classifier"))}
    assert len(head) == 4 and (saved == head) == (trained == "head")


def test_weights_of_another_model_are_refused(distilbert, gpt2, tmp_path):
    save_file({"score.weight": torch.zeros(2, 2)}, tmp_path / "trained.safetensors")
    with pytest.raises(ValueError, match=r"does not fit the base.*score\.weight"):
        with_weights(load_distilbert(str(distilbert), "none", 0), tmp_path)


def test_the_same_adapter_sits_on_four_bits_and_on_full_precision(gpt2, letters, tmp_path):
    tokenizer = load_gpt2_tokenizer(str(gpt2), "none")
    base = load_gpt2_in_4_bits(str(gpt2), "none", 0, tokenizer.pad_token_id)
    config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["c_attn", "c_proj"], modules_to_save=["score"])
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    answers = predict(model, tokenizer, letters["text"], 64)
    model.save_pretrained(tmp_path / "adapter")
    four = with_weights(load_gpt2_in_4_bits(str(gpt2), "none", 1, tokenizer.pad_token_id), tmp_path / "adapter")
    full = with_weights(load_gpt2(str(gpt2), "none", 1, tokenizer.pad_token_id), tmp_path / "adapter")
    assert np.allclose(predict(four, tokenizer, letters["text"], 64), answers, atol=1e-6)
    elsewhere = predict(full, tokenizer, letters["text"], 64)
    assert 1e-6 < abs(elsewhere - answers).max() < 0.2  # another body, and yet the same adapter
