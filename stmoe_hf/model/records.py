"""The vocabulary of records: columns of files and of the network, and which records ask for their cell."""

from typing import Any

import numpy as np

# Of files and tables: person, day, slot of the day, cell along x and y (from 1).
RECORD_COLUMNS = ("uid", "d", "t", "x", "y")
# What tells one record from another.
KEY_COLUMNS = ("uid", "d", "t")
# Of the network's `inputs`, in order.
INPUT_COLUMNS = ("day", "slot", "weekday", "day_off", "delta", "cell")
DAY, SLOT, WEEKDAY, DAY_OFF, DELTA, CELL = range(len(INPUT_COLUMNS))
# What is counted of a cell from other people's records, in order: people, their records by kind of hour, people in and
# around it, in its block of 4 x 4 cells and of 16 x 16, and how much it is visited by people who share cells or blocks
# of cells with the person.
FIELD_COUNTS = (
    *("people", "at_night", "mornings", "days", "evenings", "days_off", "people_around", "people_block_4"),
    *("people_block_16", "by_people_of_same_cells", "by_people_of_same_blocks"),
)
# What is counted of the points of interest of a cell, in order: those of each group (`data/poi.py` tells which), and
# all in the nine cells in and around it.
POI_GROUPS = (
    *("food", "shopping", "leisure", "hotel", "transport", "health", "school", "office", "industry", "service"),
    "public",
)
POI_COUNTS = (*POI_GROUPS, "around")

MASKED = 999  # x and y of a record whose cell is asked for
NO_LABEL = -100  # label of a record that asks for nothing, as everywhere in torch


def has_cell_999(grid: Any) -> bool:
    """Whether (999, 999) is a cell of a grid; there only a missing x and y ask for a cell."""
    return grid.width >= MASKED and grid.height >= MASKED


def find_masked(x: Any, y: Any, grid: Any) -> tuple[np.ndarray, np.ndarray]:
    """Which records ask for their cell, and which are masked by half, which is a mistake.

    A record asks for its cell if x and y are both missing (nan) or both 999, unless the grid has a cell (999, 999). A
    999 in one of them alone is a coordinate where the grid reaches so far.

    Args:
        x, y: [n] numbers, as in the files.
        grid: with `width` and `height`.

    Returns:
        [n] whether the cell is asked for, [n] whether only one of x and y is masked.
    """
    x, y = np.asarray(x), np.asarray(y)
    no_x, no_y = (_is_nan(v) | ((v == MASKED) & (n < MASKED)) for v, n in ((x, grid.width), (y, grid.height)))
    both = (no_x & no_y) | ((x == MASKED) & (y == MASKED) & (not has_cell_999(grid)))
    return both, (no_x != no_y) & ~both


def _is_nan(values: np.ndarray) -> np.ndarray:
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
