"""What comes of a run: the result table, the pages, and by --save the notebooks' outputs, README, results/ and plots/."""

import io
import json
import math
import re
from pathlib import Path
from typing import Any

from driver import Refused, findings, site
from driver.parameters import SOURCES, defaults, read_notebook, source
from driver.scheduler import Job, state
from driver.stages import LABELS, NAMES, sweep_folder
from helpers import minilm
from helpers.files import OWN_DRAWS, PUBLISHED_DRAWS, is_mini, read_lines, short_name, write_whole

MOST_BYTES = 1_000_000  # code-hosting pages stop showing larger notebooks
MARKS = ("<!-- results: written by run_all.py --save -->", "<!-- end of results -->")
RESULT = "06_comparing.json"
PUBLISHED = {  # by what was run: the published results, under names that no run writes, and how their figures' names begin
    "demo": ("offline_demo.json", ""),
    "real": ("real_complaints.json", "real_"),
    "full": ("full_study.json", "full_"),
}
SECTIONS = {"06_comparing": "comparison", LABELS: "labels"}  # the notebooks whose results are published
FIGURE = "barplot_perfmetrics.png"
FIGURES = {  # and their figures
    "06_comparing": {
        FIGURE: FIGURE,
        "06_accuracy.png": "accuracy.png",
        "06_comparisons.png": "comparisons.png",
        "06_cost.png": "cost.png",
    },
    LABELS: {"appendix_labels_curve.png": "labels.png"},
}


def read(path: Path) -> dict:
    """Return the content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


# --- tables -----------------------------------------------------------------------------------------------------------


def table(rows: list[dict[str, str]], markdown: bool = False) -> str:
    """Return the rows, {column: cell}, as a table: aligned, or in Markdown; a column in which nothing stands is left out."""
    columns = [column for column in rows[0] if any(row[column] for row in rows)]
    lines = [columns, *([row[column] for column in columns] for row in rows)]
    if markdown:
        head, *rest = (f"| {' | '.join(line)} |" for line in lines)
        return "\n".join([head, "|" + "---|" * len(columns), *rest])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("   ".join(line).rstrip() for line in padded)


def kind_of_run(result: dict) -> str:
    """Return what a result is of: the offline "demo", a miniature or minilm on "real" complaints, or a "full" run."""
    if is_mini(result["data"]):
        return "demo"
    return "real" if any(is_mini(model) or model == minilm.NAME for model in result["models"]) else "full"


def score_rows(result: dict) -> list[dict[str, str]]:
    """Return the scores on the held-out complaints, a row a model, for the terminal."""
    return [
        {
            "model": row["name"],
            "method": row["method"],
            "seeds": f"{row['seeds']}",
            "accuracy (95 % interval)": findings.told(row),
            **{name: f"{row[name.lower()]:.3f}" for name in ("precision", "recall", "F1")},
        }
        for row in result["table"]
    ]


def front_rows(result: dict, original: dict[str, dict[str, float]]) -> list[dict[str, str]]:
    """Return the front page's table, with costs and the study's scores: no trained heads, no baseline below the keyword rule.

    A miniature has its size in its cell, and minilm, which is no DistilBERT, has no score of the study beside it.
    """
    least = next((row["accuracy"] for row in result["table"] if row["name"] == "keyword"), 0)
    rows = []
    for row in result["table"]:
        name = row["name"]
        if row["method"] == "head" or (row["method"] == "baseline" and row["accuracy"] < least):
            continue
        cost = result["costs"][name]
        trained, seconds = cost.get("trainable parameters"), cost.get("training, s")
        base = findings.base_of(row["model"], result)
        study = original.get(name) if base != minilm.NAME else None
        size = f", a miniature of {cost['weights'] / 1e6:.1f} M parameters" if study and is_mini(base) else ""
        rows.append(
            {
                "model": f"`{findings.shown(name, result)}`{size}",
                "trainable parameters": f"{trained:,.0f}" if trained else "",
                "training, s": f"{seconds:,.0f}" if seconds else "",
                f"accuracy on {result['held_out']:,} held-out, mean over {seeds(result)} (95 %)": findings.told(row),
                "sd over seeds": f"{row['sd']:.3f}" if row["sd"] is not None else "",
                "on the test set": f"{row['test']:.3f}",
                "original study": f"{study['accuracy']:.3f}" if study else "",
            }
        )
    return rows


def verdict_rows(result: dict) -> list[dict[str, str]]:
    """Return the declared comparisons that were run, with what the first model of each costs beside the other."""
    rows = []
    for pair in (pair for pair in result["comparisons"] if pair["verdict"] != "not run"):
        names = (pair["one"], pair["other"])
        points = [f"{100 * pair[each]:+.1f}" for each in ("difference", "low", "high")]
        one, other = (result["costs"][name] for name in names)
        share, times = (
            (one[cost] or 0) / (other[cost] or math.inf) for cost in ("trainable parameters", "training, s")
        )
        told = f"{share:,.0f} ×" if share > 1 else f"{100 * share:.0f} %"
        rows.append(
            {
                "comparison": " − ".join(f"`{findings.shown(name, result)}`" for name in names),
                "accuracy, points (90 %)": f"{points[0]} ({points[1]} to {points[2]})",
                "verdict": pair["verdict"],
                "trained parameters, beside the other's": told if share else "",
                "training time, beside the other's": f"{times:.1f} ×" if times else "",
            }
        )
    return rows


def verdicts(result: dict) -> str:
    """Return, in Markdown, which comparisons were declared, and the table of their verdicts."""
    margin = f"{100 * result['margin']:g} points"
    return (
        f"Before any training these comparisons were declared, with a margin of {margin}:\n\n"
        f"{table(verdict_rows(result), markdown=True)}"
    )


def label_rows(result: dict) -> list[dict[str, str]]:
    """Return the mean accuracies by the number of labels, a column a way and in it the sets; bold is better than the linear model."""
    means: dict[tuple[int, str], list[str]] = {}
    better = {
        (pair["set"], pair["labels"], pair["one"]) for pair in result["comparisons"] if pair["verdict"] == "better"
    }
    for row in result["summary"]:
        if row["labels"]:
            bold = "**" * ((row["set"], row["labels"], row["model"]) in better)
            means.setdefault((row["labels"], row["model"]), []).append(f"{bold}{row['accuracy']:.3f}{bold}")
    ways = dict.fromkeys(way for _, way in means)
    return [
        {"labelled complaints": f"{number:,}", **{f"`{way}`": " / ".join(means[number, way]) for way in ways}}
        for number in sorted({number for number, _ in means})
    ]


def seeds(result: dict) -> str:
    """Return over how many seeds each model was trained: 1 seed, 10 seeds."""
    number = max(row["seeds"] for row in result["table"])
    return f"{number} seed{'s' * (number > 1)}"


def show_results(out: Path, root: Path, compare: bool) -> None:
    """Print the result table and, where asked to, how a mini run's compares with the published one."""
    result = read(out / "results" / RESULT)
    print(f"\n{table(score_rows(result))}")
    published = root / "results" / PUBLISHED["demo"][0]
    if kind_of_run(result) == "demo" and compare and published.exists():
        print(beside_published(result, read(published)["comparison"]))


