"""What the processes of rows 1, 2 and 4 do with the models of both sides: training, time to quality, and scoring.

Training: a whole epoch of the study's recipe takes hours on a processor, so a few batches are timed, by the Trainer's own
loop. Its batches are all alike. The series' batches differ in width, so the epoch's batches, as the Trainer's sampler draws
them, are sorted by width and cut into as many parts as are timed; the middle one of each part stands for it. One batch more
is run first and not counted.

Quality: both recipes are checked four times an epoch, by the same scoring; the checks do not count. Where a limit ends a
training before it reaches the mark, its time is a lower bound, and so is the ratio.
"""

import dataclasses
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers
from datasets import Dataset
from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.trainer_pt_utils import LengthGroupedSampler

from benchmarks import original
from benchmarks.data import split, values
from helpers import check
from helpers.machine import choose_computing
from helpers.models import distilbert_adapter, gpt2_adapter, load_base, load_distilbert, predict, tokenise
from helpers.scores import predicted
from helpers.training import training_arguments

NOTEBOOKS = {"distilbert_lora": "03_distilbert_lora", "gpt2_lora": "04_gpt2_lora", "gpt2_qlora": "05_gpt2_qlora"}
LABELS = ("0", "1")
# batches; with the first, uncounted one these are whole steps of the study's, which adds up four batches
TIMED = {"cpu": 3, "cuda": 31}
PRODUCT = re.compile(r"aten\.(mm|addmm|bmm|baddbmm|linear)\b")  # how torch calls products of matrices
WIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices whose products show the rate of the device
CHECKS = 4  # of the quality in an epoch
PIPELINES = {"defaults": None, "batch 32": 32}  # batch sizes of the text-classification pipeline
MAX_TOKENS = 512  # of a text that is scored


# --- the two sides


@dataclass(frozen=True)
class Setup:
    """A training of one side, ready to start."""

    model: PeftModel
    tokenizer: transformers.PreTrainedTokenizerBase
    tokens: Dataset
    arguments: transformers.TrainingArguments
    max_tokens: int
    precision: torch.dtype  # of its products


def set_up(side: str, kind: str, models: dict[str, str], train: pd.DataFrame, folder: str) -> Setup:
    """Return this kind of training as the study set it up, or as the notebook does, on texts no longer than can be read."""
    checkpoint = models[original.RECIPES[kind].model]
    if side == "original":
        model, tokenizer = original.load(kind, checkpoint)
        max_tokens = min(original.RECIPES[kind].max_tokens, model.config.max_position_embeddings)
        tokens = original.tokenise(train, tokenizer, max_tokens)
        arguments = original.training_arguments(kind, Path(folder))
        return Setup(model, tokenizer, tokens, arguments, max_tokens, torch.float32)
    given = values(NOTEBOOKS[kind])
    computing = choose_computing("auto", "auto")
    model, tokenizer = load_series(kind, checkpoint)
    max_tokens = min(given["MAX_TOKENS"], model.config.max_position_embeddings)
    rate, epochs, size, seed = (given[name] for name in ("LEARNING_RATE", "EPOCHS", "BATCH_SIZE", "SEED"))
    arguments = training_arguments(Path(folder), rate, epochs, size, seed, computing)
    return Setup(model, tokenizer, tokenise(train, tokenizer, max_tokens), arguments, max_tokens, computing.precision)


def load_series(kind: str, checkpoint: str) -> tuple[PeftModel, transformers.PreTrainedTokenizerBase]:
    """Return the series' model with its adapter as the notebook makes it, and its tokenizer."""
    given = values(NOTEBOOKS[kind])
    recipe = original.RECIPES[kind]
    record = {"model": recipe.model, "checkpoint": checkpoint, "revision": "", "bits": recipe.bits}
    record["precision"] = choose_computing("auto", "auto").precision_name
    model, tokenizer = load_base(record, LABELS, given["SEED"])
    if recipe.bits == 4:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    shape = (given["RANK"], given["ALPHA"], given["DROPOUT"])
    config = distilbert_adapter(*shape) if recipe.model == "distilbert" else gpt2_adapter(*shape, bits=recipe.bits)
    transformers.set_seed(given["SEED"])
    return get_peft_model(model, config), tokenizer


