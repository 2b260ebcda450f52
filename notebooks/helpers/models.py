"""The models of notebooks 03 to 06: how they are loaded, asked, counted, saved and put together again.

The DistilBERT loader, `in_batches` and `predict` are taught in 03, the GPT-2 loaders in 04 and 05.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from peft import LoraConfig, PeftConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BatchEncoding,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.pytorch_utils import Conv1D

from helpers import check
from helpers.files import MB, megabytes, write_folder_whole
from helpers.hub import find_model
from helpers.machine import Computing

# two libraries under torch keep a kernel for each shape of a product, a thousand by default: 500 MB after many batches in bfloat16
for kept in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(kept, "64")

# on recent cards torch prefers cuDNN's attention, which plans anew, for up to a second, for each new width of a batch
torch.backends.cuda.enable_cudnn_sdp(False)

WEIGHTS = "trained.safetensors"  # what was trained of a model without an adapter


def draw_head(seed: int, *layers: torch.nn.Linear) -> None:
    """Seed all random generators and draw new weights for the layers of a head.

    Whatever the checkpoint brought for them, they are drawn as the library draws a new
    head for either model: with a standard deviation of .02, and biases of zero. The CPU
    draws them, wherever the layer is: from the same seed a GPU draws other numbers.
    """
    set_seed(seed)
    for layer in layers:
        drawn = torch.empty(layer.weight.shape).normal_(std=0.02)
        layer.weight.data.copy_(drawn)
        if layer.bias is not None:
            torch.nn.init.zeros_(layer.bias)


def load_distilbert(checkpoint: str, labels: tuple[str, ...], seed: int) -> PreTrainedModel:
    """Return a pretrained DistilBERT, without dropout, with a new, seeded head."""
    model = AutoModelForSequenceClassification.from_pretrained(
        checkpoint,
        use_safetensors=True,
        dtype=torch.float32,
        num_labels=2,
        id2label=dict(enumerate(labels)),
        label2id={name: i for i, name in enumerate(labels)},
        ignore_mismatched_sizes=True,
        dropout=0.0,
        attention_dropout=0.0,
    )
    draw_head(seed, model.pre_classifier, model.classifier)
    return model


def load_gpt2_tokenizer(checkpoint: str) -> PreTrainedTokenizerBase:
    """Return GPT-2's tokenizer, padding on the right, with its end-of-text token."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def load_gpt2(
    checkpoint: str,
    labels: tuple[str, ...],
    seed: int,
    pad_token_id: int | None,
    quantization_config: BitsAndBytesConfig | None = None,
) -> PreTrainedModel:
    """Return a pretrained GPT-2, without dropout, with a new, seeded head.

    Its blocks' matrices are in 4 bits if a config says so.
    """
    model = AutoModelForSequenceClassification.from_pretrained(
        checkpoint,
        use_safetensors=True,
        dtype=torch.float32,
        quantization_config=quantization_config,
        num_labels=2,
        id2label=dict(enumerate(labels)),
        label2id={name: i for i, name in enumerate(labels)},
        ignore_mismatched_sizes=True,
        pad_token_id=pad_token_id,
        activation_function="gelu_pytorch_tanh",
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
    )
    draw_head(seed, model.score)
    return model


def load_gpt2_in_4_bits(
    checkpoint: str, labels: tuple[str, ...], seed: int, pad_token_id: int, precision: torch.dtype
) -> PreTrainedModel:
    """Return notebook 04's GPT-2 with the matrices of its blocks in NF4.

    Its layers restore them to the precision given, which is what they compute in.
    """
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=precision,
        llm_int8_skip_modules=["score"],
    )
    model = load_gpt2(checkpoint, labels, seed, pad_token_id, quantization)
    check(model.is_loaded_in_4bit, "the base model is not in 4 bits")
    for layer in model.modules():
        if isinstance(layer, bnb.nn.Linear4bit):
            layer.support_avx512bf16_for_cpu = False
    return model


