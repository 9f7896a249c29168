"""What a table's search box keeps."""

from __future__ import annotations

import pandas as pd
import pytest

from workbench.tables import matching

FRAME = pd.DataFrame(
    {
        "Operator": ["aten::mm", "aten::addmm", "aten::add_"],
        "Module": ["layer1", "layer2", "layer1"],
        "Calls": [3, 40, 500],
        "Device self": [1.5, None, 0.25],
    }
)


@pytest.mark.parametrize(
    ("typed", "rows"),
    [
        ("", [0, 1, 2]),
        ("addmm", [1]),
        ("layer1 mm", [0]),
        ("calls>=40", [1, 2]),
        ("calls<100 layer1", [0]),
        ("DEVICESELF>0.2", [0, 2]),
        ("device>1", [0]),
        ("colour>1", []),
        ("operator=3", []),
    ],
)
def test_words_and_comparisons_keep_what_fits_all_of_them(typed: str, rows: list[int]) -> None:
    assert matching(FRAME, typed).index.tolist() == rows
