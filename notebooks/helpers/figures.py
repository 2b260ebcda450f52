"""Every figure that more than one cell of one notebook draws, and the one style."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from numpy.typing import ArrayLike

from helpers.scores import CARD, predicted


def set_style() -> None:
    """Set the one style of all figures."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    plt.rcParams.update(
        {"figure.figsize": (8, 4), "figure.dpi": 100, "savefig.bbox": "tight", "figure.autolayout": True}
    )


def draw_confusion(
    labels: ArrayLike, predictions: ArrayLike, classes: tuple[str, ...], title: str, axes: plt.Axes
) -> None:
    """Draw the 2 × 2 confusion matrix, true class by row and predicted class by column, with counts in the cells."""
    short = ["Card" if name == CARD else name for name in classes]
    table = pd.crosstab(np.asarray(labels, int), np.asarray(predictions, int)).reindex(
        index=[0, 1], columns=[0, 1], fill_value=0
    )
    sns.heatmap(
        table, annot=True, fmt="d", cmap="Blues", cbar=False, square=True, ax=axes, xticklabels=short, yticklabels=short
    )
    axes.set(title=title, xlabel="predicted class", ylabel="true class")


def draw_scores(scores: pd.DataFrame, metric: str, axes: plt.Axes) -> None:
    """Draw one bar a model for the metric, coloured by the model's method, with its interval as a line at the end."""
    methods = ("baseline", "base", "lora", "qlora", "head", "full")
    colours = dict(zip(methods, sns.color_palette("colorblind"), strict=False)) | {"qlora_32bit": "0.5"}
    low, high = np.array([ranges[metric] for ranges in scores["intervals"]]).T
    error = np.clip([scores[metric] - low, high - scores[metric]], 0, None)
    axes.barh(scores.index, scores[metric], xerr=error, color=scores["method"].map(colours), capsize=3)
    axes.set(xlabel=metric, xlim=(0, 1.02))


def draw_differences(tests: dict[str, pd.DataFrame], axes: plt.Axes) -> None:
    """Draw the differences in accuracy of the same pairs on several sets of texts, {name of the set: its tests}."""
    places = np.arange(len(next(iter(tests.values()))))
    for number, (label, found) in enumerate(tests.items()):
        shift = 0.24 * (number - (len(tests) - 1) / 2)
        reach = np.clip([found["difference"] - found["low"], found["high"] - found["difference"]], 0, None)
        axes.errorbar(100 * found["difference"], places + shift, xerr=100 * reach, fmt="o", capsize=3, label=label)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel="difference in accuracy, points, with 95 % interval")
    axes.set_yticks(places, found["one"] + " − " + found["other"])
    axes.invert_yaxis()
    axes.legend(title="texts", loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)


def draw_against(cost: pd.Series, scores: pd.DataFrame, axes: plt.Axes) -> None:
    """Draw each trained model's accuracy, with its interval, against a cost in a logarithm; the linear model is a line."""
    trained = cost.drop("tfidf_logreg").dropna()
    for number, name in enumerate(trained.index):
        value = scores.loc[name, "accuracy"]
        (low, high) = scores.loc[name, "intervals"]["accuracy"]
        marker = {"distilbert": "s"}.get(scores.loc[name, "model"], "o")
        reach = [[value - low], [high - value]]
        axes.errorbar(cost[name], value, yerr=reach, fmt=marker, color=f"C{number}", capsize=4, label=name)
    axes.axhline(scores.loc["tfidf_logreg", "accuracy"], linestyle="--", color="grey", label="tfidf_logreg")
    axes.set(xlabel=cost.name, xscale="log", xlim=(trained.min() / 4, trained.max() * 4))
    axes.xaxis.set_minor_formatter("")


def draw_confidence(labels: np.ndarray, probability: dict[str, np.ndarray], left: plt.Axes, right: plt.Axes) -> None:
    """Draw, for {model: probability of class 1}, accuracy by confidence, and accuracy by the share of complaints routed."""
    shares = np.arange(1, len(labels) + 1) / len(labels)
    for name, values in probability.items():
        confidence = np.maximum(values, 1 - values)
        hit = predicted(values) == labels
        group = pd.DataFrame({"confidence": confidence, "right": hit}).groupby(
            pd.qcut(confidence, 4, duplicates="drop"), observed=True
        )
        group.mean().plot(x="confidence", y="right", marker="o", label=name, ax=left)
        among = hit[np.argsort(-confidence, kind="stable")].cumsum() / np.arange(1, len(labels) + 1)
        right.plot(shares[shares >= 0.1], among[shares >= 0.1], label=name)
    left.plot([0.7, 1], [0.7, 1], color="grey", linestyle="--", label="calibrated")
    left.set(xlabel="mean confidence of a quarter of the complaints", ylabel="share of correct predictions")
    right.set(xlabel="share of complaints routed, most confident first", ylabel="share of correct predictions")
    left.legend(fontsize="small")
