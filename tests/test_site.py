"""The site of a run: pages that link each other, load nothing from elsewhere, show formulas, and run nothing of a text."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from playwright.sync_api import sync_playwright

from driver import page, publish, site, stages

ROOT = Path(__file__).parents[1]
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PLANTED = '<script>document.title = "ran"</script><img src=x onerror="document.title = \'ran\'">'
FIRST = site.FirstPage(
    "A run", Path(__file__), lambda _: "| model | accuracy |\n|---|---|\n| toy | 0.5 |", "06_comparing"
)


class Parsed(HTMLParser):
    """A page taken apart: its elements, and its text outside of code."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.text, self.inside = [], "", []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag in ("pre", "code", "style"):
            self.inside.append(tag)

    def handle_endtag(self, tag):
        if self.inside and tag == self.inside[-1]:
            self.inside.pop()

    def handle_data(self, data):
        self.text += "" if self.inside else data

    def all(self, tag):
        """Return the attributes of all elements with this tag."""
        return [attributes for name, attributes in self.elements if name == tag]


def write(out, name, *cells):
    """Write an executed notebook of a heading, with a tag in it, and these cells."""
    (out / "executed").mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=[new_markdown_cell(f"# Title of {name} <b>"), *cells]), site.executed(name, out))


def shown(out, *cells):
    """Return the page of a notebook with these cells."""
    write(out, "01_data", *cells)
    return Parsed(site.write_site(out, ["01_data"], FIRST).with_name("01_data.html"))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Return {name: parsed page} of the site of the published run, and the folder that it lies in."""
    out = tmp_path_factory.mktemp("run")
    shutil.copytree(ROOT / "notebooks", out / "executed", ignore=shutil.ignore_patterns("helpers"))
    result = json.loads((ROOT / "results/offline_demo.json").read_text())["comparison"]
    index = site.write_site(
        out,
        stages.NAMES,
        site.FirstPage(
            "The series",
            Path(__file__),
            lambda _: publish.table(publish.score_rows(result), markdown=True),
            "06_comparing",
        ),
    )
    return {path.stem: Parsed(path) for path in index.parent.iterdir()}, index.parent


# --- the site of the published run ------------------------------------------------------------------------------------


def test_every_page_leads_to_the_one_before_the_contents_and_the_one_after(pages):
    found, _ = pages
    order = ["index", *stages.NAMES]
    assert set(found) == set(order)
    for at, name in enumerate(order):
        ends = {(link["rel"], link["href"]) for link in found[name].all("a") if "rel" in link}
        before = {("previous", f"{order[at - 1]}.html")} if at else set()
        assert ends == before | {("next", f"{after}.html") for after in order[at + 1 :][:1]}
        assert sum(link["href"] == "index.html#contents" for link in found[name].all("a")) == 2


def test_every_link_within_the_site_leads_somewhere(pages):
    found, _ = pages
    places = {name: {each.get("id") for _, each in parsed.elements} for name, parsed in found.items()}
    for name, parsed in found.items():
        for link in parsed.all("a"):
            if not link["href"].startswith("http"):
                there, _, place = link["href"].partition("#")
                target = there.removesuffix(".html") or name
                assert target in found and (not place or place in places[target]), (name, link["href"])


def test_pages_load_nothing_and_are_small(pages):
    found, folder = pages
    for name, parsed in found.items():
        assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in parsed.elements}
        assert not [each for _, each in parsed.elements if not each.get("src", "data:").startswith("data:")]
        assert not [
            each for _, each in parsed.elements if "srcset" in each or ("style" in each and "url" in each["style"])
        ]
        text = (folder / f"{name}.html").read_text()
        assert not re.search(r"@import|url\(", "".join(re.findall("<style.*?</style>", text, re.S)))
        policies = [each["content"] for each in parsed.all("meta") if "http-equiv" in each]
        assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
        assert len(text) < 2_000_000


def test_every_figure_has_its_alternative_text(pages):
    found, _ = pages
    alts = {name: [picture["alt"] for picture in parsed.all("img")] for name, parsed in found.items()}
    assert alts["index"] == alts["06_comparing"] and all(alts.values())
    assert not [alt for each in alts.values() for alt in each if len(alt) < 20 or "No description" in alt]


def test_the_first_page_shows_every_model(pages):
    found, _ = pages
    for row in json.loads((ROOT / "results/offline_demo.json").read_text())["comparison"]["table"]:
        assert row["name"] in found["index"].text and f"{row['accuracy']:.3f}" in found["index"].text


def test_every_formula_of_the_notebooks_is_mathml(pages):
    found, _ = pages
    for name in stages.NAMES:
        cells = nbformat.read(ROOT / f"notebooks/{name}.ipynb", 4).cells
        text = "\n\n".join(re.sub("`[^`\n]*`", "", c.source) for c in cells if c.cell_type == "markdown")
        formulas = re.findall(r"\$\$(.+?)\$\$|\$(.+?)\$", text, re.S)
        assert len(found[name].all("math")) == len(formulas)
        assert len([m for m in found[name].all("math") if m["display"] == "block"]) == sum(bool(f[0]) for f in formulas)
        assert "$" not in found[name].text and "\\" not in found[name].text
    assert len(found["03_distilbert_lora"].all("math")) > 10


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here: install one, e.g. apt-get install chromium")
def test_a_browser_without_a_network_shows_the_pages_and_asks_for_nothing_else(pages, tmp_path):
    shown(tmp_path, *planted_cells())
    asked, said = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        view = browser.new_context(offline=True).new_page()
        view.on("request", lambda request: asked.append(request.url))
        view.on("console", lambda message: said.append(message.text))
        paths = [*sorted(pages[1].iterdir()), tmp_path / "site/01_data.html"]
        for path in paths:
            view.goto(path.as_uri())
            assert view.title() != "ran"
            pictures = view.evaluate("[...document.images].map(image => image.naturalWidth)")
            formulas = view.evaluate(
                "[...document.querySelectorAll('math')].map(each => each.getBoundingClientRect().height)"
            )
            assert all(pictures) and all(formulas)
        browser.close()
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri() for path in paths] and not said


# --- what is shown of a notebook --------------------------------------------------------------------------------------


def planted_cells():
    """Return cells with markup planted wherever a text can come to stand."""
    html = f"<style scoped>td {{ color: red }}</style><table><tr><td onclick='x'>{PLANTED}</td><th colspan=2>5</th></tr></table>"
    picture = {"image/png": {"alt": f'">{PLANTED}'}}
    outputs = [
        new_output("stream", name="stdout", text=PLANTED),
        new_output("error", ename=PLANTED, evalue=PLANTED, traceback=[PLANTED, f"\x1b[31m{PLANTED}\x1b[0m"]),
        new_output("execute_result", data={"text/plain": PLANTED}),
        new_output("execute_result", data={"text/html": html, "text/plain": ""}),
        new_output("display_data", data={"image/png": PIXEL}, metadata=picture),
        new_output("display_data", data={"image/svg+xml": f"<svg>{PLANTED}</svg>", "text/plain": "drawn"}),
        new_output(
            "display_data",
            data={"application/javascript": "document.title = 'ran'", "text/markdown": PLANTED, "text/plain": ""},
        ),
    ]
    return new_code_cell(f'"{PLANTED}"', outputs=outputs), new_markdown_cell(f"Read {PLANTED}\n\n{PLANTED}")


def test_markup_in_a_text_is_text(tmp_path):
    parsed = shown(tmp_path, *planted_cells())
    text = (tmp_path / "site/01_data.html").read_text()
    assert [picture["alt"] for picture in parsed.all("img")] == [f'">{PLANTED}']
    assert not parsed.all("script") and not parsed.all("svg") and not [e for _, e in parsed.elements if "onerror" in e]
    assert not [each for _, each in parsed.elements if "onclick" in each]
    assert text.count("document.title") >= 8 and "&lt;script&gt;" in text and "drawn" in text
    assert not parsed.all("b") and "Title of 01_data <b>" in parsed.text
    assert parsed.all("th") == [{"colspan": "2"}] and "color: red" not in text


def test_markup_in_the_first_pages_values_is_text(tmp_path):
    write(tmp_path, "01_data")
    first = site.FirstPage(PLANTED, Path(__file__), lambda _: f"data `{PLANTED}`, models {PLANTED}", "06_comparing")
    parsed = Parsed(site.write_site(tmp_path, ["01_data"], first))
    assert not parsed.all("script") and not parsed.all("img") and not parsed.all("b")


def test_what_is_only_of_use_while_a_cell_runs_is_left_out_and_so_are_this_machines_parameters(tmp_path):
    outputs = [new_output("stream", name="stderr", text="a warning"), new_output("stream", name="stdout", text="kept")]
    here = new_code_cell("OUT = 'a folder here'", metadata={"tags": ["injected-parameters"]})
    text = "".join(shown(tmp_path, here, new_code_cell("1", outputs=outputs)).text.split())
    page = (tmp_path / "site/01_data.html").read_text()
    assert text and "kept" in page and "a warning" not in page and "a folder here" not in page


def test_every_way_to_write_a_formula_gives_mathml(tmp_path):
    ways = ["So $a$ is", "$$a$$", r"\\(a\\)", r"\\[a\\]", r"\begin{align} a &= b \end{align}"]
    parsed = shown(tmp_path, *map(new_markdown_cell, ways))
    assert [each["display"] for each in parsed.all("math")] == ["inline", "block", "inline", "block", "block"]


def test_markdown_has_tables_anchors_code_and_formulas_in_headings(tmp_path):
    cell = new_markdown_cell("## The rank $r$\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nfor x in y: pass\n```")
    parsed = shown(tmp_path, cell)
    assert len(parsed.all("td")) == 2 and len(parsed.all("math")) == 1 and {"class": "k"} in parsed.all("span")
    assert len([each for each in parsed.all("h2") if each.get("id")]) == 1
    assert ".highlight .k {" in (tmp_path / "site/01_data.html").read_text()


def test_links_to_notebooks_lead_to_their_pages_if_there_are_any(tmp_path):
    parsed = shown(
        tmp_path, new_markdown_cell("[here](01_data.ipynb#Title) [gone](02_test_data.ipynb) [on](http://a.b/)")
    )
    links = {link["href"] for link in parsed.all("a")}
    assert "01_data.html#Title" in links and "http://a.b/" in links and "gone" in parsed.text
    assert not [link for link in links if "02_test_data" in link or ".ipynb" in link]


def test_a_picture_in_markdown_is_embedded_and_one_from_elsewhere_is_a_link(tmp_path, monkeypatch):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "picture.svg").write_text("<svg/>")
    monkeypatch.setattr(page, "PICTURES", tmp_path / "notebooks")
    (tmp_path / "notebooks").mkdir()
    far, inside = "http://a.b/c.png", "data:image/png;base64," + 5000 * "A"
    parsed = shown(
        tmp_path, new_markdown_cell(f'![a "dot"](../picture.png) ![*b*](../picture.svg) ![far]({far}) ![in]({inside})')
    )
    assert parsed.all("img") == [
        {"src": "data:image/png;base64,iVBORw==", "alt": 'a "dot"'},
        {"src": "data:image/svg+xml;base64,PHN2Zy8+", "alt": "b"},
        {"src": inside, "alt": "in"},
    ]
    assert far in {link["href"] for link in parsed.all("a")}


@pytest.mark.parametrize("formula", [r"\frac{", r"a < b & \text{<script>"])
def test_a_formula_that_is_none_does_not_end_a_run(tmp_path, formula):
    parsed = shown(tmp_path, new_markdown_cell(f"So ${formula}$ it is"))
    assert "it is" in parsed.text and not parsed.all("script")


# --- what is written --------------------------------------------------------------------------------------------------


def stamps(out):
    """Return {name: time of writing} of the site's files."""
    return {path.name: path.stat().st_mtime_ns for path in (out / "site").iterdir()}


