"""What judges the models: scores and intervals (taught in 02), comparisons (taught in 06), calibration and doubtful labels (taught in the appendices), costs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit, logit
from scipy.stats import chi2, norm, t
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support
from statsmodels.stats.proportion import proportion_confint

from helpers.verdicts import verdict

METRICS = ("accuracy", "precision", "recall", "f1")


def score(labels: ArrayLike, predictions: ArrayLike) -> dict[str, float]:
    """Return accuracy, precision, recall, f1 and macro_f1 of the predicted ids, each 0 to 1."""
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, predictions, average="binary", pos_label=1, zero_division=0.0
    )
    return {
        "accuracy": accuracy_score(labels, predictions),
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "macro_f1": f1_score(labels, predictions, average="macro", zero_division=0.0),
    }


def predicted(probability: ArrayLike) -> np.ndarray:
    """Return the predicted ids: 1 where the probability of class 1 is at least ½."""
    return (np.asarray(probability) >= 0.5).astype(int)


def scores_of_counts(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, tn: np.ndarray) -> dict[str, np.ndarray]:
    """Return the same five scores from counts of outcomes; the counts may be arrays, one entry a resample."""

    def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return np.divide(part, whole, out=np.zeros(np.shape(part)), where=np.asarray(whole) > 0)

    f1, f1_other = ratio(2.0 * tp, 2 * tp + fp + fn), ratio(2.0 * tn, 2 * tn + fp + fn)
    return {
        "accuracy": ratio(1.0 * (tp + tn), tp + fp + fn + tn),
        "precision": ratio(1.0 * tp, tp + fp),
        "recall": ratio(1.0 * tp, tp + fn),
        "f1": f1,
        "macro_f1": (f1 + f1_other) / 2,
    }


def intervals(
    labels: ArrayLike, predictions: ArrayLike, seed: int, draws: int = 10_000
) -> dict[str, tuple[float, float]]:
    """Return a 95 % interval (low, high) for each score: Wilson's for accuracy, the percentile bootstrap for the rest."""
    labels = np.asarray(labels)
    predictions = np.asarray(predictions)
    n = len(labels)
    right = int((labels == predictions).sum())
    cells = [((labels == a) & (predictions == b)).mean() for a, b in ((1, 1), (0, 1), (1, 0), (0, 0))]
    resampled = np.random.default_rng(seed).multinomial(n, cells, size=draws).T
    found = {k: tuple(np.percentile(v, [2.5, 97.5]).tolist()) for k, v in scores_of_counts(*resampled).items()}
    return found | {"accuracy": proportion_confint(right, n, method="wilson")}


def require_same_seeds(trainings: pd.DataFrame) -> None:
    """Raise ValueError unless every model in the table of trainings has the same seeds, each once."""
    names = trainings["model"] + "_" + trainings["method"]
    seeds = trainings["seed"].groupby(names).agg(lambda each: tuple(sorted(each)))
    if seeds.nunique() > 1 or trainings.groupby(names)["seed"].agg(lambda each: each.duplicated().any()).any():
        told = "; ".join(f"{name} {list(each)}" for name, each in seeds.items())
        raise ValueError(
            f"All models must be trained with the same seeds, each once, and these are not: {told}. Give all of them in "
            "one command: python run_all.py --controls --seeds 42 43 44"
        )


def require_comparable(results: dict[str, dict], data_sha256: dict[str, str], labels: tuple[str, ...]) -> None:
    """Raise ValueError unless all results come from the same texts, labels, precision, and base of each model."""
    bases: dict[str, str] = {}
    precisions = {stage: result["numerics"].get("precision") for stage, result in results.items() if result["models"]}
    for stage, result in results.items():
        fix = f"run it again on the same data: python run_all.py --from {stage}"
        for name, found in result["data_sha256"].items():
            if found != data_sha256.get(name, found):
                raise ValueError(
                    f"{stage} was made from another data/{name}.parquet than the one that is there: {fix}."
                )
        if tuple(result["labels"]) != labels:
            raise ValueError(f"{stage} has the labels {result['labels']}, this notebook has {list(labels)}: {fix}.")
        for row in result.get("trainings", []):
            if row["checkpoint"] != bases.setdefault(row["model"], row["checkpoint"]):
                raise ValueError(f"{stage} has trained {row['checkpoint']}, others {bases[row['model']]}: {fix}.")
    if len(set(precisions.values())) > 1:
        raise ValueError(f"The models were trained in different precisions, {precisions}: pass one PRECISION to all.")


