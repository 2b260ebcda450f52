"""Files: written whole or not at all, and results as JSON can hold them."""

import numpy as np
import pytest

from helpers.files import plain, write_whole


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "kept.txt"
    path.write_text("good")

    def fail_half_way(temporary):
        temporary.write_text("ha")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_whole(path, fail_half_way)
    assert path.read_text() == "good" and list(tmp_path.iterdir()) == [path]


def test_a_result_holds_what_json_can_hold():
    value = {1: np.float64(0.5), "none": float("nan"), "rows": (np.arange(2), [np.nan]), "text": "x"}
    assert plain(value) == {"1": 0.5, "none": None, "rows": [[0, 1], [None]], "text": "x"}
