"""The figures: what they draw is what was counted."""

from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from driver.parameters import read_notebook, source
from helpers.figures import draw_confusion, reach

ROOT = Path(__file__).parents[1]

LABELS = ("Mortgage", "Credit card or prepaid card")


def test_a_confusion_matrix_counts_each_outcome_in_its_cell():
    _, axes = plt.subplots()
    draw_confusion([0, 0, 0, 1], np.array([False, False, True, True]), LABELS, "title", axes)
    assert [text.get_text() for text in axes.texts] == ["2", "1", "0", "1"]


@pytest.mark.parametrize("value, ends", [(1.0, (0.95, 1 - 1e-12)), (0.0, (1e-12, 0.04))])
def test_an_interval_whose_end_is_rounded_across_its_value_is_drawn(value, ends):
    _, axes = plt.subplots()
    error = reach(value, ends)
    axes.errorbar(value, 0, xerr=error)
    assert error.shape == (2, 1) and error.min() == 0 and np.isclose(error.max(), abs(ends[0] - ends[1]), atol=1e-9)


def test_a_baseline_without_a_mistake_is_drawn():
    cell = next(cell for cell in read_notebook(ROOT / "notebooks/02_test_data.ipynb")["cells"] if cell["id"] == "02-30")
    table = pd.DataFrame({"accuracy": [0.5, 1.0]}, index=["majority", "keyword"])
    shown, figures = pd.DataFrame({"correct": ["40 of 80", "80 of 80"]}, index=table.index), []
    run = SimpleNamespace(show_figure=lambda figure, *_: figures.append(figure))
    given = {"table": table, "shown": shown, "low_high": [(0.39, 0.61), (0.95, 1 - 1e-12)], "run": run, "CEILING": None}
    exec(source(cell), given | {"plt": plt, "np": np})
    assert figures
