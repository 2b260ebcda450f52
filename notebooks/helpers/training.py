"""Training, taught in 03: its settings, `fit`, and what makes a training survive a kill and a small memory."""

import copy
import dataclasses
import gc
import hashlib
import inspect
import json
import math
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pandas as pd
import torch
from accelerate.utils.memory import should_reduce_batch_size
from datasets import Features, Value
from peft import PeftModel
from transformers import (
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from helpers.files import code_of, modules_of, sha256, write_whole
from helpers.machine import Computing, measured, versions
from helpers.models import predict, tokenise
from helpers.scores import score


def training_arguments(
    folder: Path, learning_rate: float, epochs: int, batch_size: int, seed: int, computing: Computing
) -> TrainingArguments:
    """Return every setting of a training, which leaves a checkpoint an epoch."""
    return TrainingArguments(
        output_dir=str(folder),
        seed=seed,
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=8,  # small batches hold less padding
        train_sampling_strategy="group_by_length",
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0.06,  # below one it is the share of all steps
        optim="adamw_torch_fused",
        weight_decay=0.01,
        max_grad_norm=1.0,
        use_cpu=computing.device.type == "cpu",
        bf16=computing.precision == torch.bfloat16,
        fp16=computing.precision == torch.float16,
        label_names=["labels"],
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="f1",
        dataloader_pin_memory=computing.device.type == "cuda",
        report_to="none",
    )


class ComplaintScores(evaluate.Metric):
    """The scores of every notebook as evaluate's metric, which the Trainer reports after each epoch; nothing is downloaded."""

    def _info(self) -> evaluate.MetricInfo:
        features = Features({"predictions": Value("int64"), "references": Value("int64")})
        return evaluate.MetricInfo(
            description="the scores of every notebook", citation="", inputs_description="ids", features=features
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return score(references, predictions)

    def of_output(self, output: EvalPrediction) -> dict[str, float]:
        """Return the scores of the Trainer's output on validation: logits, and the labels in the same order."""
        return self.compute(references=output.label_ids, predictions=output.predictions.argmax(axis=1))


@dataclasses.dataclass(frozen=True)
class Training:
    """What a training came to: its log by epoch, what it cost, and what the model says of validation.

    `cost` is what `measured` found, `texts` how many were read in all epochs, `probability` that of class 1.
    """

    history: pd.DataFrame
    cost: dict[str, Any]
    texts: int
    probability: np.ndarray


def trainer_of(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    train: pd.DataFrame,
    validation: pd.DataFrame,
    max_tokens: int,
    arguments: TrainingArguments,
) -> Trainer:
    """Return a Trainer of the model on these complaints, with our scores."""
    tokens = [tokenise(part, tokenizer, max_tokens) for part in (train, validation)]
    scores = ComplaintScores(keep_in_memory=True, cache_dir=arguments.output_dir)
    padding = DataCollatorWithPadding(tokenizer)
    return Trainer(model, arguments, padding, *tokens, compute_metrics=scores.of_output)


def fit(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    train: pd.DataFrame,
    validation: pd.DataFrame,
    max_tokens: int,
    arguments: TrainingArguments,
    computing: Computing,
) -> Training:
    """Train what is not frozen, and leave the model at its best epoch by validation F1.

    A training that was killed goes on after its last whole epoch.
    """
    trainer = trainer_of(model, tokenizer, train, validation, max_tokens, arguments)
    with measured() as cost:
        history = by_epoch(train_whole(trainer, recipe=fit))
    probability = predict(model, tokenizer, validation["text"], max_tokens, computing)
    return Training(history, cost, len(train) * len(history), probability)


def train_once(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    train: pd.DataFrame,
    validation: pd.DataFrame,
    max_tokens: int,
    arguments: TrainingArguments,
) -> pd.DataFrame:
    """Return the history of the training that fit would make, of which nothing else is kept.

    Its log stays, in the folder of its checkpoints, and these go. A training whose log is there is not made again.
    """
    gc.collect()  # of many trainings in a row each would else keep the last one's memory for a while
    trainer = trainer_of(model, tokenizer, train, validation, max_tokens, arguments)
    folder = Path(arguments.output_dir)
    key, file = training_key(trainer, train_once), folder / "finished.json"
    try:
        finished = json.loads(file.read_text())
    except (OSError, ValueError):
        finished = {}
    if finished.get("key") != key:
        finished = {"key": key, "log": train_whole(trainer, recipe=train_once)}
        write_whole(file, json.dumps(finished))
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return by_epoch(finished["log"])


def train_for(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    train: pd.DataFrame,
    max_tokens: int,
    arguments: TrainingArguments,
    steps: int,
) -> None:
    """Train what is not frozen for so many steps, without validation, and leave the model as the last step leaves it.

    A training that was killed goes on after its last whole checkpoint, one every 100 steps or a few more: at the end of an
    epoch, where the order of the texts is drawn anew. They go with the end.
    """
    epoch = math.ceil(len(train) / arguments.per_device_train_batch_size)
    save_steps = epoch * math.ceil(100 / epoch)
    fixed = {"max_steps": steps, "eval_strategy": "no", "save_strategy": "steps", "save_steps": save_steps}
    fixed |= {"load_best_model_at_end": False, "metric_for_best_model": None}
    arguments = dataclasses.replace(arguments, **fixed)
    train_whole(trainer_of(model, tokenizer, train, train, max_tokens, arguments), recipe=train_for)
    shutil.rmtree(arguments.output_dir, ignore_errors=True)


def by_epoch(log: list[dict]) -> pd.DataFrame:
    """Return the log of train_whole as one row an epoch: the losses, accuracy, F1, the seconds it took with its
    validation, in whichever run that was, and how many texts went through the model at a time."""
    rows = pd.DataFrame(log).groupby("epoch").first()
    columns = {"loss": "training loss", "eval_loss": "validation loss", "eval_accuracy": "accuracy", "eval_f1": "f1"}
    columns |= {"seconds": "seconds", "micro_batch": "micro-batch"}
    return rows[list(columns)].rename(columns=columns).dropna().astype({"micro-batch": int})


def train_whole(trainer: Trainer, recipe: Callable) -> list[dict]:
    """Train to the end, leave the model at its best epoch, and return the Trainer's log.

    The recipe is the function that set the trainer up: a training goes on only where its code is the same.

    A training that was killed goes on after its last whole checkpoint; on a CPU it ends with the same weights. Where the
    GPU's memory runs out, fewer texts go through the model at a time and the gradients of more such passes are added
    up: each step still sees the same texts in the same order, so its gradient is the same but for rounding (and for
    dropout, whose draws depend on the batch).
    """
    if isinstance(trainer.model, PeftModel):  # or each checkpoint asks the hub about the embeddings
        trainer.model.save_pretrained = partial(trainer.model.save_pretrained, save_embedding_layers=False)
    key = training_key(trainer, recipe)
    start = {name: w.detach().to("cpu", copy=True) for name, w in trainer.model.named_parameters() if w.requires_grad}
    micro_batch = trainer.args.per_device_train_batch_size
    trainer.add_callback(Sealing(key))
    while True:
        checkpoint = last_whole_checkpoint(Path(trainer.args.output_dir), key)
        if checkpoint:
            before = logged(checkpoint)
            micro_batch = min(
                micro_batch, *(entry.get("micro_batch", micro_batch) for entry in before["log_history"][-1:])
            )
            print(f"Going on after step {before['global_step']}, epoch {before['epoch']:g}, whose checkpoint is whole.")
        else:
            trainer.model.load_state_dict(start, strict=False)
        if micro_batch < trainer.args.per_device_train_batch_size:
            trainer = with_micro_batch(trainer, micro_batch, Sealing(key))
        try:
            trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
            return trainer.state.log_history
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            if micro_batch == 1:
                raise torch.OutOfMemoryError(
                    f"Out of memory with one text at a time ({error}). Truncate the texts, -p MAX_TOKENS 256, or close what "
                    "else uses the memory."
                ) from error
        smaller = [n for n in range(1, micro_batch // 2 + 1) if micro_batch % n == 0]
        micro_batch = smaller[-1]  # half of it, if it is even
        print(f"Out of memory: going on with {micro_batch} texts at a time, and as many as before for each step.")
        gc.collect()  # what the failed pass held
        torch.cuda.empty_cache()


def with_micro_batch(trainer: Trainer, micro_batch: int, sealing: TrainerCallback) -> Trainer:
    """Return such a trainer of the same model with so many texts at a time, and as many as before for each step."""
    arguments = copy.copy(trainer.args)
    times = arguments.per_device_train_batch_size // micro_batch
    arguments.per_device_train_batch_size = micro_batch
    arguments.gradient_accumulation_steps *= times
    arguments.per_device_eval_batch_size = max(1, arguments.per_device_eval_batch_size // times)
    return type(trainer)(
        trainer.model,
        arguments,
        trainer.data_collator,
        trainer.train_dataset,
        trainer.eval_dataset,
        compute_metrics=trainer.compute_metrics,
        # these two models' own loss ignores how many texts a step has: the sum over the passes would be too large
        compute_loss_func=mean_loss,
        callbacks=[sealing],
    )


def mean_loss(outputs: dict, labels: torch.Tensor, num_items_in_batch: int | None = None) -> torch.Tensor:
    """Return the cross entropy summed over these texts, divided by the number of texts of the whole step."""
    total = torch.nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum")
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


class Sealing(TrainerCallback):
    """Notes what each epoch took in the Trainer's log, and seals each checkpoint once it is whole on disk."""

    def __init__(self, key: str):
        self.key = key

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.since = time.perf_counter()

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        now = time.perf_counter()
        state.log_history[-1] |= {"seconds": now - self.since, "micro_batch": args.per_device_train_batch_size}
        self.since = now

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        write_whole(checkpoint / "seal.json", json.dumps(seal(checkpoint, self.key), indent=1))


def seal(checkpoint: Path, key: str) -> dict:
    """Return what a checkpoint's seal must say: the key of its training, and the hash of every file in it."""
    files = {path.name: sha256(path) for path in sorted(checkpoint.iterdir()) if path.name != "seal.json"}
    return {"key": key, "files": files}


def logged(checkpoint: Path) -> dict:
    """Return the Trainer's state in a checkpoint: its log, and which checkpoint was the best so far."""
    return json.loads((checkpoint / "trainer_state.json").read_text())


def last_whole_checkpoint(folder: Path, key: str) -> Path | None:
    """Return the newest checkpoint of the training with this key that is whole, as is the best one before it; or None.

    All that cannot be gone on from is removed. Only what has passed here is loaded: the optimiser's state and the random
    generators' are pickles, but pickles of our own, byte for byte as sealed, and read with torch's weights_only.
    """
    whole: list[Path] = []
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda path: (len(path.name), path.name)):
        try:
            sealed = json.loads((checkpoint / "seal.json").read_text()) == seal(checkpoint, key)
            best = logged(checkpoint)["best_model_checkpoint"]
            if sealed and (best is None or Path(best) in [*whole, checkpoint]):
                whole.append(checkpoint)
                continue
        except (OSError, ValueError):
            pass  # no seal, or none that can be read
        shutil.rmtree(checkpoint)
    return whole[-1] if whole else None


def training_key(trainer: Trainer, recipe: Callable) -> str:
    """Return one hash over all that a training's outcome depends on, all weights and token ids included.

    As for a notebook, code counts without its comments, and the machine it runs on does not.
    """
    model = trainer.model
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    for tokens in (trainer.train_dataset, trainer.eval_dataset):
        digest.update(json.dumps(tokens.to_dict()).encode())
    here = Path(__file__)
    text = here.read_text(encoding="utf-8")
    code = {here.name: code_of(text), "recipe": code_of(inspect.getsource(recipe))}
    code |= {name: code_of(text) for name, text in modules_of([text], here.parents[1]).items()}
    adapters = {name: config.to_dict() for name, config in getattr(model, "peft_config", {}).items()}
    settings = [trainer.args.to_dict(), model.config.to_dict(), adapters, repr(trainer.data_collator), code, versions()]
    plain = json.dumps(settings, sort_keys=True, default=lambda v: sorted(v) if isinstance(v, set) else str(v))
    digest.update(plain.encode())
    return digest.hexdigest()
