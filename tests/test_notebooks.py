"""The form of the notebooks: what a reader may rely on, whichever page is open."""

import ast
import re
import statistics
from pathlib import Path

import nbformat
import pytest

from driver import parameters
from driver.stages import NAMES
from helpers.notebook import PARAMETERS

ROOT = Path(__file__).parents[1]
PAGES = sorted(NAMES)  # the appendices last
APPENDICES = [name for name in PAGES if not name[0].isdigit()]
SAME_EVERYWHERE = {"SEED": 42, "OUT": ".", "MAX_TOKENS": 512}
PINS = {  # the commits of the study's data and models
    "REVISION": "088cc7308d4afc2a880f2329d08e2f7a09188ec6",
    "DISTILBERT_REVISION": "12040accade4e8a0f71eabdb258fecc2e7e948be",
    "GPT2_REVISION": "607a30d783dfa663caf39e06633721c8d4cfcd7e",
}
TAUGHT = {  # functions that a page teaches and a module keeps for the other pages
    "select",
    "normalise",
    "overlap",
    "containment",
    "choose_keywords",
    "keyword_rule",
    "linear_model",
    "first_best",
    "mean_over_tokens",
    "embed",
    "fit_on_vectors",
    "embedding_probability",
    "name_score",
    "zero_shot",
    "predicted",
    "distilbert_adapter",
    "gpt2_adapter",
    "draw_head",
    "load_distilbert",
    "predict",
    "tokenise",
    "training_arguments",
    "trainer_of",
    "fit",
    "load_gpt2_tokenizer",
    "load_gpt2",
    "load_gpt2_in_4_bits",
    "crossed_variance",
    "verdict",
    "calibration_error",
    "with_temperature",
    "best_temperature",
    "null_range",
    "logits",
    "loss_at",
    "temperature_interval",
    "most_confident",
    "label_issues",
}


def read(name):
    return nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)


def given(name):
    """Return the parameters that a notebook declares, with their defaults."""
    return parameters.defaults(ROOT / f"notebooks/{name}.ipynb")


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def code_lines(cells):
    """Return the lines that say something: none that is blank, or only closes brackets."""
    lines = [line.strip() for cell in cells for line in cell.source.splitlines()]
    return [line for line in lines if line.strip(")]},")]


def functions(source):
    """Return the source of each function defined at the top of the code, by name."""
    return {
        node.name: ast.get_source_segment(source, node)
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
    }


@pytest.fixture(params=PAGES)
def notebook(request):
    """Return the name of a notebook and the notebook."""
    return request.param, read(request.param)


def test_the_notebooks_of_the_series_are_there_and_no_other():
    assert sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")) == PAGES


def test_it_opens_with_its_question_and_what_it_reads_writes_and_takes(notebook):
    name, page = notebook
    opening = page.cells[0]
    heading = name[:2] if name not in APPENDICES else name.partition("_")[0].capitalize()
    assert opening.cell_type == "markdown" and opening.source.startswith(f"# {heading} · ")
    assert "**Question.**" in opening.source
    assert all(f"| {word} |" in opening.source for word in ("reads", "writes", "takes"))


