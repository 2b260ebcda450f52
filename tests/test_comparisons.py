"""Comparisons: intervals that cover texts and seeds, verdicts that exclude one another, power; by hand, theory, simulation."""

import itertools
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from helpers.scores import (
    accuracy_interval,
    crossed_variance,
    difference_interval,
    power,
    tango_interval,
)
from helpers.verdicts import VERDICTS, verdict

ROOT = Path(__file__).parents[1]
MARGIN = 0.02
CASES = list(itertools.product((200, 1500), (0.02, 0.06), (0, 0.005, 0.01)))  # texts, discordant, sd between seeds


# --- the variance


def test_the_crossed_variance_is_that_of_a_two_way_table_of_variance():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 2, (4, 1)) + rng.normal(0, 2, 6) + rng.normal(0, 1, (4, 6))
    seed, text = np.indices(values.shape)
    rows = pd.DataFrame({"value": values.ravel(), "seed": seed.ravel(), "text": text.ravel()})
    of_seeds, of_texts, mixed = anova_lm(ols("value ~ C(seed) + C(text)", rows).fit())["mean_sq"]
    variance, degrees = crossed_variance(values)
    total = of_seeds + of_texts - mixed
    assert variance == pytest.approx(total / 24)
    assert degrees == pytest.approx(total**2 / (of_seeds**2 / 3 + of_texts**2 / 5 + mixed**2 / 15))


def test_there_are_never_fewer_degrees_of_freedom_than_seeds_less_one():
    assert crossed_variance(np.array([[1.0, 0, 0], [1, 1, 1]])) == pytest.approx((1 / 9, 1))  # Satterthwaite's .94
    apart = np.zeros((3, 400))  # three models that err on other texts each: no text is hard for all
    for seed, wrong in enumerate((9, 5, 1)):
        apart[seed, 10 * seed : 10 * seed + wrong] = 1
    assert crossed_variance(apart)[1] >= 2
    assert np.ptp(difference_interval(apart, np.zeros((3, 400)))) < 0.1


def test_the_crossed_variance_of_seeds_that_agree_is_that_of_the_texts_alone():
    one = (np.arange(50) % 7 > 0).astype(float)
    variance, degrees = crossed_variance(np.array([one] * 4))
    assert variance == pytest.approx(one.var(ddof=1) / 50) and degrees == 49
    apart = np.array([one, np.ones(50)])
    assert crossed_variance(apart)[0] > crossed_variance(apart, over_seeds=False)[0]


def test_the_crossed_variance_estimates_the_variance_of_the_mean():
    rng = np.random.default_rng(0)
    found, means = [], []
    for _ in range(2000):
        values = rng.normal(0, 0.3, (5, 1)) + rng.normal(0, 1, 40) + rng.normal(0, 1, (5, 40))
        means.append(values.mean())
        found.append(crossed_variance(values)[0])
    assert np.mean(found) == pytest.approx(0.3**2 / 5 + 1 / 40 + 1 / 200, rel=0.1)
    assert np.var(means) == pytest.approx(0.3**2 / 5 + 1 / 40 + 1 / 200, rel=0.1)


# --- the intervals


def test_with_one_seed_the_interval_of_an_accuracy_is_wilsons():
    right = np.arange(200) >= 5
    expected = proportion_confint(195, 200, method="wilson")
    assert accuracy_interval(right[None]) == pytest.approx(expected)
    low, high = accuracy_interval(np.array([right] * 5))  # five seeds with the same mistakes tell no more
    assert low < expected[0] and expected[1] < high and high - low < 1.5 * (expected[1] - expected[0])


def test_no_interval_is_a_point_because_no_error_was_seen():
    for seeds in (1, 5):
        right = np.ones((seeds, 200))
        low, high = accuracy_interval(right)
        assert low == pytest.approx(1 / (1 + norm.ppf(0.975) ** 2 / 200)) and high == 1
        low, high = difference_interval(right, right)
        assert -low == pytest.approx(high) == pytest.approx(1 / (1 + 200 / norm.ppf(0.95) ** 2))


