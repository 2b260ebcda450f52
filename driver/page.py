"""Pages of the site: notebooks and Markdown as HTML that loads nothing, and in which no text of a complaint is markup."""

import base64
import mimetypes
import os
import re
from html import escape
from pathlib import Path

import nbformat
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CSSHTMLHeaderPreprocessor
from nbconvert.preprocessors.sanitize import SanitizeHTML

from driver.publish import is_passing
from helpers.files import ROOT

PICTURES = ROOT / "notebooks"  # where the relative path of a picture in Markdown starts
STYLE = Path(__file__).with_name("site.css").read_text(encoding="utf-8")
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="made-of" content="{made_of}">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
{links}
<main>
{body}
</main>
{links}
</body>
</html>
"""
TABLES = SanitizeHTML(  # text and PNG or JPEG stay as they are, HTML keeps these tags alone, other kinds are dropped
    tags=["div", "p", "br", "b", "i", "table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td"],
    attributes={"th": ["colspan", "rowspan"], "td": ["colspan", "rowspan"]},
    safe_output_keys={"text/plain", "image/png", "image/jpeg"},
    sanitized_output_types={"text/html"},
)


def mathml(latex: str, display: str) -> str:
    """Return the formula as MathML, "inline" or as a "block"; one that cannot be converted, as it is written."""
    try:
        return re.sub(' xmlns="[^"]*"', "", convert(latex, display=display), count=1)  # in HTML it goes without saying
    except Exception:  # its errors have no base of their own
        return f"<code>{escape(latex)}</code>"


class Renderer(IPythonRenderer):
    """Renders Markdown: formulas as MathML, pictures embedded, links to notebooks as links to their pages, HTML as text."""

    def __init__(self, pages: list[str]) -> None:
        super().__init__(escape=True, allow_harmful_protocols=["data:image/"])  # type: ignore[arg-type]  # mistune's
        self.pages = pages

    def inline_math(self, body: str) -> str:
        """Return `$…$` as MathML."""
        return mathml(body, "inline")

    def block_math(self, body: str) -> str:
        """Return `$$…$$` as MathML."""
        return mathml(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        r"""Return `\begin{…}…\end{…}` as MathML."""
        return mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")

    def link(self, text: str, url: str, title: str | None = None) -> str:
        """Return the link, one to a notebook as one to its page; of a notebook that has no page, the text alone."""
        if url == "../README.md":  # the contents, as the notebooks call it
            return super().link(text, "index.html", title)
        notebook, ending, place = url.partition(".ipynb")
        if not ending:
            return super().link(text, url, title)
        return super().link(text, f"{notebook}.html{place}", title) if notebook in self.pages else text

    def image(self, text: str, url: str, title: str | None = None) -> str:
        """Return the picture with its bytes inside; one that is not here, as a link to it."""
        path = PICTURES / url
        if os.path.isfile(path):  # pathlib's raises where the address is a picture written out, too long a name
            url = f"data:{mimetypes.guess_type(url)[0]};base64,{base64.b64encode(path.read_bytes()).decode()}"
        if url.startswith("data:image/"):
            return super().image(text, url, title)
        return super().link(text or url, url, title)


def markdown(text: str, pages: list[str]) -> str:
    """Return the Markdown as HTML; pages are the notebooks that links may lead to."""
    return MarkdownWithMath(renderer=Renderer(pages)).render(text)


def read(path: Path) -> nbformat.NotebookNode:
    """Return the executed notebook with what is safe and of use of its outputs, and without this machine's parameters."""
    notebook = nbformat.read(path, 4)
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    for cell in (cell for cell in notebook.cells if cell.cell_type == "code"):
        outputs = [output for output in cell.outputs if not is_passing(output)]
        for data in (output.data for output in outputs if "text/html" in output.get("data", {})):
            data["text/html"] = re.sub("<style scoped>.*?</style>", "", data["text/html"], flags=re.DOTALL)
        cell.outputs = TABLES.sanitize_code_outputs(outputs)
    return notebook


def title(notebook: nbformat.NotebookNode) -> str:
    """Return the notebook's first heading, as HTML."""
    return escape(notebook.cells[0].source.partition("\n")[0].lstrip("# "))


def figures(notebook: nbformat.NotebookNode) -> str:
    """Return the notebook's figures that have an alternative text, as HTML."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [output for output in outputs if "alt" in output.get("metadata", {}).get("image/png", {})]
    return "\n".join(
        f'<p><img src="data:image/png;base64,{"".join(output.data["image/png"].split())}"'
        f' alt="{escape(output.metadata["image/png"].alt)}"></p>'
        for output in shown
    )


def exporter(pages: list[str]) -> HTMLExporter:
    """Return what turns a notebook into the HTML of its cells, without prompts."""
    made = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    made.register_filter("markdown2html", lambda text: markdown(text, pages))
    return made


def style() -> str:
    """Return the style sheet, that of highlighted code included."""
    _, resources = CSSHTMLHeaderPreprocessor(style="default").preprocess(None, {"config_dir": ""})
    return STYLE + resources["inlining"]["css"][0] + "\n"