def load_pretrained(record: Mapping[str, Any]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model that a record names as it was pretrained, without any head for classes, and its tokenizer.

    The record's `model` is distilbert or gpt2, which has its language-model head, `checkpoint` and `revision` say where it
    lies. ValueError when it has fewer positions than `max_tokens`.
    """
    checkpoint = find_model(record["checkpoint"], record["revision"], record["model"], record["max_tokens"])
    given = {"use_safetensors": True, "dtype": torch.float32}
    if record["model"] == "distilbert":
        return AutoModel.from_pretrained(checkpoint, **given), AutoTokenizer.from_pretrained(checkpoint)
    given |= {"activation_function": "gelu_pytorch_tanh", "use_cache": False}
    return AutoModelForCausalLM.from_pretrained(checkpoint, **given), load_gpt2_tokenizer(checkpoint)


def load_base(
    record: Mapping[str, Any], labels: tuple[str, ...], seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the base model that a training's record names, its head drawn anew with the seed, and its tokenizer.

    The record's `model` is distilbert or gpt2, `checkpoint` and `revision` say where it lies, `bits` how it is stored: with 4
    its layers restore the weights to the record's `precision`.
    """
    checkpoint = find_model(record["checkpoint"], record["revision"], record["model"])
    if record["model"] == "distilbert":
        return load_distilbert(checkpoint, labels, seed), AutoTokenizer.from_pretrained(checkpoint)
    tokenizer = load_gpt2_tokenizer(checkpoint)
    if record["bits"] == 4:
        precision = getattr(torch, record["precision"])
        return load_gpt2_in_4_bits(checkpoint, labels, seed, tokenizer.pad_token_id, precision), tokenizer
    return load_gpt2(checkpoint, labels, seed, tokenizer.pad_token_id), tokenizer


def load_trained(record: Mapping[str, Any], labels: tuple[str, ...]) -> tuple[torch.nn.Module, PreTrainedTokenizerBase]:
    """Return a training's fresh base model (see load_base) with what was trained on it, and its tokenizer."""
    model, tokenizer = load_base(record, labels, record["seed"])
    return with_weights(model, record["weights"]), tokenizer


def distilbert_adapter(rank: int, alpha: int, dropout: float) -> LoraConfig:
    """Return the LoRA configuration for DistilBERT.

    Adapters sit on all matrices of its blocks; the head is trained in full.
    """
    return LoraConfig(
        task_type="SEQ_CLS",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"],
        modules_to_save=["pre_classifier", "classifier"],
    )


def gpt2_adapter(rank: int, alpha: int, dropout: float, bits: int = 32) -> LoraConfig:
    """Return the LoRA configuration for GPT-2, a base model stored in so many bits."""
    return LoraConfig(
        task_type="SEQ_CLS",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=["c_attn", "c_proj", "c_fc"],
        modules_to_save=["score"],
        fan_in_fan_out=bits == 32,
    )


def tokenise(table: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Dataset:
    """Return token ids, truncated but not padded, attention masks and labels."""
    tokens = tokenizer(table["text"].tolist(), truncation=True, max_length=max_tokens)
    return Dataset.from_dict({**tokens, "labels": table["label"].tolist()})


def in_batches(
    compute: Callable[[BatchEncoding], torch.Tensor],
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    max_tokens: int,
    computing: Computing,
    ending: Sequence[int] = (),
) -> np.ndarray:
    """Return what compute makes of each text, in the texts' order, shape (texts, ...).

    It is given a padded batch of token ids: each text, truncated, and the ending after
    it. A window of texts at a time is tokenised, which keeps the memory small, and read
    from long to short, so that little is padded, as many at a time as a budget of tokens
    allows.
    """
    device, precision = computing
    # a CPU is fastest where a batch fits into its caches
    budget = 32_768 if device.type == "cuda" else 2_048
    mixed = torch.autocast(device.type, precision, enabled=precision != torch.float32)
    model.to(device).eval()
    texts, limit = list(texts), max_tokens - len(ending)
    found: list = [None] * len(texts)
    with torch.inference_mode(), mixed:
        for window in range(0, len(texts), 2_000):
            part = texts[window : window + 2_000]
            tokens = tokenizer(part, truncation=True, max_length=limit)["input_ids"]
            # GPT-2 has no token for an empty text
            tokens = [[*ids, *ending] or [tokenizer.pad_token_id] for ids in tokens]
            order = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))
            while order:
                number = max(1, budget // len(tokens[order[0]]))
                chosen, order = order[:number], order[number:]
                ids = {"input_ids": [tokens[i] for i in chosen]}
                batch = tokenizer.pad(ids, return_tensors="pt").to(device)
                for i, value in zip(chosen, compute(batch).cpu().numpy(), strict=True):
                    found[window + i] = value
    return np.array(found)


def predict(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    max_tokens: int,
    computing: Computing,
) -> np.ndarray:
    """Return each text's probability of class 1, shape (texts,)."""

    def probability(batch: BatchEncoding) -> torch.Tensor:
        return model(**batch).logits.double().softmax(dim=1)[:, 1]

    return in_batches(probability, model, tokenizer, texts, max_tokens, computing)


def count_parameters(model: torch.nn.Module) -> pd.Series:
    """Return how many weights there are and how many are trained, by part; 4-bit weights count in full.

    peft keeps an unused copy of a head that is trained, under `original_module`; it is left out.
    """
    counts = {"all": 0, "trained in the adapter": 0, "trained in the head": 0, "trained in the base model": 0}
    for name, weight in model.named_parameters():
        if "original_module" in name:
            continue
        size = weight.quant_state.shape.numel() if getattr(weight, "quant_state", None) is not None else weight.numel()
        counts["all"] += size
        if weight.requires_grad:
            part = "adapter" if "lora_" in name else "head" if "classifier" in name or "score" in name else "base model"
            counts[f"trained in the {part}"] += size
    return pd.Series(counts)


def save_trained(model: torch.nn.Module, folder: Path) -> None:
    """Save what was trained of the model into the folder: its adapter with the head, or plain weights."""
    if isinstance(model, PeftModel):
        model.save_pretrained(folder, save_embedding_layers=False)
    else:
        save_file({name: w for name, w in model.named_parameters() if w.requires_grad}, folder / WEIGHTS)


def save_and_reload(model: torch.nn.Module, fresh: PreTrainedModel, folder: Path) -> tuple[float, torch.nn.Module]:
    """Save what was trained into the folder, whole or not at all.

    Return the size on disk in MB and the model as it comes back from the folder onto the fresh base.
    """
    write_folder_whole(folder, lambda temporary: save_trained(model, temporary))
    return megabytes(folder), with_weights(fresh, folder)


def with_weights(fresh: PreTrainedModel, folder: Path) -> torch.nn.Module:
    """Return the fresh base with what save_and_reload has saved put on it: an adapter with its head, or plain weights."""
    if not (folder / WEIGHTS).exists():
        config = PeftConfig.from_pretrained(folder)
        config.fan_in_fan_out = any(
            isinstance(layer, Conv1D) for layer in fresh.modules()
        )  # as the base model is stored now
        return PeftModel.from_pretrained(fresh, folder, config=config)
    trained = load_file(folder / WEIGHTS)
    unknown = fresh.load_state_dict(trained, strict=False).unexpected_keys
    if unknown or not trained:
        raise ValueError(f"{folder / WEIGHTS} does not fit the base: {unknown or 'it is empty'}. Train it again.")
    return fresh


def megabytes_by_part(model: torch.nn.Module) -> pd.Series:
    """Return the size in MB of a GPT-2's embeddings, block matrices (their scales included), the blocks' rest, and head."""
    sizes = dict.fromkeys(["embeddings", "blocks: matrices", "norms and biases", "head"], 0)
    for name, weight in model.named_parameters():
        is_matrix = name.startswith("transformer.h.") and name.endswith("weight") and "ln_" not in name
        embedded = "embeddings" if ".wte." in name or ".wpe." in name else "norms and biases"
        part = "head" if name.startswith("score") else "blocks: matrices" if is_matrix else embedded
        sizes[part] += weight.nbytes
        state = getattr(weight, "quant_state", None)
        if state is not None:
            sizes[part] += state.absmax.nbytes + (state.state2.absmax.nbytes if state.nested else 0)
    return pd.Series(sizes) / MB