def cost_of(scoring: dict, trainings: pd.DataFrame | None) -> dict:
    """Return what a model costs: scoring from what `measured` found, the rest from its trainings, the mean over their seeds.

    Sizes and memory are in MB, times in seconds, energy in watt-hours; `base` is the checkpoint's weights as they are on disk. A baseline has no
    trainings, and what has none is left out.
    """
    found = {
        "scoring, texts/s": scoring["texts"] / scoring["seconds"],
        "scoring, MB host": scoring["memory_mb"]["host"],
        "scoring, MB device": scoring["memory_mb"]["cuda"],
    }
    if trainings is None:
        return found
    first, seconds = trainings.iloc[0], trainings["train_seconds"]
    trained = {part: number for part, number in first["parameters"].items() if part != "all"}
    memory = pd.DataFrame(trainings["train_memory_mb"].tolist()).astype(float).mean()
    return (
        found
        | {"base, MB": first["base_mb"], "weights": first["parameters"]["all"]}
        | trained
        | {
            "trainable parameters": sum(trained.values()),
            "saved, MB": first["size_mb"],
            "training, s": seconds.mean(),
            "training, s, sd": seconds.std(),
            "training, texts/s": trainings["train_texts_per_second"].mean(),
            "training, MB host": memory["host"],
            "training, MB device": memory["cuda"],
            "training, Wh": trainings["train_energy_wh"].astype(float).mean(),
        }
    )


def crossed_variance(values: np.ndarray, over_seeds: bool = True) -> tuple[float, float]:
    """Return the variance of a mean over (seeds, texts), and its degrees of freedom.

    Seeds and texts are both draws, so the mean squares of both count, and that of their
    interaction, which is in both, once less; neither is less than the interaction. The
    degrees are Satterthwaite's. Without over_seeds the variance is over texts alone.
    """
    seeds, texts = values.shape
    by_seed = values.mean(axis=1, keepdims=True)
    by_text = values.mean(axis=0)
    of_texts = seeds * by_text.var(ddof=1)
    if seeds == 1 or not over_seeds:
        return of_texts / values.size, texts - 1.0
    of_seeds = texts * by_seed.var(ddof=1)
    rest = values - by_seed - by_text + values.mean()
    mixed = (rest**2).sum() / ((seeds - 1) * (texts - 1))
    of_texts = max(of_texts, mixed)
    if of_seeds <= mixed:
        return of_texts / values.size, texts - 1.0
    total = of_seeds + of_texts - mixed
    parts = of_seeds**2 / (seeds - 1) + of_texts**2 / (texts - 1)
    parts += mixed**2 / ((seeds - 1) * (texts - 1))
    return total / values.size, max(total**2 / parts, seeds - 1.0)


def effective_texts(values: np.ndarray, spread: float, level: float, over_seeds: bool) -> tuple[float, float]:
    """Return how many texts, read by one model, would give this mean the same variance,
    and the quantile for an interval at the level; spread is the variance of one value.

    The quantile is that of a t distribution. A variance is only as well known as the
    texts are many on which the values differ at all, so these limit its degrees.
    """
    variance, degrees = crossed_variance(values, over_seeds)
    if len(values) == 1 or variance == 0:
        return values.shape[1], float(norm.ppf((1 + level) / 2))
    unusual = (values != round(values.mean())).any(axis=0).sum()
    return spread / variance, float(t.ppf((1 + level) / 2, min(degrees, unusual)))


