"""Row 4, scoring: letters a second of `predict` against the text-classification pipeline, and how it grows."""

import time

import numpy as np
from transformers import AutoTokenizer, pipeline

from benchmarks import pages
from helpers import models
from helpers.machine import choose_computing

TEXTS = 200


def scorer(checkpoint: str):
    """Return a model with a new head, and its tokenizer."""
    return models.load_distilbert(checkpoint, ("0", "1"), 0), AutoTokenizer.from_pretrained(checkpoint)


def side_by_side(checkpoint: str, data: str, company: str, repeats: int) -> dict:
    """Return the letters a second of the series and of the pipeline at its defaults and at 32, run by turns."""
    model, tokenizer = scorer(checkpoint)
    texts = pages.letters(data, company)[0]["text"].tolist()[:TEXTS]
    computing = choose_computing("auto", "auto")
    ready = pipeline("text-classification", model=model, tokenizer=tokenizer, device=computing.device)
    cut = {"truncation": True, "max_length": 512}

    def by_pipeline(texts, **more):
        answers = ready(texts, **cut, **more)
        card = model.config.id2label[1]
        return np.array([a["score"] if a["label"] == card else 1 - a["score"] for a in answers])

    sides = {
        "series": lambda texts: models.predict(model, tokenizer, texts, 512, computing),
        "defaults": by_pipeline,
        "batch 32": lambda texts: by_pipeline(texts, batch_size=32),
    }
    found, answers = {side: [] for side in sides}, {}
    for side in sides:
        sides[side](texts[:8])
    for _ in range(repeats):
        for side, score in sides.items():
            started = time.perf_counter()
            answers[side] = score(texts)
            found[side].append(len(texts) / (time.perf_counter() - started))
    gap = max(abs(answers[side] - answers["series"]).max() for side in sides)
    assert gap < 0.01, f"the pipeline gives other answers, by up to {gap}"
    return found


def growth(checkpoint: str, data: str, company: str, texts: int) -> dict:
    """Return the letters a second of `predict` on that many letters, drawn again and again from those there are."""
    model, tokenizer = scorer(checkpoint)
    letters = pages.letters(data, company)[0]["text"].sample(texts, replace=True, random_state=0).tolist()
    computing = choose_computing("auto", "auto")
    models.predict(model, tokenizer, letters[:64], 512, computing)
    started = time.perf_counter()
    models.predict(model, tokenizer, letters, 512, computing)
    return {"rate": texts / (time.perf_counter() - started)}
