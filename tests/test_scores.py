"""Scores, intervals, tests and confidence: the right ones, by hand, by other libraries and by simulation."""

import random
import re

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import binomtest
from sklearn.metrics import f1_score, log_loss, precision_score
from sklearn.model_selection import cross_val_predict

from helpers.baselines import linear_model
from helpers.scores import (
    best_temperature,
    calibration_error,
    cost_of,
    intervals,
    label_issues,
    logits,
    loss_at,
    mean_sd,
    most_confident,
    null_range,
    require_comparable,
    require_same_seeds,
    score,
    scores_of_counts,
    temperature_interval,
    with_temperature,
)
from mini import writer

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


# --- which results may be compared, and what each costs


def result(**changes):
    return {
        "data_sha256": {"train": "a", "test": "b"},
        "labels": list(LABELS),
        "models": ["m"],
        "numerics": {"precision": "float32"},
        "trainings": [{"model": "gpt2", "checkpoint": "gpt2"}, {"model": "distilbert", "checkpoint": "minilm"}],
    } | changes


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data_sha256": {"train": "a", "held_out": "changed"}}, "another data/held_out.parquet"),
        ({"labels": list(LABELS[::-1])}, "labels"),
        ({"trainings": [{"model": "gpt2", "checkpoint": "mini-gpt2"}]}, "04 has trained mini-gpt2, others gpt2"),
        ({"numerics": {"precision": "bfloat16"}}, "different precisions.*-?PRECISION"),
    ],
)
def test_results_that_do_not_belong_together_are_refused(changes, says):
    hashes = {"train": "a", "held_out": "b"}
    require_comparable({"03": result()}, hashes, LABELS)
    with pytest.raises(ValueError, match=says):
        require_comparable({"03": result(), "04": result(**changes)}, hashes, LABELS)


def test_a_cost_table_counts_what_was_trained_and_leaves_out_what_there_is_not():
    scoring = {"texts": 10, "seconds": 2.0, "memory_mb": {"host": 300, "cuda": None}}
    parts = {"all": 110, "trained in the adapter": 10, "trained in the head": 3, "trained in the base model": 0}
    one = {"base_mb": 5.0, "size_mb": 0.5, "train_seconds": 4.0, "train_texts_per_second": 25.0, "parameters": parts}
    one |= {"train_memory_mb": {"host": 400, "cuda": 200}, "train_energy_wh": 2.0}
    other = one | {"train_seconds": 6.0, "train_memory_mb": {"host": 300, "cuda": 200}, "train_energy_wh": 3.0}
    baseline, adapter = cost_of(scoring, None), cost_of(scoring, pd.DataFrame([one, other]))
    assert baseline == {"scoring, texts/s": 5.0, "scoring, MB host": 300, "scoring, MB device": None}
    assert (adapter["weights"], adapter["trainable parameters"], adapter["saved, MB"]) == (110, 13, 0.5)
    assert (adapter["training, s"], adapter["training, MB host"], adapter["training, MB device"]) == (5.0, 350, 200)
    assert adapter["training, s, sd"] == pytest.approx(2**0.5) and adapter["training, Wh"] == 2.5
    assert np.isnan(cost_of(scoring, pd.DataFrame([one | {"train_energy_wh": None}] * 2))["training, Wh"])


@pytest.mark.parametrize(
    "seeds, says",
    [([42, 43, 42, 44], "gpt2_full [42, 44]"), ([42, 43, 42, 42], "gpt2_full [42, 42]"), ([42, 43, 42, 43], "")],
    ids=["another seed", "a seed twice", "the same"],
)
def test_a_control_with_other_seeds_is_refused(seeds, says):
    trainings = pd.DataFrame({"model": "gpt2", "method": ["lora", "lora", "full", "full"], "seed": seeds})
    if not says:
        return require_same_seeds(trainings)
    with pytest.raises(ValueError, match=re.escape(says)):
        require_same_seeds(trainings)


# --- confidence


def drawn(rng, texts, overconfident=1.0):
    """Return labels, and the probabilities of a model whose logits are so many times what they should be."""
    honest = rng.normal(0, 2, texts)
    return (rng.random(texts) < expit(honest)).astype(int), expit(overconfident * honest)


def test_a_logit_of_20_survives_and_certainty_stays_finite():
    assert logits(expit([-20.0, 20.0])) == pytest.approx([-20, 20], rel=1e-6)
    assert logits(with_temperature(expit([-20.0, 20.0]), 2)) == pytest.approx([-10, 10])
    assert np.isfinite(logits([0.0, 1.0])).all() and np.isfinite(loss_at(1, [1, 0], [0.0, 1.0]))


def test_calibration_error_by_hand():
    labels, probability = np.array([1, 0, 1, 1]), np.array([0.9, 0.2, 0.8, 0.1])
    assert calibration_error(labels, probability, 2) == pytest.approx(0.5 * 0.35 + 0.5 * 0.15)
    assert calibration_error(labels, probability, 1) == pytest.approx(0.25)
    both = calibration_error(np.array([labels, 1 - labels]), probability, 2)
    assert both == pytest.approx([0.25, 0.5 * 0.35 + 0.5 * 0.85])