def first_text(path: Path) -> str:
    """Return what the first page says of a result: where it comes from, what came out, the table."""
    result = read(path)
    scores = table(score_rows(result), markdown=True)
    return "\n\n".join([provenance(result), findings.sentences(result), verdicts(result), scores])


def write_site(out: Path, root: Path) -> Path:
    """Write the run's pages for people without Jupyter, and return the first one's path; Refused when the disk does."""
    first = site.FirstPage(
        "Lightweight fine-tuning, judged honestly", out / "results" / RESULT, first_text, "06_comparing"
    )
    try:
        return site.write_site(out, NAMES, first)
    except OSError as error:
        raise Refused(
            f"The notebooks are finished, but their pages could not be written to {out / 'site'}: {error}. "
            "Delete what you can, then type the same command again."
        ) from None


def beside_published(result: dict, published: dict) -> str:
    """Return a sentence on a mini run's table beside the published one: equal to the last digit, or which condition differs."""
    theirs = {row["name"]: row for row in published["test"]}
    both = [row for row in result["test"] if row["name"] in theirs]
    added = [row["name"] for row in result["test"] if row["name"] not in theirs]
    new = f" New: {', '.join(added)}." if added else ""
    differing = [row["name"] for row in both if row != theirs[row["name"]]]
    if not differing:
        return f"All {len(both)} rows are those of the published table, byte for byte.{new}"
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
    return f"{len(differing)} of {len(both)} rows are not those of the published table. What differs: {why}.{new}"


# --- a sweep ----------------------------------------------------------------------------------------------------------