# --- row 1, training


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


def shape_of(model: PeftModel) -> Shape:
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
    """Return the operations a second of products of large square matrices, the median of those that fit the time."""
    wide = WIDE[device.type]
    one, other = (torch.randn(wide, wide, device=device).to(precision) for _ in range(2))
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rates) < 3:
        started = time.perf_counter()
        one @ other
        if device.type == "cuda":
            torch.cuda.synchronize()
        rates.append(2 * wide**3 / (time.perf_counter() - started))
    return statistics.median(rates)


@dataclass
class Clock(transformers.TrainerCallback):
    """Notes the seconds that each batch took, forward and backward and, where one is due, the optimiser's step."""

    seconds: list[float] = field(default_factory=list, init=False)

    def on_step_begin(self, *_: object, **__: object) -> None:
        self.since = time.perf_counter()

    def on_substep_end(self, *_: object, **__: object) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self.since)
        self.since = now

    on_step_end = on_substep_end


def run_training(setup: Setup, tokens: Dataset, clock: Clock, **more: object) -> None:
    """Train by the clock, without validation and without saving; more are settings to change."""
    only = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, **more}
    arguments = dataclasses.replace(setup.arguments, **only)
    collator = transformers.DataCollatorWithPadding(setup.tokenizer)
    transformers.Trainer(setup.model, arguments, collator, tokens, callbacks=[clock]).train()


def batch_seconds(setup: Setup, batches: list[list[int]]) -> list[float]:
    """Return the seconds of each batch (the rows of its texts) after the first, as the Trainer trains on them in order."""
    clock = Clock()
    steps = -(-len(batches) // setup.arguments.gradient_accumulation_steps)
    sizes = {"per_device_train_batch_size": len(batches[0]), "num_train_epochs": 1, "max_steps": steps}
    rows = setup.tokens.select([row for batch in batches for row in batch])
    run_training(setup, rows, clock, train_sampling_strategy="sequential", **sizes)
    return clock.seconds[1:]


class Operations(TorchDispatchMode):
    """Notes, while its block runs, the name of each of torch's operations, forward and backward, and what its first tensor is of."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, torch.dtype]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kinds = [each.dtype for each in args if isinstance(each, torch.Tensor)]
        self.seen |= {(str(func), kind) for kind in kinds[:1]}
        return func(*args, **(kwargs or {}))


def check_ways(setup: Setup, batch: list[int]) -> None:
    """Train on the batch, and raise CheckFailed unless its products were in the setup's precision, its attention was fused,
    forward and backward, and a model in 4 bits restored its weights by bitsandbytes."""
    with Operations() as operations:
        batch_seconds(setup, [batch])
    products = {kind for name, kind in operations.seen if PRODUCT.match(name)}
    check(products == {setup.precision}, f"products in {products}, not in {setup.precision}")
    attention = {name for name, _ in operations.seen if "attention" in name}
    fused = all(re.search("flash|efficient", name) for name in attention)
    check(fused and any("backward" in name for name in attention), f"attention is not fused: {attention}")
    restored = any("bitsandbytes" in name and "4bit" in name for name, _ in operations.seen)
    check(restored == bool(getattr(setup.model, "is_loaded_in_4bit", False)), f"in 4 bits: {restored}")


def batches_by_width(side: str, lengths: list[int], size: int) -> list[list[int]]:
    """Return the whole batches (rows of the training set) of an epoch as the side's sampler draws them, narrow to wide."""
    if side == "original":
        order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(0)).tolist()
    else:
        order = list(LengthGroupedSampler(size, lengths=lengths))
    batches = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
    return sorted(batches, key=lambda batch: max(lengths[row] for row in batch))