def accuracy_interval(right: np.ndarray, level: float = 0.95, over_seeds: bool = True) -> tuple[float, float]:
    """Return the interval of the mean accuracy; right has the shape (seeds, texts).

    It is Wilson's, for the number of texts that this mean is worth.
    """
    right = np.asarray(right, float)
    mean = right.mean()
    texts, quantile = effective_texts(right, mean * (1 - mean), level, over_seeds)
    alpha = 2 * norm.sf(quantile)
    low, high = proportion_confint(mean * texts, texts, alpha, method="wilson")
    return float(low), float(high)


def tango_interval(only_one: float, only_other: float, texts: float, quantile: float) -> tuple[float, float]:
    """Return Tango's score interval (1998) of the difference between two paired shares.

    Given are the shares of texts on which only one of both is right. It holds every
    difference that a score test does not reject.
    """

    def distance(difference: float) -> float:
        """Return the score statistic of the difference, less what it may be at most."""
        total = only_one + only_other
        b = (2 - only_one + only_other) * difference - total
        c = -only_other * difference * (1 - difference)
        share = (np.sqrt(max(0.0, b * b - 8 * c)) - b) / 4
        variance = 2 * share + difference * (1 - difference)
        away = abs(only_one - only_other - difference)
        return away - quantile * np.sqrt(max(0.0, variance) / texts)

    middle = only_one - only_other
    step = 1e-9  # where no model is ever right alone, the middle itself is a root too
    low = brentq(distance, -1, middle - step) if middle > step - 1 else -1.0
    high = brentq(distance, middle + step, 1) if middle < 1 - step else 1.0
    return float(low), float(high)


def difference_interval(
    one: np.ndarray, other: np.ndarray, level: float = 0.9, over_seeds: bool = True
) -> tuple[float, float]:
    """Return the interval of the mean difference in accuracy, one less other.

    Both say where a model is right, shape (seeds, texts), paired by seed; a model that
    has no seeds has one row. It is Tango's, for the number of texts that it is worth.
    """
    difference = np.asarray(one, float) - np.asarray(other, float)
    only_one, only_other = (difference > 0).mean(), (difference < 0).mean()
    spread = only_one + only_other - (only_one - only_other) ** 2
    texts, quantile = effective_texts(difference, spread, level, over_seeds)
    return tango_interval(only_one, only_other, texts, quantile)


def compare(one: np.ndarray | None, other: np.ndarray | None, margin: float) -> dict[str, Any]:
    """Return the difference in accuracy, one less other, its interval and the verdict.

    Both say where a model is right, shape (seeds, texts); None stands for a model that
    was not trained. The interval is that of two one-sided tests at 5 %, and covers seeds
    and texts; `these models` is the one over texts alone, `discordant` the share of
    texts on which exactly one of both is right.
    """
    if one is None or other is None:
        names = ("difference", "low", "high", "these models", "discordant", "seeds")
        return dict.fromkeys(names) | {"verdict": "not run"}
    low, high = difference_interval(one, other)
    return {
        "difference": float(one.mean() - other.mean()),
        "low": low,
        "high": high,
        "these models": difference_interval(one, other, over_seeds=False),
        "discordant": float((one != other).mean()),
        "seeds": max(len(one), len(other)),
        "verdict": verdict(low, high, margin),
    }


def power(margin: float, discordant: float, texts: int, level: float = 0.9) -> dict[str, float]:
    """Return what a comparison of two equally good models can show, before it is made.

    The half-width of its interval, the chance to be found not worse by more than the
    margin, that to be found equivalent, and the difference seen in 8 of 10 studies.
    """
    error = np.sqrt(discordant / texts)
    quantile = norm.ppf((1 + level) / 2)
    return {
        "half-width": quantile * error,
        "not worse": norm.cdf(margin / error - quantile),
        "equivalent": max(0.0, 2 * norm.cdf(margin / error - quantile) - 1),
        "least difference": (quantile + norm.ppf(0.8)) * error,
    }


