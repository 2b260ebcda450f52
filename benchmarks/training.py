"""Row 1, training: letters a second, peak memory, padding, and the share of the machine's own matrix rate.

A whole epoch of the study's recipe takes hours on a processor, so a few batches are timed, by the Trainer's own loop. Its
batches are all alike. The series' batches differ in width, so the epoch's batches, as the Trainer's sampler draws them,
are sorted by width and cut into as many parts as are timed; the middle one of each part stands for it. One batch more is
run first and not counted.
"""

import dataclasses
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding, Trainer, TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from benchmarks import pages, series, study
from helpers import models, training
from helpers.machine import choose_computing

TIMED = 3  # batches; with the first, uncounted one this is one step of the study's, which adds up four batches


@dataclass(frozen=True)
class Shape:
    """What the operations of a training follow from: the model's blocks and the adapters in them."""

    layers: int
    width: int
    inner: int  # of the two layers that process each token by itself
    causal: bool  # a token looks at itself and those before it only
    adapters: int  # weights of all adapters


def operations(shape: Shape, tokens: int) -> int:
    """Return the floating-point operations (a product and its sum are two) of one training step on one text.

    Counted are the matrices of the blocks forward and, as they are frozen, backward to their inputs alone (not in the
    first block's query, key and value, below which nothing is trained); the adapters forward, and backward to inputs and
    weights; attention's two products forward and four backward, half of each where it is causal. Embeddings, head, norms
    and activations are left out, and so is what is computed twice to save memory.
    """
    matrices = 4 * shape.width**2 + 2 * shape.width * shape.inner
    forward = 2 * tokens * (shape.layers * matrices + shape.adapters)
    backward = 2 * tokens * (shape.layers * matrices - 3 * shape.width**2 + 2 * shape.adapters)
    pairs = tokens * (tokens + 1) // 2 if shape.causal else tokens**2
    return forward + backward + shape.layers * (2 + 4) * 2 * pairs * shape.width


def shape_of(model) -> Shape:
    """Return the shape of a DistilBERT or GPT-2 with adapters."""
    config = model.config
    adapters = sum(weight.numel() for name, weight in model.named_parameters() if "lora_" in name)
    if config.model_type == "distilbert":
        return Shape(config.n_layers, config.dim, config.hidden_dim, causal=False, adapters=adapters)
    return Shape(config.n_layer, config.n_embd, config.n_inner or 4 * config.n_embd, causal=True, adapters=adapters)


def padded_per_real(batches: list[list[int]], widths: list[int]) -> float:
    """Return the tokens computed per real one; a batch is the lengths of its texts, each filled up to the batch's width."""
    return sum(len(batch) * width for batch, width in zip(batches, widths, strict=True)) / sum(map(sum, batches))


def stratified(items: list, parts: int) -> list:
    """Return the middle item of each of that many parts, about equally long, of the list."""
    return [items[(2 * part + 1) * len(items) // (2 * parts)] for part in range(parts)]


def matrix_rate(device: torch.device, precision: torch.dtype, seconds: float = 1.0) -> float:
    """Return the operations a second of products of square matrices 2,048 wide, the median of those that fit the time."""
    one, other = (torch.randn(2048, 2048, device=device).to(precision) for _ in range(2))
    rates, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(rates) < 3:
        started = time.perf_counter()
        one @ other
        if device.type == "cuda":
            torch.cuda.synchronize()
        rates.append(2 * 2048**3 / (time.perf_counter() - started))
    return statistics.median(rates)


class Clock(TrainerCallback):
    """Notes the seconds that each batch took, forward and backward and, where one is due, the optimiser's step."""

    def __init__(self):
        self.seconds = []

    def on_step_begin(self, *_, **__):
        self.since = time.perf_counter()

    def on_substep_end(self, *_, **__):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self.since)
        self.since = now

    on_step_end = on_substep_end


def timed(model, tokenizer, arguments, tokens: Dataset, batches: list[list[int]]) -> list[float]:
    """Return the seconds of each batch (the rows of its texts) after the first, as the Trainer trains on them in order."""
    clock, count = Clock(), arguments.gradient_accumulation_steps
    only = {"train_sampling_strategy": "sequential", "eval_strategy": "no", "save_strategy": "no"}
    only |= {"load_best_model_at_end": False, "num_train_epochs": 1, "max_steps": -(-len(batches) // count)}
    rows = tokens.select([row for batch in batches for row in batch])
    trainer = Trainer(
        model,
        dataclasses.replace(arguments, **only),
        DataCollatorWithPadding(tokenizer),
        rows,
        callbacks=[clock],
    )
    trainer.train()
    return clock.seconds[1:]


def train_a_few(side: str, kind: str, checkpoint: str, data: str, company: str, batch_size: int | None) -> dict:
    """Return letters a second, padding, and the share of the matrix rate, of the first batches of a training."""
    given, recipe = pages.values(kind), study.RECIPES[kind]
    size = batch_size or (recipe.batch_size if side == "study" else given["BATCH_SIZE"])
    train, _ = pages.letters(data, company)
    computing = choose_computing("auto", "auto")
    with tempfile.TemporaryDirectory() as folder:
        if side == "study":
            model, tokenizer = study.load(kind, checkpoint)
            cut = min(recipe.max_tokens, model.config.max_position_embeddings)
            tokens = study.tokenise(train, tokenizer, cut)
            arguments = study.training_arguments(kind, Path(folder))
            order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tolist()
        else:
            model, tokenizer = series.load(kind, checkpoint)
            cut = min(given["MAX_TOKENS"], model.config.max_position_embeddings)
            tokens = models.tokenise(train, tokenizer, cut)
            arguments = training.training_arguments(
                Path(folder), given["LEARNING_RATE"], 1, size, given["SEED"], computing
            )
            order = list(LengthGroupedSampler(size, lengths=list(map(len, tokens["input_ids"]))))
        arguments = dataclasses.replace(arguments, per_device_train_batch_size=size)
        lengths = list(map(len, tokens["input_ids"]))
        batches = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]  # whole ones
        batches.sort(key=lambda batch: max(lengths[row] for row in batch))
        chosen = stratified(batches, TIMED)
        device, precision = computing.device, torch.float32 if side == "study" else computing.precision
        before = matrix_rate(device, precision)
        seconds = timed(model, tokenizer, arguments, tokens, [chosen[TIMED // 2], *chosen])
    widths = [max(lengths[row] for row in batch) for batch in batches]
    done = sum(size * operations(shape_of(model), width) for width in stratified(widths, TIMED))
    real = list(map(sum, tokens["attention_mask"]))
    return {
        "texts_per_second": len(seconds) * size / sum(seconds),
        "padded_per_real": padded_per_real([[real[row] for row in batch] for batch in batches], widths),
        "share_of_matrix_rate": done / sum(seconds) / statistics.mean([before, matrix_rate(device, precision)]),
        "matrix_rate": before,
        "batch_seconds": seconds,
    }
