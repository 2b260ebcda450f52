"""The schematics: drawn by their script, small, and shown in the notebooks with words for those who cannot see them."""

import re
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "notebooks/pictures"
SHOWN_IN = {  # picture: the notebooks that may show it
    "lora": ("03_distilbert_lora",),
    "blocks": ("03_distilbert_lora", "04_gpt2_lora"),
    "attention": ("04_gpt2_lora",),
}


def test_the_script_draws_the_committed_pictures_anew(tmp_path):
    subprocess.run([sys.executable, PICTURES / "draw.py", tmp_path], check=True)
    committed = {path.name for path in PICTURES.glob("*.png")}
    assert {path.name for path in tmp_path.iterdir()} == committed == {f"{name}.png" for name in SHOWN_IN}
    for name in committed:
        drawn, known = (matplotlib.image.imread(folder / name) for folder in (tmp_path, PICTURES))
        assert drawn.shape == known.shape, name
        assert drawn[..., :3].std() > 0.05, f"{name} is empty"


def test_pictures_are_small():
    sizes = {path.name: path.stat().st_size for path in PICTURES.glob("*.png")}
    assert len(sizes) == len(SHOWN_IN)
    assert not {name: size for name, size in sizes.items() if size >= 150_000}


@pytest.mark.parametrize("picture", SHOWN_IN)
def test_a_notebook_shows_the_picture_and_describes_it(picture):
    described = []
    for name in SHOWN_IN[picture]:
        cells = nbformat.read(ROOT / f"notebooks/{name}.ipynb", 4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
        described += re.findall(rf"!\[([^\]]*)\]\(pictures/{picture}\.png\)", text)
    assert described, f"no Markdown of {SHOWN_IN[picture]} shows pictures/{picture}.png"
    assert min(len(words.split()) for words in described) >= 12, described