@pytest.mark.parametrize("texts", [200, 1500])
def test_a_calibrated_models_error_lies_inside_the_printed_range_and_an_overconfident_ones_does_not(texts):
    rng, bins = np.random.default_rng(texts), int(np.clip(texts // 150, 5, 15))

    def inside(studies, overconfident):
        count = 0
        for study in range(studies):
            labels, probability = drawn(rng, texts, overconfident)
            low, high = null_range(probability, bins, study, draws=200)
            count += low <= calibration_error(labels, probability, bins) <= high
        return count

    assert binomtest(inside(300, 1), 300, 0.95).pvalue > 0.01
    assert inside(50, 2) < 25


def test_the_temperature_undoes_what_made_a_model_overconfident():
    labels, probability = drawn(np.random.default_rng(0), 20_000, overconfident=3)
    best = best_temperature(labels, probability)
    losses = {each: log_loss(labels, with_temperature(probability, each)) for each in best * np.array([0.98, 1, 1.02])}
    assert best == pytest.approx(3, rel=0.1) and min(losses, key=losses.get) == best
    assert loss_at(best, labels, probability) == pytest.approx(losses[best])


def test_the_temperatures_interval_is_that_of_a_share_where_all_probabilities_are_equal():
    labels = np.repeat([1, 0], [80, 20])  # at expit(4 / T) = p the likelihood is the binomial one
    low, high = (expit(4 / t) for t in temperature_interval(labels, np.full(100, expit(4.0)))[::-1])

    def deviance(p):
        return 2 * (80 * np.log(0.8 / p) + 20 * np.log(0.2 / (1 - p)))

    assert low < 0.8 < high and (deviance(low), deviance(high)) == pytest.approx((3.8415, 3.8415), abs=1e-3)
    assert temperature_interval([0, 1], [0.1, 0.9])[0] == pytest.approx(
        np.exp(-3)
    )  # as low as can be, no mistake was seen


def test_the_temperatures_interval_covers():
    rng, studies, covered = np.random.default_rng(2), 400, 0
    for _ in range(studies):
        low, high = temperature_interval(*drawn(rng, 300, overconfident=1.5))
        covered += low <= 1.5 <= high
    assert binomtest(covered, studies, 0.95).pvalue > 0.01


def test_accuracy_among_the_most_confident_by_hand_and_by_weight():
    right, confidence = np.array([True, False, True, True]), np.array([0.9, 0.6, 0.8, 0.7])
    equal, weights = np.ones(4), np.array([1.0, 1.0, 3.0, 1.0])
    assert [most_confident(right, confidence, equal, share) for share in (0.5, 0.75, 1)] == [(1, 2), (1, 3), (0.75, 4)]
    assert most_confident(right, confidence, weights, 0.5) == pytest.approx((1, 16 / 10))
    assert most_confident(right, confidence, weights, 1) == pytest.approx((5 / 6, 36 / 12))
    assert most_confident(right, confidence, weights / 7, 1) == pytest.approx((5 / 6, 36 / 12))


def test_a_mean_has_its_standard_deviation_where_there_are_several_values():
    assert mean_sd(pd.Series([0.94, 0.96])) == "0.950 ± 0.014" and mean_sd(pd.Series([0.94])) == "0.940"


# --- labels in doubt


def test_labels_are_doubted_by_what_can_be_expected_of_the_other_class():
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    probability = np.array([0.1, 0.4, 0.65, 0.95, 0.9, 0.8, 0.02, 0.51])
    # class 0 gives its own label .475 on average, class 1 gives it .5575: .65 is enough to doubt the third
    assert label_issues(labels, probability).tolist() == [6, 3, 2]  # the last gives .49 to class 0, but more to its own
    # .55 is not enough, though more than one half
    assert label_issues(labels, np.where(probability == 0.65, 0.55, probability)).tolist() == [6, 3]
    assert label_issues(labels, 0.1 + 0.8 * labels).tolist() == []


@pytest.mark.slow
def test_planted_wrong_labels_are_found_and_little_else():
    planted, found = writer.planted(), {}
    for row in writer.complaints(random.Random(0)):
        if row["Company"] == writer.STUDY_COMPANY and row["Product"] in writer.STUDY_ROWS:
            found[row["Consumer complaint narrative"]] = int(row["Product"] == writer.CARD)
    found = {text: label for text, label in found.items() if text and text.strip()}
    texts, labels = list(found)[:2000], np.array(list(found.values())[:2000])
    model = linear_model(texts, labels, (1, 2), 10)
    outside = cross_val_predict(model, texts, labels, cv=5, method="predict_proba")[:, 1]
    doubted = {texts[place] for place in label_issues(labels, outside)}
    wrong = {text for text in texts if planted.get(text) == "wrong label"}
    assert len(wrong) >= 15
    assert len(doubted & wrong) / len(doubted) >= 0.8
    assert len(doubted & wrong) / len(wrong) >= 0.4
