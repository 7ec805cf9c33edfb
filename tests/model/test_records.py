"""The one rule of 999, and that every door keeps it."""

import numpy as np
import pandas as pd
import pytest

from stmoe_hf import MobilityProcessor
from stmoe_hf.data.errors import DataError
from stmoe_hf.data.readers import stream_records
from stmoe_hf.data.submission import validate_submission
from stmoe_hf.metrics import score
from stmoe_hf.model.records import find_masked
from stmoe_hf.model.spacetime import Calendar, Grid

ASKED, CELL, MISTAKE = "asked for", "cell", "mistake"
CALENDAR = Calendar(0, 10, 48)
# grid, x, y -> what it is
RULE = [
    ((200, 200), 999, 999, ASKED),
    ((200, 200), 999, 5, MISTAKE),
    ((200, 200), 5, 999, MISTAKE),
    ((500, 1200), 999, 999, ASKED),
    ((500, 1200), 5, 999, CELL),
    ((500, 1200), 999, 5, MISTAKE),
    ((1200, 500), 999, 5, CELL),
    ((1200, 1200), 999, 999, CELL),
    ((998, 999), 999, 999, ASKED),
    ((999, 999), 999, 999, CELL),
]


@pytest.mark.parametrize(("size", "x", "y", "kind"), RULE)
def test_every_door_takes_999_for_the_same(size, x, y, kind, tmp_path):
    grid = Grid(*size)
    masked, half = find_masked([x], [y], grid)
    assert (masked[0], half[0]) == (kind == ASKED, kind == MISTAKE)
    table = pd.DataFrame({"uid": [1], "d": [2], "t": [3], "x": [x], "y": [y]})
    file = tmp_path / "city.csv"
    table.to_csv(file, index=False)
    processor = MobilityProcessor.for_data(grid, CALENDAR)
    if kind == MISTAKE:
        with pytest.raises(DataError, match="line 2"):
            list(stream_records(file, grid, CALENDAR))
        with pytest.raises(ValueError, match="day 2, slot 3"):
            processor(table)
    else:
        cell = next(stream_records(file, grid, CALENDAR)).cell[0]
        assert (cell == grid.mask_id) == (kind == ASKED)
        assert int(processor(table)["inputs"][0, 0, -1]) == cell
    problems = validate_submission(file, table, grid, CALENDAR)
    assert bool(problems) == (kind != CELL)
    if kind == CELL:
        assert score(table, table, "humob2024", grid=grid).accuracy == 1.0
    else:
        with pytest.raises(ValueError, match="masked"):
            score(table, table, "humob2024", grid=grid)


def test_missing_coordinates_ask_for_a_cell_on_any_grid():
    masked, half = find_masked(np.array([np.nan, np.nan, 3]), np.array([np.nan, 3, np.nan]), Grid(1200, 1200))
    assert masked.tolist() == [True, False, False]
    assert half.tolist() == [False, True, True]
