"""What judges the models: scores, intervals and baselines (taught in 02), tests and calibration (taught in 06)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss, precision_recall_fscore_support
from sklearn.pipeline import Pipeline, make_pipeline
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from helpers.complaints import normalise

METRICS = ("accuracy", "precision", "recall", "f1")

CARD, MORTGAGE = "Credit card or prepaid card", "Mortgage"

KEYWORDS = {
    CARD: ("card", "cards", "prepaid", "visa", "rewards", "purchase", "merchant", "charge", "charges", "fraud"),
    MORTGAGE: ("mortgage", "loan", "escrow", "home", "house", "property", "foreclosure", "modification", "refinance"),
}


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


def choose_keywords(texts: Sequence[str], labels: ArrayLike, classes: tuple[str, ...]) -> list[list[str]]:
    """Return the words that speak for class 0, and those for class 1.

    For mortgages and cards these are fixed lists. For other classes they are the ten
    words of each whose share of texts exceeds the other class's by most.
    """
    if set(classes) <= KEYWORDS.keys():
        return [list(KEYWORDS[name]) for name in classes]
    counter = CountVectorizer(preprocessor=normalise, binary=True, min_df=2)
    held = counter.fit_transform(texts)
    labels = np.asarray(labels)
    lead = np.asarray(held[labels == 1].mean(axis=0) - held[labels == 0].mean(axis=0)).ravel()
    order = np.argsort(lead, kind="stable")
    words = counter.get_feature_names_out()[order]
    return [words[lead[order] < 0][:10].tolist(), words[lead[order] > 0][:-11:-1].tolist()]


def keyword_rule(texts: Sequence[str], keywords: list[list[str]]) -> np.ndarray:
    """Return P(class 1): 1 where its words lead, ½ at equal counts, else 0."""
    words = [normalise(text).split() for text in texts]
    lead = [sum(w in keywords[1] for w in ws) - sum(w in keywords[0] for w in ws) for ws in words]
    return (np.sign(lead) + 1) / 2


def linear_model(texts: Sequence[str], labels: ArrayLike) -> Pipeline:
    """Return TF-IDF over words and pairs with a logistic regression on top, fitted."""
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    return make_pipeline(words, LogisticRegression(C=10, max_iter=1000)).fit(texts, labels)


def require_comparable(
    results: dict[str, dict], data_sha256: dict[str, str], mini: bool, labels: tuple[str, ...]
) -> None:
    """Raise ValueError unless all results come from the same texts, labels, scale and precision."""
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
        if result["models"] and result["mini"] != mini:
            raise ValueError(
                f"{stage} is a {'mini' if result['mini'] else 'full'} result among others that are not: {fix}."
            )
    if len(set(precisions.values())) > 1:
        raise ValueError(f"The models were trained in different precisions, {precisions}: pass one PRECISION to all.")


def cost_of(scoring: dict, record: dict | None) -> dict:
    """Return what a model costs: scoring from what `measured` found, the rest from its record; what has none is left out.

    Sizes and memory are in MB, times in seconds; `base` is the checkpoint's weights as they are on disk.
    """
    found = {
        "scoring, texts/s": scoring["texts"] / scoring["seconds"],
        "scoring, MB host": scoring["memory_mb"]["host"],
        "scoring, MB device": scoring["memory_mb"]["cuda"],
    }
    if record is None:
        return found
    found |= {"base, MB": record["base_mb"], "weights": record["parameters"]["all"]}
    if record["weights"] is None:
        return found | {"weights": found["weights"] - record["parameters"]["trained in the adapter"]}
    trained = {part: number for part, number in record["parameters"].items() if part != "all"}
    return (
        found
        | trained
        | {
            "trainable parameters": sum(trained.values()),
            "saved, MB": record["size_mb"],
            "training, s": record["train_seconds"],
            "training, texts/s": record["train_texts_per_second"],
            "training, MB host": record["train_memory_mb"]["host"],
            "training, MB device": record["train_memory_mb"]["cuda"],
        }
    )


def paired_test(
    labels: Sequence[int], one: ArrayLike, other: ArrayLike, seed: int, draws: int = 10_000
) -> dict[str, float]:
    """Return the difference in accuracy, its 95 % bootstrap interval, and McNemar's p.

    It is one minus other, and p is exact; the draws are resamples of the texts.
    """
    one_right = np.asarray(one) == np.asarray(labels)
    other_right = np.asarray(other) == np.asarray(labels)
    only_one = (one_right & ~other_right).sum()
    only_other = (~one_right & other_right).sum()
    n = len(labels)
    shares = np.array([only_one, only_other, n - only_one - only_other]) / n
    resampled = np.random.default_rng(seed).multinomial(n, shares, size=draws)
    low, high = np.percentile((resampled[:, 0] - resampled[:, 1]) / n, [2.5, 97.5])
    p = mcnemar([[0, only_one], [only_other, 0]], exact=True).pvalue if only_one + only_other else 1.0
    found = {"difference": (only_one - only_other) / n, "low": low, "high": high, "p": p}
    return {name: float(value) for name, value in found.items()}


def calibration_error(labels: ArrayLike, probability: np.ndarray, bins: int = 10) -> float:
    """Return the expected calibration error, 0 to 1, over equal bins of confidence."""
    confidence = np.maximum(probability, 1 - probability)
    right = predicted(probability) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(right[place == b].mean() - confidence[place == b].mean()) * (place == b).mean() for b in np.unique(place)
    ]
    return float(sum(gaps))


def with_temperature(probability: ArrayLike, temperature: float) -> np.ndarray:
    """Return the probabilities after their logits are divided by the temperature."""
    return expit(logit(np.clip(probability, 1e-6, 1 - 1e-6)) / temperature)


def best_temperature(labels: ArrayLike, probability: ArrayLike) -> float:
    """Return the temperature, 1/20 to 20, with the least log loss on the labels."""

    def loss(log_temperature: float) -> float:
        return log_loss(labels, with_temperature(probability, np.exp(log_temperature)))

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))
