"""No text of a real complaint stands in the repository: figures measured on them may be published, the texts stay where they are."""

import subprocess
from pathlib import Path

import nbformat
import pytest

from driver import Refused, publish
from helpers.complaints import words_in_common
from helpers.sources import NARRATIVE, read

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared/cfpb"


def words_of(path):
    """Return what a tracked file says: of a notebook its sources and the text of its outputs."""
    if path.suffix != ".ipynb":
        return path.read_text(errors="replace")
    cells = nbformat.read(path, 4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    shown = [str(output.get("text", "")) for output in outputs]
    shown += [str(v) for o in outputs for kind, v in o.get("data", {}).items() if not kind.startswith("image/")]
    return "\n".join([*(cell.source for cell in cells), *shown])


@pytest.mark.slow
def test_no_twelve_words_in_a_row_of_a_real_complaint_stand_in_the_repository():
    if not REAL.is_dir():
        pytest.skip(f"the real complaints are not at hand: there is no {REAL}")
    narratives = [
        text
        for path in sorted(REAL.glob("*.parquet"))
        for part in read(path, {"text": NARRATIVE})
        for text in part.column("text").drop_null().to_pylist()
    ]
    assert len(narratives) > 6_000
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout.split("\0")
    kinds = (".py", ".md", ".json", ".jsonl", ".ipynb", ".txt", ".toml", ".csv")
    files = [ROOT / name for name in listed if name.endswith(kinds)] or [
        path for path in ROOT.rglob("*") if path.suffix in kinds and not {".venv", "runs", "models"} & set(path.parts)
    ]
    files = [path for path in files if path.is_file() and "checkpoints" not in path.parts]
    assert len(files) > 100
    planted = " ".join(narratives[7].split()[:40])
    assert words_in_common(planted, narratives)
    found = words_in_common(" \n@ ".join(words_of(path) for path in files), narratives)
    assert not found, sorted(found)[:3]


def test_save_writes_nothing_that_holds_a_complaints_words(tmp_path):
    import pandas as pd

    said = "They told me that the escrow payment rose because the county had raised its taxes again"
    (tmp_path / "data").mkdir()
    pd.DataFrame({"text": ["Something else.", said], "label": [0, 1]}).to_parquet(tmp_path / "data/pool.parquet")
    publish.refuse_narratives({tmp_path / "README.md": "They told me that the escrow payment rose."}, tmp_path)
    with pytest.raises(Refused, match=r"README\.md would hold words of a real complaint"):
        publish.refuse_narratives({tmp_path / "README.md": f"A customer: {said.upper()}!"}, tmp_path)