def sweep_scores(name: str, values: list[int | float], out: Path) -> dict[str, dict[str, list]]:
    """Return {model: {"value": […], "mean": […], "sd": […], "seeds": […]}}: accuracy on all held-out complaints, over the seeds.

    Of the baselines the best on validation is there. It has no seed, so its sd is None, as is that of a single training.
    """
    found: dict[str, dict[str, list]] = {}
    for value in values:
        result = read(out / sweep_folder(name, value) / "results" / RESULT)
        for row in result["table"]:
            if row["method"] != "baseline" or row["name"] == result["picked"]["baseline"]:
                columns = found.setdefault(row["name"], {"value": [], "mean": [], "sd": [], "seeds": []})
                own = {"value": value, "mean": row["accuracy"], "sd": row["sd"], "seeds": row["seeds"]}
                for column, entries in columns.items():
                    entries.append(own[column])
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
    print(f"\naccuracy on all held-out complaints, mean over the seeds (sd)\n{table(rows)}")
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
    axes.set(xlabel=name, ylabel="accuracy on all held-out complaints")
    axes.legend()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


# --- --save -----------------------------------------------------------------------------------------------------------


def save(jobs: list[Job], root: Path, out: Path) -> None:
    """Write what these jobs made into README.md, results/ and plots/, of the demo clean outputs into notebooks/ too.

    Notebooks that ran on real complaints show their texts, so they are not saved. Refused when something is unfit to share:
    then nothing is written.
    """
    behind = [job.name for job in jobs if state(job) != "done"]
    if behind:
        raise Refused(f"--save needs all that it saves up to date; these are not: {', '.join(behind)}. Run them first.")
    values = {job.name: job.values for job in jobs}
    made = {name: read(out / f"results/{name}.json") for name in SECTIONS if name in values}
    if not made:
        raise Refused(f"--save publishes {' and '.join(SECTIONS)}, and neither is among {', '.join(values)}.")
    kind = kind_of_run(next(iter(made.values())))
    lacking = [name for name in NAMES if name not in values] if kind == "demo" else []
    if lacking:
        raise Refused(
            f"--save writes the outputs of all of the demo's notebooks; {', '.join(lacking)} did not run. Add --controls --labels."
        )
    file, prefix = PUBLISHED[kind]
    place = root / "results" / file
    content = read(place) if place.exists() else {}
    content |= {SECTIONS[name]: without_paths(result) for name, result in made.items()}
    results = {
        each: read(root / "results" / name)
        for each, (name, _) in PUBLISHED.items()
        if (root / "results" / name).exists()
    }
    texts: dict[Path, str | bytes] = {place: json.dumps(content, indent=1, allow_nan=False)}
    texts[root / "README.md"] = with_results(
        (root / "README.md").read_text(encoding="utf-8"),
        results | {kind: content},
        read(root / "results/original_study.json")["scores"],
    )
    if kind == "demo":
        pages = {name: root / f"notebooks/{name}.ipynb" for name in NAMES}
        hidden = [root, Path.home(), out]
        texts |= {p: clean(p, out / f"executed/{name}.ipynb", values[name], hidden) for name, p in pages.items()}
    else:
        rows = [
            row
            for path in [root / PUBLISHED_DRAWS, out / OWN_DRAWS, *sorted(out.glob(f"draws/*/{OWN_DRAWS}"))]
            for row in read_lines(path)
        ]
        texts[root / PUBLISHED_DRAWS] = "".join(
            f"{json.dumps(row)}\n" for row in {row["key"]: row for row in rows}.values()
        )
        refuse_narratives(texts, out)
    for name in made:
        texts |= {root / f"plots/{prefix}{to}": (out / "plots" / of).read_bytes() for of, to in FIGURES[name].items()}
    for path, text in texts.items():
        write_whole(path, text)
    print(f"Saved {len(texts)} files: {', '.join(path.relative_to(root).as_posix() for path in texts)}")


def without_paths(result: dict) -> dict:
    """Return the result with the names of local data and models in place of their paths."""
    named = {name: short_name(value) if name in SOURCES else value for name, value in result["parameters"].items()}
    return result | {"parameters": named}


def refuse_narratives(texts: dict[Path, str | bytes], out: Path) -> None:
    """Raise Refused when one of the texts holds a run of words of a complaint in the run's tables."""
    import pandas as pd  # a second to import

    from helpers.complaints import words_in_common

    tables = [pd.read_parquet(path, columns=["text"]) for path in sorted((out / "data").glob("*.parquet"))]
    narratives = [text for table in tables for text in table["text"]]
    for path, text in texts.items():
        found = words_in_common(text.decode() if isinstance(text, bytes) else text, narratives)
        if found:
            raise Refused(f"{path.name} would hold words of a real complaint ({len(found)} runs). Nothing was written.")