def calibration_error(labels: ArrayLike, probability: np.ndarray, bins: int) -> np.ndarray:
    """Return the expected calibration error, 0 to 1, over equal-mass bins.

    The labels may have leading axes, as drawn ones do; the errors have their shape.
    """
    order = np.argsort(probability, kind="stable")
    gaps = (np.asarray(labels) - probability)[..., order]
    parts = np.array_split(gaps, bins, axis=-1)
    return sum(abs(part.sum(axis=-1)) for part in parts) / len(probability)


def null_range(probability: np.ndarray, bins: int, seed: int, draws: int = 1_000) -> tuple[float, float]:
    """Return the middle 95 % of the errors that the model would show if calibrated.

    Then its probabilities are true, so labels are drawn from them.
    """
    chance = np.random.default_rng(seed).random((draws, len(probability)))
    errors = calibration_error(chance < probability, probability, bins)
    low, high = np.percentile(errors, [2.5, 97.5])
    return float(low), float(high)


def logits(probability: ArrayLike) -> np.ndarray:
    """Return the logits of probabilities, clipped where 64 bits end: at about ±34.5."""
    return logit(np.clip(probability, 1e-15, 1 - 1e-15))


def with_temperature(probability: ArrayLike, temperature: float) -> np.ndarray:
    """Return the probabilities after their logits are divided by the temperature."""
    return expit(logits(probability) / temperature)


def loss_at(temperature: float, labels: ArrayLike, probability: ArrayLike) -> float:
    """Return the mean log loss of the probabilities at this temperature."""
    sign = 2 * np.asarray(labels) - 1
    return float(np.logaddexp(0, -sign * logits(probability) / temperature).mean())


def best_temperature(labels: ArrayLike, probability: ArrayLike) -> float:
    """Return the temperature, 1/20 to 20, with the least log loss on the labels."""

    def loss(log_temperature: float) -> float:
        return loss_at(np.exp(log_temperature), labels, probability)

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def temperature_interval(labels: Sequence[int], probability: ArrayLike) -> tuple[float, float]:
    """Return the 95 % interval of the best temperature, by the likelihood ratio.

    It holds the temperatures, 1/20 to 20, at which twice the log loss of all labels is
    at most 3.84 above the least, the quantile of chi-squared with one degree.
    """
    best = best_temperature(labels, probability)
    least = loss_at(best, labels, probability)

    def excess(log_temperature: float) -> float:
        loss = loss_at(np.exp(log_temperature), labels, probability)
        return 2 * len(labels) * (loss - least) - chi2.ppf(0.95, 1)

    middle = np.log(best)
    ends = [brentq(excess, end, middle) if excess(end) > 0 else end for end in (-3, 3)]
    return float(np.exp(ends[0])), float(np.exp(ends[1]))


def most_confident(right: np.ndarray, confidence: np.ndarray, weights: np.ndarray, share: float) -> tuple[float, float]:
    """Return the accuracy among the most confident share of the texts, and its texts.

    Both by weight: the number of texts is the effective one, (Σw)² / Σw².
    """
    order = np.argsort(-confidence, kind="stable")
    needed = share * weights.sum() - 1e-9
    taken = order[: np.searchsorted(np.cumsum(weights[order]), needed) + 1]
    chosen = weights[taken]
    accuracy = np.average(right[taken], weights=chosen)
    return float(accuracy), float(chosen.sum() ** 2 / (chosen**2).sum())


def label_issues(labels: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return the places of the texts whose label is in doubt, the most doubtful first.

    The probability is of class 1, from models that did not learn from the text. The
    rule is that of confident learning (Northcutt et al. 2021).
    """
    own = np.where(labels == 1, probability, 1 - probability)
    expected = np.array([own[labels == label].mean() for label in (0, 1)])
    doubted = (1 - own >= expected[1 - labels]) & (own < 0.5)
    return np.flatnonzero(doubted)[np.argsort(own[doubted], kind="stable")]


def mean_sd(values: pd.Series) -> str:
    """Return the mean as text, with the standard deviation where there are several values: 0.946 ± 0.008."""
    return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")
