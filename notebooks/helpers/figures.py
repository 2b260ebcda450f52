"""Every figure that more than one cell of one notebook draws, and the one style."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import LogLocator
from numpy.typing import ArrayLike
from statsmodels.stats.proportion import proportion_confint

from helpers.scores import CARD


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


METHODS = {  # the colour of each way to make a model, the same in all figures
    method: sns.color_palette("colorblind")[place]
    for place, method in enumerate(("baseline", "head", "lora", "full", "qlora", "base", "qlora_32bit"))
}


def reach(values: pd.Series, ranges: pd.Series) -> np.ndarray:
    """Return how far the intervals reach below and above the values, shape (2, values), as errorbar takes it."""
    low, high = np.array(ranges.tolist()).T
    return np.clip([values - low, high - values], 0, None).astype(float)


def draw_scores(scores: pd.DataFrame, metrics: Sequence[str], panels: Sequence[plt.Axes]) -> None:
    """Draw a panel for each metric, from one half on: a bar a model in its method's colour, with its 95 % interval."""
    for axes, metric in zip(panels, metrics, strict=True):
        ranges = scores["intervals"].map(lambda each, metric=metric: each[metric])
        error = reach(scores[metric], ranges)
        colours = scores["method"].map(METHODS).tolist()
        axes.barh(scores.index, scores[metric].astype(float), xerr=error, color=colours, capsize=2, error_kw={"lw": 1})
        axes.set(xlabel=f"{'F1' if metric == 'f1' else metric} (from .5)", xlim=(0.5, 1.01), xticks=[0.5, 0.75, 1.0])
    panels[0].invert_yaxis()
    used = [method for method in METHODS if method in set(scores["method"])]
    handles = [plt.Rectangle((0, 0), 1, 1, color=METHODS[method]) for method in used]
    figure = panels[0].get_figure()
    figure.legend(handles, used, loc="lower center", ncols=len(used), frameon=False, bbox_to_anchor=(0.5, -0.06))


def draw_accuracy(scores: pd.DataFrame, runs: pd.Series, line: str, axes: plt.Axes) -> None:
    """Draw each model's accuracy with its interval from .8 on, a small dot a seed, and the named model as a line.

    `runs` is the accuracy by (name, seed). What lies below .8 is drawn at the edge, as a triangle.
    """
    least = 0.8
    for place, (name, row) in enumerate(scores.iterrows()):
        colour = METHODS[row["method"]]
        if row["accuracy"] < least:
            axes.plot(least + 0.002, place, marker="<", color=colour, linestyle="none")
            axes.text(least + 0.006, place, f"{row['accuracy']:.2f}", va="center", fontsize=9)
            continue
        error = reach(pd.Series([row["accuracy"]]), pd.Series([row["intervals"]["accuracy"]]))
        axes.errorbar(row["accuracy"], place, xerr=error, fmt="o", color=colour, capsize=3)
        seeds = runs[name]
        if len(seeds) > 1:
            axes.plot(seeds, [place + 0.25] * len(seeds), ".", color=colour, markersize=5)
    axes.axvline(scores.loc[line, "accuracy"], linestyle="--", color="grey", linewidth=1)
    axes.text(scores.loc[line, "accuracy"] - 0.002, -1.1, line, color="grey", ha="right", fontsize=9)
    axes.set(xlim=(least, 1.0), ylim=(len(scores) - 0.5, -1.9))
    axes.set_yticks(range(len(scores)), scores.index)


def draw_differences(tests: dict[str, pd.DataFrame], axes: plt.Axes) -> None:
    """Draw the differences in accuracy of the same pairs on several sets of texts, {name of the set: its tests}."""
    places = np.arange(len(next(iter(tests.values()))))
    for number, (label, found) in enumerate(tests.items()):
        shift = 0.24 * (number - (len(tests) - 1) / 2)
        error = 100 * reach(found["difference"], pd.Series(list(zip(found["low"], found["high"], strict=True))))
        axes.errorbar(100 * found["difference"], places + shift, xerr=error, fmt="o", capsize=3, label=label)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel="difference in accuracy, points, with 95 % interval")
    axes.set_yticks(places, found["one"] + " − " + found["other"])
    axes.set_ylim(len(places) - 0.4, -0.6)
    axes.legend(title="complaints", loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)


def draw_against(cost: pd.Series, scores: pd.DataFrame, axes: plt.Axes) -> None:
    """Draw each model's accuracy, with its interval and name, against a cost in a logarithm; the linear model is a line."""
    chosen = scores.loc[cost.index].sort_values("accuracy")
    error = reach(chosen["accuracy"], chosen["intervals"].map(lambda each: each["accuracy"]))
    line = scores.loc["tfidf_logreg", "accuracy"]
    axes.axhline(line, linestyle="--", color="grey", linewidth=1)
    for place, (name, value) in enumerate(chosen["accuracy"].items()):
        colour = METHODS[chosen.loc[name, "method"]]
        axes.errorbar(cost[name], value, yerr=error[:, [place]], fmt="o", color=colour, capsize=3)
        beside = (1.04, (place + 0.5) / (len(chosen) + 1))  # evenly, so that no name covers another
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkB": 4}
        axes.annotate(
            name, (cost[name], value), beside, textcoords="axes fraction", va="center", fontsize=9, arrowprops=leader
        )
    axes.annotate(
        "tfidf_logreg",
        (1.0, line),
        (1.04, 0.99),
        textcoords="axes fraction",
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=9,
        color="grey",
        arrowprops={"arrowstyle": "-", "color": "grey", "linewidth": 0.7},
    )
    axes.set(xlabel=cost.name, xscale="log", xlim=(cost.min() / 2, cost.max() * 2))
    if cost.max() < 100 * cost.min():
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if cost.max() > 10 * cost.min() else (1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter("")


def draw_reliability(labels: np.ndarray, probability: np.ndarray, name: str, axes: plt.Axes, bins: int = 5) -> None:
    """Draw the share of class 1, with its 95 % interval, against the mean probability, in bins of equal size."""
    order = np.argsort(probability, kind="stable")
    for part in np.array_split(order, bins):
        low, high = proportion_confint(labels[part].sum(), len(part), method="wilson")
        share, mean = labels[part].mean(), probability[part].mean()
        axes.errorbar(
            mean, share, yerr=np.clip([[share - low], [high - share]], 0, None), fmt="o", color="C0", capsize=3
        )
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
    axes.set(title=name, xlabel="mean probability of class 1", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
