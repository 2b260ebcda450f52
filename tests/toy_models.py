"""Toy checkpoints of a few thousand weights and letters to train them on, for several test files and their subprocesses."""

import os
import signal
from pathlib import Path

import pandas as pd
import torch
from peft import LoraConfig, get_peft_model
from stand_in_hub import write_distilbert, write_gpt2
from transformers import AutoTokenizer

from helpers.machine import Computing
from helpers.models import load_distilbert
from helpers.training import fit, training_arguments

LABELS = ("Mortgage", "Credit card or prepaid card")
CPU = Computing(torch.device("cpu"), torch.float32)
CARD, MORTGAGE = "my credit card was charged a fee", "the escrow on my mortgage was raised"


def tiny_distilbert(folder: Path) -> Path:
    """Return folder/tiny-distilbert, a masked language model with its tokenizer."""
    write_distilbert(folder / "tiny-distilbert", [CARD, MORTGAGE] * 50)
    return folder / "tiny-distilbert"


def tiny_gpt2(folder: Path) -> Path:
    """Return folder/tiny-gpt2, a bare base model with its tokenizer."""
    write_gpt2(folder / "tiny-gpt2", [CARD, MORTGAGE] * 50)
    return folder / "tiny-gpt2"


def some_letters(number=24):
    """Return so many letters of five lengths, every other one about a card."""
    texts = [f"{CARD if i % 2 else MORTGAGE} " * (1 + i % 5) for i in range(number)]
    return pd.DataFrame({"text": texts, "label": [i % 2 for i in range(number)]})


def train_adapter(
    checkpoint, folder, letters, seed=0, epochs=2, batch_size=8, dropout=0.0, rate=1e-2, before=None, computing=CPU
):
    """Train a tiny adapter; `before` is called with the batch before each pass through the model in training."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    config = LoraConfig(
        task_type="SEQ_CLS",
        r=2,
        lora_dropout=dropout,
        target_modules=["q_lin", "v_lin"],
        modules_to_save=["pre_classifier", "classifier"],
    )
    model = get_peft_model(load_distilbert(str(checkpoint), LABELS, seed), config)
    if before:
        model.register_forward_pre_hook(lambda m, _, batch: before(batch) if m.training else None, with_kwargs=True)
    arguments = training_arguments(folder, rate, epochs, batch_size, seed, computing)
    return model, tokenizer, fit(model, tokenizer, letters, letters, 64, arguments, computing).history


def dying_at(number):
    """Return a function that kills this process, as kill -9 does, when it is called for the so manieth time."""
    calls = iter(range(1, number + 1))
    return lambda _: os.kill(os.getpid(), signal.SIGKILL) if next(calls) == number else None
