"""Every figure that more than one cell of one notebook draws, and the one style."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import LogLocator
from numpy.typing import ArrayLike
from statsmodels.stats.proportion import proportion_confint

from helpers.complaints import CARD


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
    for place, method in enumerate(("baseline", "head", "lora", "full", "qlora"))
}


WAYS = {  # how the lines of the ways to learn from labels look
    "keyword": {"color": "grey", "linestyle": ":", "marker": None},
    "tfidf_logreg": {"color": METHODS["baseline"], "linestyle": "--", "marker": "D"},
    "embedding_logreg": {"color": "C4", "linestyle": "--", "marker": "v"},
    "head": {"color": METHODS["head"], "linestyle": "-", "marker": "^"},
    "lora": {"color": METHODS["lora"], "linestyle": "-", "marker": "o"},
    "full": {"color": METHODS["full"], "linestyle": "-", "marker": "s"},
}


def reach(values: float | pd.Series, ranges: Sequence) -> np.ndarray:
    """Return how far the intervals, (low, high) each, reach below and above the values, as errorbar takes it: (2, values).

    Never below zero: rounding may put the end of an interval a hair on the value's other side.
    """
    low, high = np.array(list(ranges), float).reshape(-1, 2).T
    return np.clip([values - low, high - values], 0, None).astype(float)


def name_beside(axes: plt.Axes, name: str, point: tuple[float, float], height: float, colour: str) -> None:
    """Write a name to the right of the axes, at a height from 0 to 1, and draw a thin line from it to its point."""
    line = {"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkB": 4, "relpos": (0, 0.5)}
    place = {"xytext": (1.05, height), "textcoords": "axes fraction", "va": "center"}
    axes.annotate(name, point, **place, fontsize=9, color=colour, arrowprops=line)


def draw_scores(seeds: pd.DataFrame, method: pd.Series, metrics: Sequence[str], panels: Sequence[plt.Axes]) -> None:
    """Draw a panel for each metric, from one half on: a bar a model, the mean over its seeds, and a dot for each seed.

    `seeds` holds the scores by (name, seed), `method` each model's way of training by name, in the order of the bars.
    """
    for axes, metric in zip(panels, metrics, strict=True):
        means = seeds[metric].groupby("name").mean().reindex(method.index)
        axes.barh(means.index, means, color=method.map(METHODS).tolist())
        for place, name in enumerate(method.index):
            values = seeds.loc[name, metric]
            if len(values) > 1:
                axes.plot(values, [place] * len(values), ".", color="black", markersize=3)
        axes.set(xlabel=f"{'F1' if metric == 'f1' else metric} (from .5)", xlim=(0.5, 1.01), xticks=[0.5, 0.75, 1.0])
    panels[0].invert_yaxis()
    used = [each for each in METHODS if each in set(method)]
    handles = [plt.Rectangle((0, 0), 1, 1, color=METHODS[each]) for each in used]
    figure = panels[0].get_figure()
    figure.legend(handles, used, loc="lower center", ncols=len(used), frameon=False, bbox_to_anchor=(0.5, -0.06))


def draw_accuracy(table: pd.DataFrame, seeds: pd.Series, lines: dict[str, float], axes: plt.Axes) -> None:
    """Draw each model's mean accuracy with its interval from .8 on, a small dot a seed, and named vertical lines.

    `table` has a row a model, in the order drawn, `seeds` the accuracy by (name, seed). What lies below .8 is drawn at the
    edge, as a triangle.
    """
    least = 0.8
    for place, (name, row) in enumerate(table.iterrows()):
        colour = METHODS[row["method"]]
        if row["accuracy"] < least:
            axes.plot(least + 0.002, place, marker="<", color=colour, linestyle="none")
            axes.text(least + 0.006, place, f"{row['accuracy']:.2f}", va="center", fontsize=9)
            continue
        error = reach(row["accuracy"], row["interval"])
        axes.errorbar(row["accuracy"], place, xerr=error, fmt="o", color=colour, capsize=3)
        if len(seeds[name]) > 1:
            axes.plot(seeds[name], [place + 0.25] * len(seeds[name]), ".", color=colour, markersize=5)
    for place, (name, value) in enumerate(lines.items()):
        axes.axvline(value, linestyle=":" if place else "--", color="grey", linewidth=1)
        axes.text(value - 0.002, -1.0 - 0.9 * place, name, color="grey", ha="right", fontsize=9)
    axes.set(xlim=(least, 1.0), ylim=(len(table) - 0.5, -1.0 - 0.9 * len(lines)))
    axes.set_yticks(range(len(table)), table.index)


def draw_forest(comparisons: pd.DataFrame, margin: float, axes: plt.Axes) -> None:
    """Draw each comparison's difference in points, its interval over seeds and texts, and a wider line over texts alone.

    The margin is shaded on both sides of zero; the verdict stands beside. What was not run has a name and no point.
    """
    axes.axvspan(-100 * margin, 100 * margin, color="0.92", zorder=0, label="the margin")
    axes.axvline(0, color="black", linewidth=0.8)
    labels = {"these models": "these trained models, 90 %", "interval": "seeds and texts, 90 %"}
    made = comparisons["verdict"] != "not run"
    for place, row in enumerate(comparisons.to_dict("records")):
        axes.text(1.02, place, row["verdict"], transform=axes.get_yaxis_transform(), va="center", fontsize=9)
        if row["verdict"] == "not run":
            continue
        first = place == np.argmax(made)
        low, high = (100 * end for end in row["these models"])
        axes.plot(
            [low, high],
            [place] * 2,
            color="C0",
            alpha=0.3,
            linewidth=7,
            label=labels["these models"] if first else None,
        )
        error = 100 * reach(row["difference"], (row["low"], row["high"]))
        label = labels["interval"] if first else None
        axes.errorbar(100 * row["difference"], place, xerr=error, fmt="o", color="C0", capsize=3, label=label)
    axes.set(xlabel="difference in accuracy, points", ylim=(len(comparisons) - 0.4, -0.6))
    axes.set_yticks(range(len(comparisons)), comparisons["one"] + " − " + comparisons["other"])
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=3, frameon=False, fontsize=9)


def draw_against(cost: pd.Series, table: pd.DataFrame, baseline: str, axes: plt.Axes) -> None:
    """Draw each model's mean accuracy, with its interval and name, against a cost in a logarithm; the baseline is a line."""
    chosen = table.loc[cost.index].sort_values("accuracy")
    error = reach(chosen["accuracy"], chosen["interval"])
    line = table.loc[baseline, "accuracy"]
    axes.axhline(line, linestyle="--", color="grey", linewidth=1)
    names = {
        **{name: (cost[name], value) for name, value in chosen["accuracy"].items()},
        baseline: (cost.max() * 2, line),
    }
    for place, (name, point) in enumerate(names.items()):
        colour = METHODS[chosen.loc[name, "method"]] if name in chosen.index else "grey"
        if name in chosen.index:
            axes.errorbar(*point, yerr=error[:, [place]], fmt="o", color=colour, capsize=3)
        name_beside(axes, name, point, (place + 0.5) / len(names), colour)  # evenly, so that no name covers another
    axes.set(xlabel=cost.name, xscale="log", xlim=(cost.min() / 2, cost.max() * 2))
    if cost.max() < 100 * cost.min():
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3) if cost.max() > 10 * cost.min() else (1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter("")


def draw_label_curve(summary: pd.DataFrame, axes: plt.Axes) -> None:
    """Draw accuracy against the number of labels, its axis a logarithm: a line a model with its intervals, named at its end.

    `summary` has rows of model, labels, accuracy and interval; a model without labels is a level line.
    """
    ends = {}
    names = summary["model"].unique()
    for place, (name, part) in enumerate(summary.groupby("model", sort=False)):
        style = WAYS[name]
        if (part["labels"] == 0).all():
            axes.axhline(part["accuracy"].iloc[0], label=name, **style | {"marker": None})
            ends[name] = (summary["labels"].max(), part["accuracy"].iloc[0])
            continue
        part = part.sort_values("labels")
        beside = part["labels"] * 1.05 ** (place - (len(names) - 1) / 2)  # a little, so that no interval covers another
        error = reach(part["accuracy"], part["interval"])
        axes.errorbar(beside, part["accuracy"], yerr=error, **style, capsize=2, linewidth=1.5, elinewidth=0.8)
        ends[name] = (beside.iloc[-1], part["accuracy"].iloc[-1])
    labels = sorted(set(summary["labels"]) - {0})
    axes.set(xscale="log", xlabel="labelled complaints", ylim=(0.5, 1.0))
    axes.set_xticks(labels, [f"{number:,}" for number in labels])
    axes.xaxis.set_minor_formatter("")
    order = sorted(ends, key=lambda name: ends[name][1])
    low, high = axes.get_ylim()
    middle = (np.mean([end for _, end in ends.values()]) - low) / (high - low)
    lowest = min(middle - 0.04 * (len(order) - 1), 0.97 - 0.08 * (len(order) - 1))
    for place, name in enumerate(order):  # around the lines' ends, evenly, so that no name covers another
        name_beside(axes, name, ends[name], lowest + 0.08 * place, WAYS[name]["color"])


def draw_reliability(labels: np.ndarray, probability: np.ndarray, name: str, axes: plt.Axes, bins: int) -> None:
    """Draw the share of class 1, with its 95 % interval, against the mean probability, in bins of equal size."""
    order = np.argsort(probability, kind="stable")
    for part in np.array_split(order, bins):
        low, high = proportion_confint(labels[part].sum(), len(part), method="wilson")
        share, mean = labels[part].mean(), probability[part].mean()
        axes.errorbar(mean, share, yerr=reach(share, (low, high)), fmt="o", color="C0", capsize=3)
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
    axes.set(title=name, xlabel="mean probability of class 1", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
