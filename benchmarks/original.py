"""The original study's recipe, written down apart from the series: what it is measured against.

Every text is padded to the longest that the model reads, training is in 32 bits, and the base model's dropout stays as the
checkpoint has it. Attention is left to transformers, as the study left it: today that is torch's fused attention, which
dropout keeps off its fast path. QLoRA computes in bfloat16 as the study did, but in 32 bits where the hardware has none.
"""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training

from helpers.machine import choose_computing


@dataclass(frozen=True)
class Recipe:
    """One of the study's three trainings."""

    model: str  # distilbert or gpt2
    rank: int
    alpha: int
    targets: tuple[str, ...]
    max_tokens: int
    batch_size: int
    accumulation: int
    epochs: int
    bits: int = 32  # in which the base model is stored


DISTILBERT_LAYERS = ("q_lin", "k_lin", "v_lin", "out_lin")
GPT2_LAYERS = ("c_attn", "c_proj", "c_fc")
RECIPES = {
    "distilbert_lora": Recipe("distilbert", 8, 16, DISTILBERT_LAYERS, 512, 16, 4, 11),
    "gpt2_lora": Recipe("gpt2", 6, 32, GPT2_LAYERS, 1024, 8, 4, 10),
    "gpt2_qlora": Recipe("gpt2", 6, 32, GPT2_LAYERS, 1024, 8, 4, 10, bits=4),
}


def load(kind: str, checkpoint: str, seed: int = 42) -> tuple[PeftModel, transformers.PreTrainedTokenizerBase]:
    """Return the study's model with its adapter, and its tokenizer."""
    recipe = RECIPES[kind]
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    if recipe.model == "gpt2":
        tokenizer.pad_token = tokenizer.eos_token
    transformers.set_seed(seed)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        checkpoint,
        num_labels=2,
        dtype=torch.float32,
        quantization_config=in_4_bits() if recipe.bits == 4 else None,
        pad_token_id=tokenizer.pad_token_id,
    )
    if recipe.bits == 4:
        model = prepare_model_for_kbit_training(model)  # gradient checkpointing included
    return get_peft_model(model, adapter(recipe)), tokenizer


def in_4_bits() -> transformers.BitsAndBytesConfig:
    """Return how the study quantised: double NF4 but for the head, computing in bfloat16 where the hardware has it."""
    precision = choose_computing("auto", "auto").precision
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32 if precision == torch.float32 else torch.bfloat16,
        llm_int8_skip_modules=["score"],
    )


def adapter(recipe: Recipe) -> LoraConfig:
    """Return the study's LoRA configuration."""
    return LoraConfig(
        task_type="SEQ_CLS",
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=0.1,
        target_modules=list(recipe.targets),
        fan_in_fan_out=recipe.model == "gpt2" and recipe.bits == 32,
    )


def tokenise(table: pd.DataFrame, tokenizer: transformers.PreTrainedTokenizerBase, max_tokens: int) -> Dataset:
    """Return the texts as token ids, every one of them filled up to max_tokens."""
    tokens = tokenizer(table["text"].tolist(), truncation=True, padding="max_length", max_length=max_tokens)
    return Dataset.from_dict({**tokens, "labels": table["label"].tolist()})


def training_arguments(kind: str, folder: Path, seed: int = 42) -> transformers.TrainingArguments:
    """Return the study's settings of a training."""
    recipe = RECIPES[kind]
    return transformers.TrainingArguments(
        output_dir=str(folder),
        seed=seed,
        learning_rate=2e-5,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.accumulation,
        gradient_checkpointing=recipe.bits == 4,
        optim="adamw_torch",
        weight_decay=0.01,
        label_names=["labels"],
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to="none",
    )