def test_its_parameters_are_plain_commented_values_under_the_opening(notebook):
    _, page = notebook
    tagged = [i for i, cell in enumerate(page.cells) if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == [1]
    source = page.cells[1].source
    assignments = ast.parse(source).body
    values = {node.targets[0].id: ast.literal_eval(node.value) for node in assignments}
    assert 0 < len(values) <= 16
    lines = source.splitlines()
    assert all(re.search(r"  # \S", lines[node.lineno - 1]) for node in assignments)
    assert set(values) <= set(PARAMETERS)
    assert {k: v for k, v in values.items() if k in SAME_EVERYWHERE}.items() <= SAME_EVERYWHERE.items()
    assert {"SEED", "OUT"} <= set(values)


def test_the_same_checkpoint_is_pinned_wherever_it_is_named():
    pins = [(name, value) for page in PAGES for name, value in given(page).items() if name.endswith("REVISION")]
    assert len(pins) >= 5 and set(pins) == set(PINS.items())


def test_it_closes_with_what_was_found_and_what_to_try(notebook):
    _, page = notebook
    headings = [cell.source for cell in page.cells if cell.cell_type == "markdown" and cell.source.startswith("## ")]
    assert headings[-2].startswith("## What we found") and headings[-1].startswith("## Try it")
    found = page.cells[page.cells.index(next(c for c in page.cells if c.source.startswith("## What we found"))) + 1]
    assert found.cell_type == "code" and "print(" in found.source
    exercises = re.findall(r"^- .*", headings[-1], re.M)
    assert 2 <= len(exercises) <= 3
    assert sum("python run_all.py" in line for line in exercises) >= 1


def test_cells_are_short(notebook):
    name, page = notebook
    lengths = [len(code_lines([cell])) for cell in code_cells(page)]
    fewest, most = (20, 72) if name not in APPENDICES else (12, 40)
    assert fewest <= len(page.cells) <= most
    usual = 10 if name[:2] < "06" else 15  # those that teach, and those that judge
    assert statistics.median(lengths) <= usual and max(lengths) <= 36


def test_no_code_line_is_wider_than_a_code_hosting_page_shows(notebook):
    _, page = notebook
    lines = [line for cell in code_cells(page) for line in cell.source.splitlines()]
    assert lines and not [line for line in lines if len(line) > 88]


def test_there_are_five_words_of_prose_for_a_line_of_code(notebook):
    _, page = notebook
    words = sum(len(cell.source.split()) for cell in page.cells if cell.cell_type == "markdown")
    assert words / len(code_lines(code_cells(page))) >= 5


def test_every_table_and_figure_is_followed_by_prose(notebook):
    _, page = notebook
    shown = [
        i
        for i, cell in enumerate(page.cells[:-1])
        if cell.cell_type == "code"
        and re.search(r"show_figure\(|^[^=\n]*(round\(\d\)|to_frame\(.*\)|DataFrame\(.*\))$", cell.source, re.M)
    ]
    assert shown
    for i in shown:
        following = [cell.cell_type for cell in page.cells[i + 1 : i + 3]]
        assert "markdown" in following, f"nothing reads cell {i}: {page.cells[i].source[:80]}"


def test_figures_have_a_text_for_those_who_cannot_see_them(notebook):
    name, page = notebook
    calls = [
        node
        for cell in code_cells(page)
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "show_figure"
    ]
    assert calls
    for call in calls:
        plot, alt = (ast.literal_eval(argument) for argument in call.args[1:])
        assert plot.startswith((name[:2], name)) or plot == "barplot_perfmetrics"
        assert len(alt.split()) >= 8


def test_pages_and_modules_hold_the_same_functions():
    kept = {}
    for module in (ROOT / "notebooks/helpers").glob("*.py"):
        kept |= functions(module.read_text())
    shown = {}
    for name in PAGES:
        for cell in code_cells(read(name)):
            shown |= {f: source for f, source in functions(cell.source).items() if f in kept}
    assert set(shown) == TAUGHT
    for function, source in shown.items():
        assert ast.dump(ast.parse(source)) == ast.dump(ast.parse(kept[function])), f"{function} and its copy differ"


def test_no_two_notebooks_share_more_than_a_third_of_their_code():
    pages = {name: set(code_lines(code_cells(read(name))[1:])) for name in PAGES}
    shares = {
        (a, b): len(pages[a] & pages[b]) / min(len(pages[a]), len(pages[b])) for a in PAGES for b in PAGES if a < b
    }
    assert len(shares) == len(PAGES) * (len(PAGES) - 1) / 2 and max(shares.values()) <= 1 / 3, max(
        shares, key=shares.get
    )


def test_the_test_set_is_opened_by_its_judges_only():
    readers = [
        name
        for name in PAGES
        if re.search(
            r'read_table\("held_out"\)|held_out\.parquet"',
            "\n".join(code_lines(code_cells(read(name)))),
        )
    ]
    assert readers == ["06_comparing", "appendix_errors", "appendix_labels"]


def test_no_page_renders_text_as_markup(notebook):
    _, page = notebook
    code = "\n".join(code_lines(code_cells(page)))
    assert not re.search(r"\b(HTML|Markdown|Latex|Javascript|SVG)\(|escape=False|\.style\b|display_html", code)


def test_no_page_switches_code_between_mini_and_full(notebook):
    _, page = notebook
    branches = [n for cell in code_cells(page) for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.If)]
    assert not [node for node in branches if "mini" in ast.unparse(node.test).lower()]


def test_prose_states_no_number_that_a_run_can_change(notebook):
    name, page = notebook
    constants = {"95 %", "90 %", "5 %", "80 %"}  # the levels of intervals and of tests, and the power that is asked for
    prose = "\n".join(cell.source for cell in page.cells if cell.cell_type == "markdown")
    prose = re.sub(r"`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\]\([^)]*\)", "", prose, flags=re.S)
    numbers = set(re.findall(r"\d*\.\d+(?: ?%)?|\d[\d,]* ?%", prose))
    assert len(prose.split()) > (500 if name not in APPENDICES else 300) and numbers <= constants, (
        f"{name}: {numbers - constants}"
    )


def test_it_is_committed_with_the_clean_outputs_of_one_run(notebook):
    name, page = notebook
    code = code_cells(page)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs and not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert not [o for o in outputs if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    assert not [o for o in outputs if "<progress" in o.get("data", {}).get("text/html", "")]
    assert outputs[0].text.startswith("The outputs ")  # the parameters cell tells the values of the run
    assert "The outputs in this notebook come from" in outputs[1].text and "Data: " in outputs[1].text
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert pictures and all(o.metadata["image/png"]["alt"] for o in pictures)
    assert (ROOT / f"notebooks/{name}.ipynb").stat().st_size < 1_000_000