def values_of_run(stand: dict[str, Any], values: dict[str, Any]) -> list[dict]:
    """Return, as an output of the parameters cell, the values that the run had in place of those that stand there."""
    own = {name: value for name, value in values.items() if name != "OUT" and stand.get(name) != value}
    shown = [f"{name} = {(short_name(value) if isinstance(value, str) else value)!r}\n" for name, value in own.items()]
    text = (
        ["The outputs below come from a run with\n", *shown] if own else ["The outputs come from a run with these.\n"]
    )
    return [{"name": "stdout", "output_type": "stream", "text": text}]


def clean(notebook: Path, executed: Path, values: dict[str, Any], paths: list[Path]) -> str:
    """Return the notebook's new text, with the executed one's outputs and counts 1..n; Refused when it is unfit to share."""
    page = read_notebook(notebook)
    cells = [cell for cell in page["cells"] if cell["cell_type"] == "code"]
    ran = [cell for cell in read_notebook(executed)["cells"] if cell["cell_type"] == "code"]
    ran = [cell for cell in ran if "injected-parameters" not in cell["metadata"].get("tags", [])]
    for count, (cell, run) in enumerate(zip(cells, ran, strict=True), start=1):
        cell["execution_count"] = count
        cell["outputs"] = [output for output in run["outputs"] if not is_passing(output)]
        if "parameters" in cell["metadata"].get("tags", []):
            cell["outputs"] = values_of_run(defaults(notebook), values)
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
    """Return a sentence on which data and models the numbers come from; those of the demo are called so."""
    run = {
        "demo": "**the offline demo** (miniature models, synthetic complaints: how things work, not what full-size models reach)",
        "real": "**real complaints**",
        "full": "**a full run**",
    }[kind_of_run(result)]
    models = ", ".join(minilm.ABOUT if model == minilm.NAME else f"`{model}`" for model in result["models"])
    return f"These numbers are of {run}: data `{result['data']}`, models {models}."


def front_page(results: dict[str, dict], original: dict[str, dict[str, float]]) -> str:
    """Return what README says of the published results, {kind of run: content}: real complaints, the full study, the demo."""
    parts = ["## What came out"]
    parts += section(results["real"], "real", original) if "real" in results else []
    if "full" in results:
        parts += ["### The full study", *section(results["full"], "full", original)]
    else:
        parts.append(
            "The full study, with the public DistilBERT and GPT-2 on a CUDA card, is **not yet run**; "
            "[how to run it and send the result](CONTRIBUTING.md#the-full-study)."
        )
    parts += section(results["demo"], "demo", original)
    return "\n\n".join(parts)


def section(content: dict, kind: str, original: dict[str, dict[str, float]]) -> list[str]:
    """Return the paragraphs about one published result: where it comes from, figures, what came out, the table."""
    file, prefix = PUBLISHED[kind]
    parts = [provenance(content.get("comparison") or content["labels"])]
    if kind == "demo":
        alt = "Accuracy, precision, recall and F1 of all models on the held-out complaints, coloured by method, a dot a seed"
        told = f"A run of your own is compared with them ([all of them](results/{file}))."
        return [f"{parts[0]} {told}", f"![{alt}](plots/{prefix}{FIGURE})"]
    if "labels" in content:
        alt = "Accuracy against the number of labelled complaints, a line with intervals for each way to learn"
        parts += [f"![{alt}](plots/{prefix}labels.png)", findings.labels(content["labels"])]
        parts.append(table(label_rows(content["labels"]), markdown=True))
    if "comparison" not in content:
        return parts
    result = content["comparison"]
    note = (
        "An interval covers the draw of the held-out complaints and, where there are several, of the seeds. It does not "
        "cover the draw of the training set, which all share. *On the test set* is for comparison with the original study, "
        "which had another split."
    )
    rows = table(front_rows(result, original), markdown=True)
    return [*parts, findings.sentences(result), verdicts(result), rows, note]


def with_results(text: str, results: dict[str, dict], original: dict[str, dict[str, float]]) -> str:
    """Return the README's text with what stands between its two marks replaced by what it says of the results."""
    between = f"\n{front_page(results, original)}\n"
    pattern = re.compile(re.escape(MARKS[0]) + ".*" + re.escape(MARKS[1]), re.DOTALL)
    found, count = pattern.subn(lambda _: MARKS[0] + between + MARKS[1], text)
    if count != 1:
        raise Refused(f"README.md must hold {MARKS[0]} and {MARKS[1]} once, not {count} times.")
    return found
