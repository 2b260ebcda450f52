"""The figures: what they draw is what was counted."""

import matplotlib.pyplot as plt
import numpy as np

from helpers.figures import draw_confusion

LABELS = ("Mortgage", "Credit card or prepaid card")


def test_a_confusion_matrix_counts_each_outcome_in_its_cell():
    _, axes = plt.subplots()
    draw_confusion([0, 0, 0, 1], np.array([False, False, True, True]), LABELS, "title", axes)
    assert [text.get_text() for text in axes.texts] == ["2", "1", "0", "1"]