def score_by_likelihood(only_one: int, only_other: int, texts: int, difference: float) -> float:
    """Return the score statistic of a difference, its share of texts lost estimated by a search for the most likely one."""

    def loss(share: float) -> float:
        cells = ((only_one, share + difference), (only_other, share))
        cells += ((texts - only_one - only_other, 1 - 2 * share - difference),)
        return -sum(count * np.log(p) for count, p in cells if count)

    bounds = (max(0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12)
    share = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    spread = texts * (2 * share + difference - difference**2)
    return (only_one - only_other - texts * difference) / np.sqrt(spread)


@pytest.mark.parametrize("only_one, only_other, texts", [(12, 2, 50), (0, 1, 44), (3, 9, 40), (30, 22, 1500)])
def test_tangos_interval_holds_what_the_score_test_does_not_reject(only_one, only_other, texts):
    found = tango_interval(only_one / texts, only_other / texts, texts, norm.ppf(0.975))
    at_ends = [score_by_likelihood(only_one, only_other, texts, end) for end in found]
    assert at_ends == pytest.approx([1.95996, -1.95996], abs=2e-3)


def test_tangos_interval_touches_zero_where_mcnemars_test_does():
    only_one, only_other, texts = 15, 5, 300
    at_zero = np.sqrt(mcnemar([[0, only_one], [only_other, 0]], exact=False, correction=False).statistic)
    low, _ = tango_interval(only_one / texts, only_other / texts, texts, at_zero)
    assert low == pytest.approx(0, abs=1e-9)


def test_a_model_without_seeds_is_compared_with_each_seed_of_the_other():
    rng = np.random.default_rng(0)
    baseline, model = rng.random((1, 300)) < 0.9, rng.random((4, 300)) < 0.93
    assert difference_interval(model, baseline) == difference_interval(model, np.repeat(baseline, 4, axis=0))


def studies(number: int, seeds: int, texts: int, discordant: float, sd: float, alike: float = 0.6):
    """Yield simulated studies: who is right alone, at a true difference of the margin, shape (seeds, texts) each.

    The difference of a seed is the margin, give or take sd; a text that one seed has wrong, others tend to have wrong too.
    """
    rng = np.random.default_rng([texts, seeds, int(1e4 * discordant), int(1e4 * sd)])
    for _ in range(number):
        difference = -MARGIN + rng.normal(0, sd, (seeds, 1))
        total = np.maximum(discordant, abs(difference))
        texts_own, rest = rng.normal(size=texts), rng.normal(size=(seeds, texts))
        place = norm.cdf(np.sqrt(alike) * texts_own + np.sqrt(1 - alike) * rest)
        yield place > 1 - (total + difference) / 2, place < (total - difference) / 2


@pytest.mark.slow
@pytest.mark.parametrize("texts, discordant, sd", CASES)
def test_at_the_margin_not_worse_is_said_in_at_most_5_percent_and_the_interval_covers(texts, discordant, sd):
    said, covered = 0, 0
    for one, other in studies(1000, 5, texts, discordant, sd):
        said += difference_interval(one, other)[0] > -MARGIN
        low, high = difference_interval(one, other, level=0.95)
        covered += low <= -MARGIN <= high
    assert said <= 65  # of 1,000: an exact binomial test against 5 % at its upper 1.5 %
    assert 920 <= covered <= 980  # 97 % and what chance adds to it: the fewer discordant texts, the more careful


@pytest.mark.parametrize("texts, discordant, sd", [(1500, 0.02, 0.01), (1500, 0.06, 0.01)])
def test_the_interval_over_texts_alone_covers_too_little_where_seeds_differ(texts, discordant, sd):
    pairs = list(studies(200, 5, texts, discordant, sd))
    covered = [difference_interval(*pair, level=0.95, over_seeds=False) for pair in pairs]
    assert sum(low <= -MARGIN <= high for low, high in covered) < 180


@pytest.mark.parametrize("seeds", [1, 5, 10])
def test_the_interval_of_an_accuracy_covers(seeds):
    rng = np.random.default_rng(seeds)
    covered = 0
    for _ in range(600):
        chance = 0.95 + (rng.normal(0, 0.005, (seeds, 1)) if seeds > 1 else 0)
        place = norm.cdf(0.8 * rng.normal(size=800) + 0.6 * rng.normal(size=(seeds, 800)))
        low, high = accuracy_interval(place < chance)
        covered += low <= 0.95 <= high
    assert 0.92 <= covered / 600 <= 0.98


# --- the verdicts


@pytest.mark.parametrize(
    "low, high, expected",
    [
        (-0.05, -0.021, "worse by more than the margin"),
        (-0.05, -0.001, "worse within the margin"),
        (-0.01, -0.001, "worse within the margin"),
        (0.001, 0.05, "better"),
        (0.001, 0.01, "better"),
        (-0.019, 0.019, "equivalent within the margin"),
        (-0.019, 0.021, "not worse by more than the margin"),
        (-0.021, 0.001, "undecided"),
        (-0.02, 0.02, "undecided"),
    ],
)
def test_a_verdict_follows_from_where_the_interval_lies(low, high, expected):
    assert verdict(low, high, MARGIN) == expected


def test_every_verdict_can_be_reached_and_each_interval_has_one():
    ends = np.linspace(-0.05, 0.05, 41)
    reached = {verdict(low, high, MARGIN) for low, high in itertools.combinations(ends, 2)}
    assert reached == set(VERDICTS)


# --- the power


def test_the_power_is_that_of_a_hand_calculation():
    found = power(MARGIN, 0.05, 773)
    assert found["not worse"] == pytest.approx(0.8, abs=0.001)  # (1.645 + .842)² × .05 / .02² texts
    assert power(MARGIN, 0.05, 1071)["equivalent"] == pytest.approx(0.8, abs=0.001)
    assert power(MARGIN, 0.05, 204)["equivalent"] == 0
    assert found["half-width"] == pytest.approx(1.645 * np.sqrt(0.05 / 773), abs=1e-5)


def test_the_power_is_what_studies_show():
    rng = np.random.default_rng(0)
    found = power(MARGIN, 0.05, 600)
    intervals = []
    for _ in range(500):
        place = rng.random((1, 600))
        intervals.append(difference_interval(place < 0.025, place > 0.975))
    assert np.mean([low > -MARGIN for low, _ in intervals]) == pytest.approx(found["not worse"], abs=0.06)
    assert np.mean([(high - low) / 2 for low, high in intervals]) == pytest.approx(found["half-width"], rel=0.05)


# --- the choice


def test_the_pair_of_the_last_comparison_is_picked_on_validation_whatever_the_test_says():
    notebook = nbformat.read(ROOT / "notebooks/06_comparing.ipynb", as_version=4)
    (cell,) = (cell for cell in notebook.cells if "picked = {" in cell.source)
    rows = []
    for name, on_validation, on_test in (("a_lora", 8, 2), ("b_lora", 7, 10), ("c_qlora", 8, 9)):
        for part, right in (("validation", on_validation), ("test", on_test)):
            rows += [{"name": name, "set": part, "right": place < right} for place in range(10)]
    names = ["a_lora", "b_lora", "c_qlora"]
    parts = [{"all": 100, "trained in the adapter": size} for size in (20, 10, 15)]
    given = {
        "predictions": pd.DataFrame(rows),
        "table": pd.DataFrame({"method": ["lora", "lora", "qlora"]}, index=names),
        "kinds": pd.DataFrame({"parameters": parts}, index=names),
        "best_baseline": "keyword",
    }
    exec(cell.source, given)
    assert given["picked"] == {"adapter": "c_qlora", "baseline": "keyword"}  # as good as a_lora, and smaller