def test_what_has_not_run_is_named_and_has_no_page(tmp_path):
    write(tmp_path, "01_data")
    write(tmp_path, "06_comparing")
    index = site.write_site(tmp_path, ["01_data", "02_test_data", "06_comparing"], FIRST)
    parsed = Parsed(index)
    assert set(stamps(tmp_path)) == {"index.html", "01_data.html", "06_comparing.html"}
    assert "02_test_data has not run" in parsed.text and "Title of 06_comparing" in parsed.text
    assert {"rel": "next", "href": "06_comparing.html", "title": "Title of 06_comparing <b>"} in Parsed(
        index.with_name("01_data.html")
    ).all("a")


def test_a_site_before_anything_has_run_is_its_first_page(tmp_path):
    assert "01_data has not run" in Parsed(site.write_site(tmp_path, ["01_data"], FIRST)).text
    assert set(stamps(tmp_path)) == {"index.html"}


def test_a_site_that_is_up_to_date_is_left_alone(tmp_path, monkeypatch):
    write(tmp_path, "01_data")
    site.write_site(tmp_path, ["01_data"], FIRST)
    before = stamps(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(site, "pages", None)
        site.write_site(tmp_path, ["01_data"], FIRST)
    assert stamps(tmp_path) == before


@pytest.mark.parametrize("what", ["notebook", "first page", "names", "page gone", "first page gone", "code"])
def test_a_site_is_written_again_when_anything_in_it_changed(tmp_path, what, monkeypatch):
    write(tmp_path, "01_data")
    names, first = ["01_data"], FIRST
    before = site.write_site(tmp_path, names, first).read_bytes(), stamps(tmp_path)
    if what == "notebook":
        write(tmp_path, "01_data", new_markdown_cell("more"))
    elif what == "first page":
        first = site.FirstPage("Another", tmp_path / "none", lambda _: "", "")
    elif what == "names":
        names = ["01_data", "02_test_data"]
    elif what == "code":
        monkeypatch.setattr(site, "CODE", site.CODE[:1])
    else:
        (tmp_path / "site" / ("01_data.html" if what == "page gone" else "index.html")).unlink()
    again = site.write_site(tmp_path, names, first).read_bytes(), stamps(tmp_path)
    assert set(again[1]) == {"index.html", "01_data.html"}
    assert (again[1]["01_data.html"] == before[1]["01_data.html"]) == (what == "first page gone")
    assert (again[0] == before[0]) == what.endswith("gone")


def test_of_a_changed_notebook_its_page_those_beside_it_and_the_first_are_written_again(tmp_path):
    names = ["01_data", "02_test_data", "03_distilbert_lora", "04_gpt2_lora"]
    for name in names:
        write(tmp_path, name)
    site.write_site(tmp_path, names, FIRST)
    before = stamps(tmp_path)
    write(tmp_path, "01_data", new_markdown_cell("more"))
    site.write_site(tmp_path, names, FIRST)
    changed = {name for name, stamp in stamps(tmp_path).items() if stamp != before[name]}
    assert changed == {"index.html", "01_data.html", "02_test_data.html"}


def test_the_page_of_a_notebook_that_no_longer_belongs_is_removed(tmp_path):
    write(tmp_path, "01_data")
    write(tmp_path, "appendix_controls")
    site.write_site(tmp_path, ["01_data", "appendix_controls"], FIRST)
    site.executed("appendix_controls", tmp_path).unlink()
    site.write_site(tmp_path, ["01_data", "appendix_controls"], FIRST)
    assert set(stamps(tmp_path)) == {"index.html", "01_data.html"}


def test_a_site_whose_writing_was_interrupted_is_written_again(tmp_path, monkeypatch):
    write(tmp_path, "01_data")
    site.write_site(tmp_path, ["01_data"], FIRST)
    write(tmp_path, "01_data", new_markdown_cell("more"))

    def stop(path, content):
        path.write_text(content)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(site, "write_whole", stop)
        site.write_site(tmp_path, ["01_data"], FIRST)
    site.write_site(tmp_path, ["01_data"], FIRST)
    assert "more" in Parsed(tmp_path / "site/01_data.html").text
