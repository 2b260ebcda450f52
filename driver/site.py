"""The site of a run: its executed notebooks as pages that need neither Jupyter nor a network, from OUT/site/index.html on."""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path

from helpers.files import digest, sha256, write_whole

CODE = [Path(__file__).with_name(name) for name in ("site.py", "page.py", "site.css", "publish.py", "findings.py")]


@dataclass(frozen=True)
class FirstPage:
    """What the first page shows: a title, Markdown made of a result file when the page is written, and a notebook's figures."""

    title: str
    result: Path
    text: Callable[[Path], str]
    figures_of: str


def executed(name: str, out: Path) -> Path:
    """Return the path of the notebook as it ran."""
    return out / f"executed/{name}.ipynb"


def write_site(out: Path, notebooks: list[str], first: FirstPage) -> Path:
    """Write OUT/site/*.html, a page for each notebook that has run, where it is not up to date; return the first page's path.

    The notebooks are named in reading order; one that has not run is named on the first page. Each page says what
    it was made of. The first one, which is made of all, is written last, so a site whose writing was interrupted is finished.
    """
    ran = [name for name in notebooks if executed(name, out).is_file()]
    about = [*notebooks, *ran, first.title, first.figures_of, *map(sha256, CODE)]
    hashes = [sha256(executed(name, out)) for name in ran]  # a page names those beside it by their titles
    made_of = {name: digest([*about, *hashes[max(0, at - 1) : at + 2]]) for at, name in enumerate(ran)}
    result = sha256(first.result) if first.result.is_file() else ""
    made_of["index"] = digest([*made_of.values(), *about, result])
    paths = {name: out / f"site/{name}.html" for name in made_of}
    stale = {name: made_of[name] for name, path in paths.items() if not is_made_of(path, made_of[name])}
    if stale:
        texts = pages(out, notebooks, ran, first, stale | {"index": made_of["index"]})
        for path in set((out / "site").glob("*.html")) - set(paths.values()):
            path.unlink()
        for name, text in texts.items():
            write_whole(paths[name], text)
    return paths["index"]


def is_made_of(path: Path, made_of: str) -> bool:
    """Return whether the page is there and says that it was made of this."""
    return path.is_file() and made_of.encode() in path.read_bytes()


def pages(out: Path, notebooks: list[str], ran: list[str], first: FirstPage, made_of: dict[str, str]) -> dict[str, str]:
    """Return {name: HTML} of those pages that are to be made: the first, "index", which comes last, and notebooks that have run."""
    from driver import page  # nbconvert takes a second to import

    read = {name: page.read(executed(name, out)) for name in ran}
    titles = {"index": escape(first.title)} | {name: page.title(notebook) for name, notebook in read.items()}
    text = first.text(first.result) if first.result.is_file() else ""
    top = page.markdown(f"# {first.title}\n\n{text}", ran)
    shown = page.figures(read[first.figures_of]) if first.figures_of in read else ""
    exporter, style = page.exporter(ran), page.style()
    bodies = {name: exporter.from_notebook_node(read[name])[0] for name in ran if name in made_of}
    bodies["index"] = f"{top}\n{contents(notebooks, titles)}\n{shown}"
    return {
        name: page.PAGE.format(
            made_of=made_of[name], title=titles[name], style=style, links=links(name, titles), body=body
        )
        for name, body in bodies.items()
    }


def contents(notebooks: list[str], titles: dict[str, str]) -> str:
    """Return the list of the notebooks, each a link to its page if it has run."""
    lines = [
        f'<li><a href="{name}.html">{titles[name]}</a></li>' if name in titles else f"<li>{name} has not run</li>"
        for name in notebooks
    ]
    return "\n".join(['<h2 id="contents">The notebooks</h2>', '<ul class="pages">', *lines, "</ul>"])


def links(name: str, titles: dict[str, str]) -> str:
    """Return a page's line of links: previous · contents · next, in the order of the titles."""
    order = list(titles)
    at = order.index(name)
    before, after = order[:at][-1:], order[at + 1 :][:1]
    ends = [
        f'<a rel="{words}" href="{there[0]}.html" title="{titles[there[0]]}">{words}</a>' if there else words
        for words, there in (("previous", before), ("next", after))
    ]
    return f'<nav>{ends[0]} · <a href="index.html#contents">contents</a> · {ends[1]}</nav>'
