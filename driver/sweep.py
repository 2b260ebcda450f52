"""--sweep: the series run once for each value of a parameter, and what the scores make of it."""

import json
from pathlib import Path

from helpers.files import write_whole


def folder(out: Path, name: str, value) -> Path:
    """Return the output folder of the series with this value."""
    return out / "sweep" / f"{name}={value}"


def scores(name: str, values: list, out: Path) -> dict[str, dict]:
    """Return {model: {"value": […], "mean": […], "sd": […], "seeds": […]}}: accuracy on all unseen letters, over the seeds.

    The linear model has no seed of its own, so its sd is None, as is that of a model with a single training.
    """
    found = {}
    for value in values:
        result = json.loads((folder(out, name, value) / "results/06_comparing.json").read_text(encoding="utf-8"))
        linear = next(row["accuracy"] for row in result["all"] if row["model"] == "tfidf_logreg")
        over_seeds = {"tfidf_logreg": {"mean": linear, "sd": None, "seeds": 1}} | result["all_seeds"]
        for model, row in over_seeds.items():
            columns = found.setdefault(model, {"value": [], "mean": [], "sd": [], "seeds": []})
            for column, entry in zip(columns, (value, row["mean"], row["sd"], row["seeds"]), strict=True):
                columns[column].append(entry)
    return found


def draw(name: str, found: dict[str, dict]) -> bytes:
    """Return the figure as a PNG: accuracy against the parameter, a line a model, one sd over the seeds up and down."""
    from io import BytesIO

    from matplotlib.figure import Figure  # a second to import

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for model, columns in found.items():
        spread = [sd or 0 for sd in columns["sd"]]
        style = "--" if model == "tfidf_logreg" else "-"
        axes.errorbar(
            columns["value"], columns["mean"], yerr=spread, marker="o", capsize=3, linestyle=style, label=model
        )
    every = [value for columns in found.values() for value in columns["value"]]
    if min(every) > 0 and max(every) >= 8 * min(every):
        axes.set_xscale("log")
    axes.set(xlabel=name, ylabel="accuracy on all unseen letters")
    axes.set_xticks(sorted(set(every)), [f"{value:g}" for value in sorted(set(every))], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.4)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    file = BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def collect(name: str, values: list, out: Path) -> None:
    """Write results/sweep_NAME.json and plots/sweep_NAME.png from the finished series, and print the scores as a table."""
    found = scores(name, values, out)
    write_whole(out / f"results/sweep_{name}.json", json.dumps({"parameter": name, "accuracy": found}, indent=1))
    write_whole(out / f"plots/sweep_{name}.png", draw(name, found))
    print(
        f"\naccuracy on all unseen letters, mean over the seeds (sd)\n{name:18}" + "".join(f"{v:>16g}" for v in values)
    )
    for model, columns in found.items():
        cells = [
            f"{m:.3f}" + (f" ({sd:.3f})" if sd else "") for m, sd in zip(columns["mean"], columns["sd"], strict=True)
        ]
        print(f"{model:18}" + "".join(f"{cell:>16}" for cell in cells))
    print(f"Figure: {out / f'plots/sweep_{name}.png'}")
