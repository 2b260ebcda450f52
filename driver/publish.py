"""What comes of a run: the result table on the terminal, and by --save the notebooks' outputs, README's table and figure."""

import io
import json
import re
from pathlib import Path

from driver import Refused
from driver.parameters import read_notebook, source
from driver.scheduler import Job, state
from driver.stages import NAMES, sweep_folder
from helpers.files import write_whole

MOST_BYTES = 1_000_000  # code-hosting pages stop showing larger notebooks
MARKS = ("<!-- results: written by run_all.py --save -->", "<!-- end of results -->")
RESULT = "06_comparing.json"
FIGURE = "barplot_perfmetrics.png"


def read(path: Path) -> dict:
    """Return the content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


# --- tables -----------------------------------------------------------------------------------------------------------


def table(rows: list[dict[str, str]], markdown: bool = False) -> str:
    """Return the rows, {column: cell}, as a table: aligned, or in Markdown; a column in which nothing stands is left out."""
    columns = [column for column in rows[0] if any(row[column] for row in rows)]
    lines = [columns, *([row[column] for column in columns] for row in rows)]
    if markdown:
        head, *body = (f"| {' | '.join(line)} |" for line in lines)
        return "\n".join([head, "|" + "---|" * len(columns), *body])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("   ".join(line).rstrip() for line in padded)


def score_rows(result: dict, original: dict[str, dict[str, float]]) -> list[dict[str, str]]:
    """Return the test scores, a row a model, beside those that the original study published for its own."""
    rows = []
    for row in result["test"]:
        low, high = row["intervals"]["accuracy"]
        study = original.get(row["model"])
        rows.append(
            {
                "model": row["model"],
                "kind": row["kind"],
                "accuracy (95 % interval)": f"{row['accuracy']:.3f} ({low:.3f} to {high:.3f})",
                "accuracy over seeds": over_seeds(result, row["model"]),
                **{name: f"{row[name.lower()]:.3f}" for name in ("precision", "recall", "F1")},
                "original study: accuracy, F1": f"{study['accuracy']:.3f}, {study['f1']:.3f}" if study else "",
            }
        )
    return rows


def over_seeds(result: dict, model: str) -> str:
    """Return the model's accuracy over its seeds in words; "" when it was trained once, or never."""
    found = result["seeds"].get(model, {"seeds": 1})
    if found["seeds"] == 1:
        return ""
    return f"{found['mean']:.3f} ± {found['sd']:.3f} (worst of {found['seeds']}: {found['worst']:.3f})"


def show_results(out: Path, root: Path, compare: bool) -> None:
    """Print the result table and, where asked to, how a mini run's compares with the published one."""
    result = read(out / "results" / RESULT)
    print(f"\n{table(score_rows(result, {}))}")
    published = root / "docs" / RESULT
    if result["mini"] and compare and published.exists():
        print(beside_published(result, read(published)))


def beside_published(result: dict, published: dict) -> str:
    """Return a sentence on a mini run's table beside the published one: equal to the last digit, or which condition differs."""
    theirs = {row["model"]: row for row in published["test"]}
    differing = [row["model"] for row in result["test"] if row != theirs.get(row["model"])]
    if not differing:
        return f"All {len(result['test'])} rows are those of the published table, byte for byte."
    here, there = (
        {"data": each["data"], "models": each["models"], "seed": each["seed"], **each["versions"], **each["numerics"]}
        for each in (result, published)
    )
    found = [
        f"{name}: {here.get(name, 'not set')}, published with {there.get(name, 'not set')}"
        for name in sorted(here.keys() | there.keys())
        if here.get(name) != there.get(name)
    ]
    why = "; ".join(found) or "nothing that is pinned: please report it with this run's results/06_comparing.json"
    return f"{len(differing)} of {len(result['test'])} rows are not those of the published table. What differs: {why}."


# --- a sweep ----------------------------------------------------------------------------------------------------------


def sweep_scores(name: str, values: list[int | float], out: Path) -> dict[str, dict[str, list]]:
    """Return {model: {"value": […], "mean": […], "sd": […], "seeds": […]}}: accuracy on all unseen complaints, over the seeds.

    The linear model has no seed of its own, so its sd is None, as is that of a model with a single training.
    """
    found = {}
    for value in values:
        result = read(out / sweep_folder(name, value) / "results" / RESULT)
        linear = next(row["accuracy"] for row in result["all"] if row["model"] == "tfidf_logreg")
        models = {"tfidf_logreg": {"mean": linear, "sd": None, "seeds": 1}} | result["all_seeds"]
        for model, row in models.items():
            columns = found.setdefault(model, {"value": [], "mean": [], "sd": [], "seeds": []})
            for column, entries in columns.items():
                entries.append(value if column == "value" else row[column])
    return found


def show_sweep(name: str, values: list[int | float], out: Path) -> None:
    """Write results/sweep_NAME.json and plots/sweep_NAME.png from the finished series, and print the scores as a table."""
    found = sweep_scores(name, values, out)
    write_whole(out / f"results/sweep_{name}.json", json.dumps({"parameter": name, "accuracy": found}, indent=1))
    write_whole(out / f"plots/sweep_{name}.png", draw_sweep(name, found))
    rows = []
    for model, columns in found.items():
        spread = [f" ({sd:.3f})" if sd else "" for sd in columns["sd"]]
        points = zip(columns["value"], columns["mean"], spread, strict=True)
        rows.append({name: model} | {f"{value:g}": f"{mean:.3f}{sd}" for value, mean, sd in points})
    print(f"\naccuracy on all unseen complaints, mean over the seeds (sd)\n{table(rows)}")
    print(f"\nFigure: {out / f'plots/sweep_{name}.png'}")