def train_a_few(
    side: str, kind: str, models: dict[str, str], data: str, company: str, batch_size: int | None = None
) -> dict:
    """Return texts a second, padding, and the share of the matrix rate, of a few batches of a training."""
    device = choose_computing("auto", "auto").device
    train, _ = split(data, company)
    with tempfile.TemporaryDirectory() as folder:
        setup = set_up(side, kind, models, train, folder)
        size = batch_size or setup.arguments.per_device_train_batch_size
        lengths = list(map(len, setup.tokens["input_ids"]))
        batches = batches_by_width(side, lengths, size)
        timed = TIMED[device.type]
        chosen = stratified(batches, timed)
        before = matrix_rate(device, setup.precision)
        seconds = batch_seconds(setup, [chosen[timed // 2], *chosen])
        after = matrix_rate(device, setup.precision)
        if side == "series":
            check_ways(setup, chosen[0])
    widths = [max(lengths[row] for row in batch) for batch in batches]
    done = sum(size * operations(shape_of(setup.model), width) for width in stratified(widths, timed))
    real = list(map(sum, setup.tokens["attention_mask"]))
    return {
        "texts_per_second": len(seconds) * size / sum(seconds),
        "padded_per_real": padded_per_real([[real[row] for row in batch] for batch in batches], widths),
        "share_of_matrix_rate": done / sum(seconds) / statistics.mean([before, after]),
    }


# --- row 2, time to quality


@dataclass
class Watch(Clock):
    """Ends a training at the mark or the limit, in seconds of training alone; asks for the accuracy every so many steps."""

    accuracy: Callable[[], float]
    every: int
    mark: float
    limit: float
    best: float = 0.0

    def on_step_end(self, *given: Any, **_: object) -> None:
        self.on_substep_end()
        _arguments, state, control = given
        over = sum(self.seconds) > self.limit
        if over or state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self.best = max(self.best, self.accuracy())
            control.should_training_stop = over or self.best >= self.mark


def until_mark(side: str, checkpoint: str, data: str, company: str, mark: float, limit_minutes: float) -> dict:
    """Return the seconds of training, the best accuracy on validation so far, and whether it reached the mark."""
    train, validation = split(data, company)
    computing = choose_computing("auto", "auto")
    with tempfile.TemporaryDirectory() as folder:
        setup = set_up(side, "distilbert_lora", {"distilbert": checkpoint}, train, folder)
        arguments = setup.arguments
        steps = len(train) // (arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps)

        def accuracy() -> float:
            probability = predict(setup.model, setup.tokenizer, validation["text"], setup.max_tokens, computing)
            return float((predicted(probability) == validation["label"]).mean())

        watch = Watch(accuracy, max(1, steps // CHECKS), mark, 60 * limit_minutes)
        run_training(setup, setup.tokens, watch)
    return {"seconds": sum(watch.seconds), "best": watch.best, "reached": watch.best >= mark}


# --- row 4, scoring


def score_texts(way: str, checkpoint: str, data: str, company: str, number: int) -> dict:
    """Return the texts a second and the probabilities of a model with a new head, by the series' `predict` or the pipeline.

    The texts are drawn again and again from those there are.
    """
    computing = choose_computing("auto", "auto")
    texts = split(data, company)[0]["text"].sample(number, replace=True, random_state=0).tolist()
    model = load_distilbert(checkpoint, LABELS, seed=0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    ready = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, device=computing.device)

    def score(texts: list[str]) -> list[float]:
        if way == "series":
            return predict(model, tokenizer, texts, MAX_TOKENS, computing).tolist()
        answers = ready(texts, truncation=True, max_length=MAX_TOKENS, batch_size=PIPELINES[way])
        return [a["score"] if a["label"] == LABELS[1] else 1 - a["score"] for a in answers]

    score(texts[:64])  # what the first call loads does not count
    started = time.perf_counter()
    probability = score(texts)
    return {"texts_per_second": number / (time.perf_counter() - started), "probability": probability}
