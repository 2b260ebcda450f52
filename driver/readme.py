"""--save: the README's result table and figure, made from the run's results and nothing else."""

import re

from driver import Refused

MARKS = ("<!-- results: written by run_all.py --save -->", "<!-- end of results -->")
STUDY = {  # what the original study published for its own full-size models, on 200 texts
    "distilbert_lora": (0.940, 0.893, 1.00, 0.943),
    "gpt2_lora": (0.755, 0.752, 0.760, 0.756),
    "gpt2_qlora": (0.915, 0.903, 0.930, 0.916),
}
SCORES = ("accuracy", "precision", "recall", "f1")


def over_seeds(result: dict, model: str) -> str:
    """Return the model's accuracy over its seeds in words; "" when it was trained once, or never."""
    found = result["seeds"].get(model, {"seeds": 1})
    if found["seeds"] == 1:
        return ""
    return f"{found['mean']:.3f} ± {found['sd']:.3f} (worst of {found['seeds']}: {found['worst']:.3f})"


def provenance(result: dict) -> str:
    """Return a sentence on which data and models the numbers come from; a mini run is called one."""
    kind = (
        "**a mini run** (they show that everything works, not what the full-size models reach)"
        if result["mini"]
        else "a full run"
    )
    return (
        f"These numbers are of {kind}: data `{result['data']}`, models {', '.join(f'`{m}`' for m in result['models'])}, "
        f"{result['letters']} test letters. The last column quotes the original study of this task, which ran other models on other letters."
    )


def table(result: dict) -> str:
    """Return the test scores as a Markdown table, a row a model, accuracy with its 95 % interval and over its seeds."""
    lines = [
        "| model | method | accuracy (95 % interval) | accuracy over seeds | precision | recall | F1 | original study: accuracy, F1 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in result["test"]:
        low, high = row["intervals"]["accuracy"]
        study = STUDY.get(row["model"])
        quoted = f"{study[0]:.3f}, {study[3]:.3f}" if study else ""
        rest = " | ".join(f"{row[score]:.3f}" for score in SCORES[1:])
        lines.append(
            f"| {row['model']} | {row['method']} | {row['accuracy']:.3f} ({low:.3f} to {high:.3f}) | {over_seeds(result, row['model'])} | {rest} | {quoted} |"
        )
    return "\n".join(lines)


def beside_published(result: dict, published: dict) -> str:
    """Return a sentence on a mini run's table beside the published one: equal to the last digit, or which condition differs."""
    theirs = {row["model"]: row for row in published["test"]}
    differing = [row["model"] for row in result["test"] if row != theirs.get(row["model"])]
    if not differing:
        return f"All {len(result['test'])} rows are those of the published table, byte for byte."
    found = []
    flat = [
        {"data": r["data"], "models": r["models"], "seed": r["seed"], **r["versions"], **r["numerics"]}
        for r in (result, published)
    ]
    for name in sorted(flat[0].keys() | flat[1].keys()):
        here, there = (each.get(name, "not set") for each in flat)
        if here != there:
            found.append(f"{name}: {here}, published with {there}")
    why = "; ".join(found) or "nothing that is pinned: please report it with this run's results/06_comparing.json"
    return f"{len(differing)} of {len(result['test'])} rows are not those of the published table. What differs: {why}."


def with_results(text: str, result: dict) -> str:
    """Return the README's text with what stands between its two marks replaced by the result's sentence and table."""
    between = "\n".join(["", provenance(result), "", table(result), ""])
    pattern = re.compile(re.escape(MARKS[0]) + ".*" + re.escape(MARKS[1]), re.DOTALL)
    found, count = pattern.subn(lambda _: MARKS[0] + between + MARKS[1], text)
    if count != 1:
        raise Refused(f"README.md must hold {MARKS[0]} and {MARKS[1]} once, not {count} times.")
    return found
