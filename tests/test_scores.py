"""Scores, intervals, tests, floors and confidence: the right ones, by hand, by other libraries and by simulation."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score

from helpers.scores import (
    best_temperature,
    calibration_error,
    choose_keywords,
    cost_of,
    intervals,
    keyword_rule,
    paired_test,
    require_comparable,
    score,
    scores_of_counts,
    with_temperature,
)

LABELS = ("Mortgage", "Credit card or prepaid card")


# --- scores


def test_scores_of_four_letters_by_hand():
    found = score([1, 1, 0, 0], [1, 0, 0, 0])
    assert found == pytest.approx(
        {"accuracy": 0.75, "precision": 1, "recall": 0.5, "f1": 2 / 3, "macro_f1": (2 / 3 + 0.8) / 2}
    )


def test_scores_from_counts_are_scikit_learns():
    rng = np.random.default_rng(0)
    labels, answers = rng.integers(0, 2, 300), rng.integers(0, 2, 300)
    cells = [((labels == a) & (answers == b)).sum() for a, b in ((1, 1), (0, 1), (1, 0), (0, 0))]
    found = scores_of_counts(*map(np.asarray, cells))
    assert {k: float(v) for k, v in found.items()} == pytest.approx(score(labels, answers))
    assert found["precision"] == pytest.approx(precision_score(labels, answers))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, answers, average="macro"))


def test_wilsons_interval_of_195_in_200():
    answers = np.ones(200, int)
    answers[:5] = 0
    assert intervals(np.ones(200, int), answers, seed=0)["accuracy"] == pytest.approx((0.943, 0.989), abs=5e-4)


def test_bootstrap_intervals_cover_at_about_their_nominal_rate():
    rng, covered, trials = np.random.default_rng(1), 0, 300
    for trial in range(trials):
        labels = rng.integers(0, 2, 200)
        answers = np.where(rng.random(200) < 0.8, labels, 1 - labels)  # true F1 is .8
        low, high = intervals(labels, answers, seed=trial, draws=1000)["f1"]
        covered += low <= 0.8 <= high
    assert 0.91 <= covered / trials <= 0.98


def test_mcnemar_on_three_against_nine():
    labels = np.ones(40, int)
    one, other = labels.copy(), labels.copy()
    one[:9], other[9:12] = 0, 0
    found = paired_test(labels, one, other, seed=0)
    assert found["p"] == pytest.approx(0.146, abs=5e-4)
    assert found["difference"] == pytest.approx(-6 / 40)
    assert found["low"] < -6 / 40 < found["high"]
    assert paired_test(labels, one, one, seed=0) == {"difference": 0, "low": 0, "high": 0, "p": 1}


# --- the keyword floor


def test_the_keyword_rule_counts_words():
    assert keyword_rule(
        ["my card my card escrow", "mortgage", "nothing", ""], [["mortgage", "escrow"], ["card"]]
    ).tolist() == [1, 0, 0.5, 0.5]


def test_keywords_are_ours_for_the_studys_classes_and_taken_from_the_texts_for_others():
    ours = choose_keywords([], [], LABELS)
    assert "escrow" in ours[0] and "prepaid" in ours[1] and choose_keywords([], [], LABELS[::-1]) == ours[::-1]
    texts = ["the dog barked at me", "a dog bit me", "the cat purred at me", "a cat slept"] * 2
    found = choose_keywords(texts, [0, 0, 1, 1] * 2, ("dogs", "cats"))
    assert found[0][0] == "dog" and found[1][0] == "cat"
    assert keyword_rule(["dog", "cat"], found).tolist() == [0, 1]


# --- which results may be compared, and what each costs


def result(**changes):
    return {
        "data_sha256": {"train": "a", "test": "b"},
        "labels": list(LABELS),
        "models": ["m"],
        "mini": True,
        "numerics": {"precision": "float32"},
    } | changes


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data_sha256": {"train": "a", "held_out": "changed"}}, "another data/held_out.parquet"),
        ({"labels": list(LABELS[::-1])}, "labels"),
        ({"mini": False}, "full result"),
        ({"numerics": {"precision": "bfloat16"}}, "different precisions.*-?PRECISION"),
    ],
)
def test_results_that_do_not_belong_together_are_refused(changes, says):
    hashes = {"train": "a", "held_out": "b"}
    require_comparable({"03": result()}, hashes, True, LABELS)
    with pytest.raises(ValueError, match=says):
        require_comparable({"03": result(), "04": result(**changes)}, hashes, True, LABELS)


def test_a_cost_table_counts_what_was_trained_and_leaves_out_what_there_is_not():
    scoring = {"texts": 10, "seconds": 2.0, "memory_mb": {"host": 300, "cuda": None}}
    made = {"base_mb": 5.0, "size_mb": 0.5, "train_seconds": 4.0, "train_texts_per_second": 25.0, "weights": "there"}
    made["parameters"] = {
        "all": 110,
        "trained in the adapter": 10,
        "trained in the head": 3,
        "trained in the base model": 0,
    }
    made["train_memory_mb"] = {"host": 400, "cuda": 200}
    baseline, adapter, base = cost_of(scoring, None), cost_of(scoring, made), cost_of(scoring, made | {"weights": None})
    assert baseline == {"scoring, texts/s": 5.0, "scoring, MB host": 300, "scoring, MB device": None}
    assert (adapter["weights"], adapter["trainable parameters"], adapter["saved, MB"]) == (110, 13, 0.5)
    assert (adapter["training, texts/s"], adapter["training, MB device"]) == (25.0, 200)
    assert base["weights"] == 100 and base["base, MB"] == 5.0 and "trainable parameters" not in base


# --- confidence


def test_calibration_error_by_hand_and_on_calibrated_answers():
    assert calibration_error([1, 1, 1, 1], np.full(4, 0.9)) == pytest.approx(0.1)
    assert calibration_error([1, 1, 0, 0], np.full(4, 0.9)) == pytest.approx(0.4)
    assert calibration_error([0, 0, 0, 1], np.full(4, 0.25)) == pytest.approx(0)  # three quarters sure of class 0
    random = np.random.default_rng(0)
    probability = random.random(20_000)
    labels = (random.random(20_000) < probability).astype(int)
    assert calibration_error(labels, probability) < 0.01


def test_the_temperature_undoes_what_made_the_answers_too_sure():
    random = np.random.default_rng(0)
    honest = random.uniform(0.05, 0.95, 20_000)
    labels = (random.random(20_000) < honest).astype(int)
    too_sure = with_temperature(honest, 1 / 3)
    assert best_temperature(labels, too_sure) == pytest.approx(3, rel=0.1)
    assert ((too_sure >= 0.5) == (honest >= 0.5)).all()
    assert with_temperature(np.array([0.0, 1.0]), 2).tolist() == pytest.approx([0.001, 0.999], abs=1e-3)
