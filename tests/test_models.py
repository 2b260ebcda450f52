"""Models on toy checkpoints of a few thousand weights: which are loaded, what they answer, what comes back from a file."""

import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from toy_models import CARD, CPU, LABELS, MORTGAGE, some_letters, tiny_distilbert, tiny_gpt2, train_adapter
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.modeling_outputs import SequenceClassifierOutput

from helpers.hub import find_model, was_fine_tuned
from helpers.models import (
    count_parameters,
    draw_head,
    in_batches,
    load_base,
    load_distilbert,
    load_gpt2,
    load_gpt2_in_4_bits,
    load_gpt2_tokenizer,
    megabytes_by_part,
    predict,
    save_and_reload,
    with_weights,
)
from helpers.training import fit, training_arguments


@pytest.fixture(scope="module")
def distilbert(tmp_path_factory):
    return tiny_distilbert(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return tiny_gpt2(tmp_path_factory.mktemp("models"))


@pytest.fixture
def letters():
    return some_letters()


# --- which folder may be loaded


def test_a_checkpoint_of_the_right_architecture_is_found(distilbert, gpt2):
    assert find_model(str(distilbert), "none", "distilbert") == str(distilbert)
    assert find_model(str(gpt2), "none", "gpt2") == str(gpt2)


def test_another_architecture_is_refused_and_the_expected_one_named(gpt2):
    with pytest.raises(ValueError, match=r"'gpt2' checkpoint.*'distilbert'.*-p DISTILBERT"):
        find_model(str(gpt2), "none", "distilbert")


def test_a_folder_without_a_tokenizer_is_refused(distilbert, tmp_path):
    shutil.copytree(distilbert, tmp_path / "bare")
    (tmp_path / "bare/tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        find_model(str(tmp_path / "bare"), "none", "distilbert")


def test_a_folder_that_is_no_checkpoint_or_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        find_model(str(tmp_path), "none", "gpt2")
    (tmp_path / "config.json").write_text('{"model_type": "gp')
    with pytest.raises(ValueError, match=r"config\.json that cannot be read"):
        find_model(str(tmp_path), "none", "gpt2")
    with pytest.raises(FileNotFoundError, match="not a folder"):
        find_model(str(tmp_path / "nowhere"), "none", "gpt2")


def test_more_tokens_than_positions_are_refused_before_anything_trains(distilbert, gpt2):
    for folder, architecture, positions in ((distilbert, "distilbert", 512), (gpt2, "gpt2", 1024)):
        assert find_model(str(folder), "none", architecture, positions) == str(folder)
        name = architecture.upper()
        with pytest.raises(
            ValueError, match=f"MAX_TOKENS {positions + 1} .*{name} .*-p MAX_TOKENS {positions}, .*-p {name} PATH"
        ):
            find_model(str(folder), "none", architecture, positions + 1)


def test_a_checkpoint_that_was_fine_tuned_is_known_by_its_head(distilbert, gpt2, tmp_path):
    assert not was_fine_tuned(str(distilbert)) and not was_fine_tuned(str(gpt2))
    AutoModelForSequenceClassification.from_pretrained(distilbert, num_labels=5).save_pretrained(tmp_path)
    assert was_fine_tuned(str(tmp_path))


class Bomb:
    """Leaves a file when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def test_weights_offered_as_a_pickle_are_refused_and_nothing_in_them_is_executed(distilbert, tmp_path):
    folder, trace = tmp_path / "bomb", tmp_path / "executed"
    shutil.copytree(distilbert, folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(ValueError, match=r"no weights in a \.safetensors file.*may hold code and is never loaded"):
        find_model(str(folder), "none", "distilbert")
    with pytest.raises(OSError, match="safetensors"):
        load_distilbert(str(folder), LABELS, 0)
    assert not trace.exists()
    pickle.loads((folder / "pytorch_model.bin").read_bytes())
    assert trace.exists()  # it would have been


def test_an_adapter_offered_as_a_pickle_is_refused_and_nothing_in_it_is_executed(distilbert, letters, tmp_path):
    model, *_ = train_adapter(distilbert, tmp_path / "checkpoints", letters, epochs=1)
    model.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter/adapter_model.safetensors").unlink()
    (tmp_path / "adapter/adapter_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    with pytest.raises(pickle.UnpicklingError):
        PeftModel.from_pretrained(load_distilbert(str(distilbert), LABELS, 0), tmp_path / "adapter")
    assert not (tmp_path / "executed").exists()


# --- what loading promises


def test_the_head_follows_the_seed_and_the_body_does_not(distilbert):
    one, same, other = (load_distilbert(str(distilbert), LABELS, seed) for seed in (1, 1, 2))
    assert torch.equal(one.classifier.weight, same.classifier.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)
    body = "distilbert.transformer.layer.0.attention.q_lin.weight"
    assert torch.equal(one.get_parameter(body), other.get_parameter(body))
    assert one.config.id2label == dict(enumerate(LABELS))


def test_a_head_is_drawn_by_the_cpu_wherever_it_is():
    drawn = []
    for device in ("cpu", "meta"):  # on meta, as on a card, a layer's own draws leave the CPU's generator alone
        draw_head(3, torch.nn.Linear(4, 2, device=device))
        drawn.append(torch.rand(1))
    assert torch.equal(*drawn)


def test_attention_is_not_left_to_a_library_that_plans_for_each_width():
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("kind", ["distilbert", "gpt2"])
def test_a_checkpoint_that_was_fine_tuned_before_gets_a_new_head_all_the_same(kind, classes, request, tmp_path):
    plain = str(request.getfixturevalue(kind))
    used = AutoModelForSequenceClassification.from_pretrained(plain, num_labels=classes, pad_token_id=0)
    head = "classifier.weight" if kind == "distilbert" else "score.weight"
    torch.nn.init.constant_(used.get_parameter(head), 7.0)
    used.save_pretrained(tmp_path)
    shutil.copy(Path(plain) / "tokenizer.json", tmp_path)
    shutil.copy(Path(plain) / "tokenizer_config.json", tmp_path)
    record = {"model": kind, "bits": 32, "revision": ""}
    models = [load_base(record | {"checkpoint": str(folder)}, LABELS, 3)[0] for folder in (plain, tmp_path)]
    assert torch.equal(*(model.get_parameter(head) for model in models))
    assert models[1].get_parameter(head).shape[0] == 2 and models[1].get_parameter(head).abs().max() < 1


def test_gpt2_predicts_for_an_empty_text_too(gpt2):
    tokenizer = load_gpt2_tokenizer(str(gpt2))
    model = load_gpt2(str(gpt2), LABELS, 0, tokenizer.pad_token_id)
    alone = predict(model, tokenizer, [""], 64, CPU)
    assert predict(model, tokenizer, [CARD, "", MORTGAGE], 64, CPU)[1] == pytest.approx(alone[0], abs=1e-6)


def test_predictions_are_the_same_over_several_windows_of_texts(distilbert):
    tokenizer, model = AutoTokenizer.from_pretrained(distilbert), load_distilbert(distilbert, LABELS, 0)
    four = [CARD, MORTGAGE, f"{CARD} {MORTGAGE}", "fee"]
    whole = predict(model, tokenizer, four * 1_001, 64, CPU)  # 4,004 texts: three windows, the last of four
    assert whole.shape == (4_004,) and np.allclose(
        whole.reshape(-1, 4), predict(model, tokenizer, four, 64, CPU), atol=1e-6
    )


def test_right_padding_moves_no_logit_of_gpt2(gpt2):
    tokenizer = load_gpt2_tokenizer(str(gpt2))
    model = load_gpt2(str(gpt2), LABELS, 0, tokenizer.pad_token_id)
    alone = predict(model, tokenizer, [CARD], 64, CPU)
    assert predict(model, tokenizer, [CARD, (MORTGAGE + " ") * 6], 64, CPU)[0] == pytest.approx(alone[0], abs=1e-6)
    tokenizer.padding_side = "left"
    assert abs(predict(model, tokenizer, [CARD, (MORTGAGE + " ") * 6], 64, CPU)[0] - alone[0]) > 1e-6


def test_predictions_come_back_in_the_order_of_the_texts(distilbert, monkeypatch):
    tokenizer, model = AutoTokenizer.from_pretrained(distilbert), load_distilbert(distilbert, LABELS, 0)
    words = [1 + 7 * i % 60 for i in range(60)]  # each number once; two batches on a CPU

    def count(attention_mask, **_):
        """Answer with the number of tokens, so that each text has an answer of its own, in any precision."""
        votes = attention_mask.sum(dim=1, dtype=torch.float32) - 32
        return SequenceClassifierOutput(logits=torch.stack([torch.zeros_like(votes), votes / 4], dim=1))

    monkeypatch.setattr(model, "forward", count)
    texts = ["card " * n for n in words]
    tokens = np.array([len(tokenizer(text)["input_ids"]) for text in texts])
    assert len(set(tokens)) == 60
    assert predict(model, tokenizer, texts, 64, CPU) == pytest.approx(1 / (1 + np.exp((32 - tokens) / 4)), abs=5e-3)


def test_a_batch_is_as_many_texts_as_a_budget_of_tokens_allows(distilbert):
    tokenizer, model = AutoTokenizer.from_pretrained(distilbert), load_distilbert(distilbert, LABELS, 0)
    shapes = []

    def note(batch):
        shapes.append(tuple(batch["input_ids"].shape))
        return torch.zeros(len(batch["input_ids"]))

    texts = ["card " * (1 + i % 60) for i in range(600)] + ["card " * 3000]
    assert in_batches(note, model, tokenizer, texts, 4_000, CPU).shape == (601,)
    assert shapes[0] == (1, 3_002)  # one text, however long it is
    assert sum(number for number, _ in shapes) == 601 and len(shapes) > 9
    assert all(number == 2_048 // width for number, width in shapes[1:-1])


@pytest.mark.parametrize("kind", ["distilbert", "gpt2"])
def test_what_makes_it_fast_moves_answers_and_gradients_by_rounding_only(kind, request):
    folder = str(request.getfixturevalue(kind))
    fast, tokenizer = load_base({"model": kind, "bits": 32, "checkpoint": folder, "revision": ""}, LABELS, 0)
    plain = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=2, attn_implementation="eager", pad_token_id=tokenizer.pad_token_id
    )
    plain.load_state_dict(fast.state_dict())
    texts, labels = [CARD, f"{CARD} {MORTGAGE}", MORTGAGE], torch.tensor([1, 1, 0])
    alone = [tokenizer(text, return_tensors="pt") for text in texts]
    with torch.inference_mode():
        answers = [plain(**one).logits.softmax(dim=1)[0, 1].item() for one in alone]
    assert predict(fast, tokenizer, texts, 64, CPU) == pytest.approx(answers, abs=1e-6)
    fast(**tokenizer(texts, padding=True, return_tensors="pt"), labels=labels).loss.backward()
    for one, label in zip(alone, labels, strict=True):
        (plain(**one, labels=label[None]).loss / len(texts)).backward()
    pairs = [(a, b) for a, b in zip(fast.parameters(), plain.parameters(), strict=True) if b.grad is not None]
    assert len(pairs) > 20 and max(b.grad.abs().max() for _, b in pairs) > 1e-2
    assert all(torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-5) for a, b in pairs)


def test_the_body_in_four_bits_is_really_in_four_bits(gpt2):
    tokenizer = load_gpt2_tokenizer(str(gpt2))
    full = load_gpt2(str(gpt2), LABELS, 0, tokenizer.pad_token_id)
    four = load_gpt2_in_4_bits(str(gpt2), LABELS, 0, tokenizer.pad_token_id, torch.float32)
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
    plain = count_parameters(load_distilbert(distilbert, LABELS, 0))
    wrapped = count_parameters(get_peft_model(load_distilbert(distilbert, LABELS, 0), config))
    assert wrapped["all"] == plain["all"] + wrapped["trained in the adapter"]
    assert 0 < wrapped["trained in the head"] < plain["all"] and wrapped["trained in the adapter"] > 0
    assert wrapped["trained in the base model"] == 0 and plain["trained in the head"] == wrapped["trained in the head"]
    assert plain["all"] == plain["trained in the head"] + plain["trained in the base model"]


# --- what was saved comes back


@pytest.mark.parametrize("trained", ["head", "full"])
def test_what_was_trained_without_an_adapter_comes_back_whole(distilbert, letters, tmp_path, trained):
    tokenizer, model = AutoTokenizer.from_pretrained(distilbert), load_distilbert(str(distilbert), LABELS, 0)
    model.base_model.requires_grad_(trained == "full")
    arguments = training_arguments(tmp_path / "checkpoints", 1e-2, 1, 8, 0, CPU)
    answers = fit(model, tokenizer, letters, letters, 64, arguments, CPU).probability
    fresh = load_distilbert(str(distilbert), LABELS, seed=9)
    _, reloaded = save_and_reload(model, fresh, tmp_path / "model")
    assert np.array_equal(predict(reloaded, tokenizer, letters["text"], 64, CPU), answers)
    saved = set(load_file(tmp_path / "model/trained.safetensors"))
    head = {name for name in saved if name.startswith(("pre_classifier", "classifier"))}
    assert len(head) == 4 and (saved == head) == (trained == "head")


def test_weights_of_another_model_are_refused(distilbert, gpt2, tmp_path):
    save_file({"score.weight": torch.zeros(2, 2)}, tmp_path / "trained.safetensors")
    with pytest.raises(ValueError, match=r"does not fit the base.*score\.weight"):
        with_weights(load_distilbert(str(distilbert), LABELS, 0), tmp_path)


def test_the_same_adapter_sits_on_four_bits_and_on_full_precision(gpt2, letters, tmp_path):
    tokenizer = load_gpt2_tokenizer(str(gpt2))
    base = load_gpt2_in_4_bits(str(gpt2), LABELS, 0, tokenizer.pad_token_id, torch.float32)
    config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["c_attn", "c_proj"], modules_to_save=["score"])
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    answers = predict(model, tokenizer, letters["text"], 64, CPU)
    model.save_pretrained(tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*fan_in_fan_out")  # how each body stores its matrices is told
        four = with_weights(
            load_gpt2_in_4_bits(str(gpt2), LABELS, 1, tokenizer.pad_token_id, torch.float32), tmp_path / "adapter"
        )
        full = with_weights(load_gpt2(str(gpt2), LABELS, 1, tokenizer.pad_token_id), tmp_path / "adapter")
    assert np.allclose(predict(four, tokenizer, letters["text"], 64, CPU), answers, atol=1e-6)
    elsewhere = predict(full, tokenizer, letters["text"], 64, CPU)
    assert 1e-6 < abs(elsewhere - answers).max() < 0.2  # another body, and yet the same adapter
