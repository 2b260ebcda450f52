"""The field's words, everywhere: none of those that the project once used in their place comes back."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REPLACED = {  # what is not said: what is said instead
    r"letters?": "complaint, text",
    r"floors?": "baseline",
    r"bod(y|ies)": "base model",
    r"give-?aways?": "most predictive words",
    r"near[- ]cop(y|ies)": "near-duplicates",
    r"contenders?": "models compared",
    r"mend(s|ed|ing)?": "fix",
    r"by heart": "memorise, overfit",
    r"dice": "one random seed",
    r"witness|twins?": "reference configuration",
    r"tempered": "temperature-scaled",
    r"surest|too sure|unsure": "confident, overconfident",
    r"starv(e|es|ing)": "underfits",
    r"unseen": "held-out, extra_test",
    r"weights trained": "trainable parameters",
    r"rooms?|kit": "modules, offline demo",
    r"no more page|this page": "this notebook",
}
ALLOWED = [  # the same words in another sense
    r"(capital |small )?letters (and|or) digits|letters of the alphabet",
    r"(node|tree|line|self|documented)\.body|\.body\b|</?body\b|\bbody\b(?=\s*\{)|bodies\[|\bbod(y|ies)\b(?= =|\")|body=body|\{body\}",
    r"has_room|has room|more room|make room|no room|[Rr]oom (for|to)|[Rr]eading[- ][Rr]oom",
    r"rng\.dice|dice = |dice <",
]
IN_HTML = {"page.py": r"bod(y|ies)", "site.py": r"bod(y|ies)"}  # of a web page
FILES = sorted(
    path
    for pattern in (
        "*.md",
        "*.py",
        "data/*.md",
        "notebooks/*.ipynb",
        "notebooks/**/*.py",
        "driver/*",
        "mini/*.py",
        "benchmarks/**/*.py",
    )
    for path in ROOT.glob(pattern)
    if path.suffix in (".md", ".py", ".ipynb", ".txt") and path.name != "grammar.txt"
)


def read(path):
    """Return what people read of a file: a notebook's cells without their outputs, else all of it."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])
    for pattern in [*ALLOWED, *filter(None, [IN_HTML.get(path.name)])]:
        text = re.sub(pattern, "", text)
    return text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_it_uses_the_fields_words(path):
    found = [
        f"{line.strip()[:100]} ({word}: say {instead})"
        for word, instead in REPLACED.items()
        for line in read(path).splitlines()
        if re.search(rf"\b({word})\b", line, re.IGNORECASE)
    ]
    assert not found, "\n".join(found)


def test_all_kinds_of_files_are_read():
    kinds = {(path.parent.name, path.suffix) for path in FILES}
    assert (
        len(FILES) > 45 and {("notebooks", ".ipynb"), ("helpers", ".py"), ("driver", ".py"), ("mini", ".py")} <= kinds
    )
