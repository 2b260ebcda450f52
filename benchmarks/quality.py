"""Row 2, time to quality: seconds of training until the accuracy on validation first reaches a mark.

Both recipes are checked four times an epoch, by the same scoring; the checks do not count. Where a limit ends a training
before it reaches the mark, its time is a lower bound, and so is the ratio.
"""

import dataclasses
import tempfile
import time
from pathlib import Path

from transformers import DataCollatorWithPadding, Trainer, TrainerCallback

from benchmarks import pages, series, study
from helpers import models, training
from helpers.machine import choose_computing

CHECKS = 4  # an epoch


class Watch(TrainerCallback):
    """Stops the training at the mark or the limit; counts the seconds of training alone."""

    def __init__(self, accuracy, every: int, mark: float, limit: float):
        self.accuracy, self.every, self.mark, self.limit = accuracy, every, mark, limit
        self.seconds, self.best, self.reached = 0.0, 0.0, False

    def on_step_begin(self, *_, **__):
        self.since = time.perf_counter()

    def on_substep_end(self, *_, **__):
        self.seconds += time.perf_counter() - self.since
        self.since = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        self.on_substep_end()
        if state.global_step % self.every == 0 or state.global_step == state.max_steps or self.seconds > self.limit:
            self.best = max(self.best, self.accuracy())
            self.reached = self.best >= self.mark
            control.should_training_stop = self.reached or self.seconds > self.limit


def until_mark(side: str, checkpoint: str, data: str, company: str, mark: float, limit_minutes: float) -> dict:
    """Return the seconds of training, the best accuracy on validation so far, and whether it reached the mark."""
    kind, given = "distilbert_lora", pages.values("distilbert_lora")
    train, validation = pages.letters(data, company)
    computing = choose_computing("auto", "auto")
    with tempfile.TemporaryDirectory() as folder:
        if side == "study":
            model, tokenizer = study.load(kind, checkpoint)
            cut = study.RECIPES[kind].max_tokens
            tokens, arguments = study.tokenise(train, tokenizer, cut), study.training_arguments(kind, Path(folder))
        else:
            model, tokenizer = series.load(kind, checkpoint)
            cut = given["MAX_TOKENS"]
            tokens = models.tokenise(train, tokenizer, cut)
            settings = (given[name] for name in ("LEARNING_RATE", "EPOCHS", "BATCH_SIZE", "SEED"))
            arguments = training.training_arguments(Path(folder), *settings, computing)
        steps = len(train) // (arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps)

        def accuracy() -> float:
            probability = models.predict(model, tokenizer, validation["text"], cut, computing)
            model.train()
            return float(((probability >= 0.5) == validation["label"]).mean())

        watch = Watch(accuracy, max(1, steps // CHECKS), mark, 60 * limit_minutes)
        only = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
        Trainer(
            model,
            dataclasses.replace(arguments, **only),
            DataCollatorWithPadding(tokenizer),
            tokens,
            callbacks=[watch],
        ).train()
    return {"seconds": watch.seconds, "best": watch.best, "reached": watch.reached}