def draw_sweep(name: str, found: dict[str, dict[str, list]]) -> bytes:
    """Return the figure as a PNG: accuracy against the parameter, a line a model, one sd over the seeds up and down."""
    from matplotlib.figure import Figure  # a second to import

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for model, columns in found.items():
        spread = [sd or 0 for sd in columns["sd"]]
        axes.errorbar(columns["value"], columns["mean"], yerr=spread, marker="o", capsize=3, label=model)
    least, *_, most = sorted(value for columns in found.values() for value in [*columns["value"], *columns["value"]])
    axes.set_xscale("log" if 0 < 8 * least <= most else "linear")
    axes.set(xlabel=name, ylabel="accuracy on all unseen complaints")
    axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


# --- --save -----------------------------------------------------------------------------------------------------------


def save(jobs: list[Job], root: Path, out: Path) -> None:
    """Write clean outputs back into notebooks/, and table and figure into README.md and docs/; Refused when one is unfit."""
    behind = [job.name for job in jobs if state(job) != "done"]
    if behind:
        raise Refused(f"--save needs all notebooks up to date; these are not: {', '.join(behind)}. Run them first.")
    pages = {name: root / f"notebooks/{name}.ipynb" for name in NAMES}
    hidden = [root, Path.home(), out]
    texts = {pages[name]: clean(pages[name], out / f"executed/{name}.ipynb", hidden) for name in NAMES}
    texts[root / "README.md"] = with_results(
        (root / "README.md").read_text(encoding="utf-8"),
        read(out / "results" / RESULT),
        read(root / "results/original_study.json")["scores"],
    )
    texts[root / "docs" / RESULT] = (out / "results" / RESULT).read_bytes()
    texts[root / "docs" / FIGURE] = (out / "plots" / FIGURE).read_bytes()
    for path, text in texts.items():
        write_whole(path, text)
    print(
        f"Saved the outputs of {len(pages)} notebooks in {root / 'notebooks'}, table and figure in README.md and docs/"
    )


def clean(notebook: Path, executed: Path, paths: list[Path]) -> str:
    """Return the notebook's new text, with the executed one's outputs and counts 1..n; Refused when it is unfit to share."""
    page = read_notebook(notebook)
    cells = [cell for cell in page["cells"] if cell["cell_type"] == "code"]
    ran = [cell for cell in read_notebook(executed)["cells"] if cell["cell_type"] == "code"]
    ran = [cell for cell in ran if "injected-parameters" not in cell["metadata"].get("tags", [])]
    for count, (cell, run) in enumerate(zip(cells, ran, strict=True), start=1):
        cell["execution_count"] = count
        cell["outputs"] = [output for output in run["outputs"] if not is_passing(output)]
        for output in cell["outputs"]:
            if output["output_type"] == "execute_result":
                output["execution_count"] = count
            for path in machine_paths(output, paths):
                line = source(cell).splitlines()[0]
                raise Refused(f"{notebook.name}, cell [{count}] ({line}) shows the path {path}: print a relative one.")
    text = json.dumps(page, indent=1, ensure_ascii=False, sort_keys=True) + "\n"  # as nbformat writes it
    if len(text.encode()) > MOST_BYTES:
        raise Refused(
            f"{notebook.name} would take {len(text.encode()):,} bytes, over {MOST_BYTES:,}: draw smaller figures."
        )
    return text


def is_passing(output: dict) -> bool:
    """Return whether the output is only of use while a cell runs: standard error, a widget, a progress display."""
    data = output.get("data", {})
    progress = "<progress" in "".join(data.get("text/html", ""))
    return output.get("name") == "stderr" or "application/vnd.jupyter.widget-view+json" in data or progress


def machine_paths(output: dict, paths: list[Path]) -> list[str]:
    """Return which of the paths the output shows, pictures aside."""
    data = {kind: value for kind, value in output.get("data", {}).items() if not kind.startswith("image/")}
    text = json.dumps([output.get("text", ""), data], ensure_ascii=False)
    return [str(path) for path in paths if re.search(re.escape(str(path)) + r"(?![\w-])", text)]


def provenance(result: dict) -> str:
    """Return a sentence on which data and models the numbers come from; a mini run is called one."""
    mini = "**a mini run** (they show that everything works, not what the full-size models reach)"
    models = ", ".join(f"`{model}`" for model in result["models"])
    return (
        f"These numbers are of {mini if result['mini'] else 'a full run'}: data `{result['data']}`, models {models}, "
        f"{result['letters']} test letters. The last column quotes the original study of this task, which ran other models on other letters."
    )


def with_results(text: str, result: dict, original: dict[str, dict[str, float]]) -> str:
    """Return the README's text with what stands between its two marks replaced by the result's sentence and table."""
    between = "\n".join(["", provenance(result), "", table(score_rows(result, original), markdown=True), ""])
    pattern = re.compile(re.escape(MARKS[0]) + ".*" + re.escape(MARKS[1]), re.DOTALL)
    found, count = pattern.subn(lambda _: MARKS[0] + between + MARKS[1], text)
    if count != 1:
        raise Refused(f"README.md must hold {MARKS[0]} and {MARKS[1]} once, not {count} times.")
    return found
