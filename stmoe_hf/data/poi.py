"""Points of interest of a city: how many shops, schools, stations, ... each cell of its grid has.

    x,y,category,POI_count
    12,7,4,3            HuMob's number of a category: three Japanese restaurants
    12,7,food,3         or one of the groups of `POI_GROUPS`, as `stmoe poi` writes them

Categories are counted by a fixed list of groups, so that what a network learns of HuMob's categories in one city holds
for those of OpenStreetMap in another.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet

from ..model.records import POI_COUNTS, POI_GROUPS
from ..model.spacetime import Grid
from ..model.tables import find_columns, shown, whole
from .errors import DataError
from .opening import is_parquet, lines_of, read_header, rows_by_line, told

COLUMNS = ("x", "y", "category", "poi_count")
# The numbers of HuMob's 85 categories in each group.
HUMOB = {
    "food": (1, *range(4, 24), 25, 26, *range(29, 32)),  # restaurants of all kinds, bars, cafes, bakeries
    "shopping": (2, *range(32, 43), 60, 75, 79, 80),  # shops, also of building material and plants
    "leisure": (3, 24, 27, 28, *range(43, 46), 47, 50, 55, 64, 68),  # sport, games, parks, hot springs, weddings
    "hotel": (46,),
    "transport": (48, 49, 84),  # stations and stops, parking, ports
    "health": (*range(51, 55), 67),  # hospitals, pharmacies, chiropractors, homes for the elderly, vets
    "school": (*range(56, 59), 63),  # schools, cram schools, kindergartens, driving schools
    "office": (59, 70, 71, *range(76, 79), 82, 85),  # estate agents, lawyers, accountants, IT, research
    "industry": (81, 83),  # heavy industry, utilities
    "service": (61, 62, 66, 69),  # post, laundries, banks, hair salons
    "public": (65, *range(72, 75)),  # cemeteries, town halls, community centres, churches
}
NUM_CATEGORIES = 85
GROUP_OF = {str(number): POI_GROUPS.index(group) for group, numbers in HUMOB.items() for number in numbers}
GROUP_OF |= {group: number for number, group in enumerate(POI_GROUPS)}
AROUND = POI_COUNTS.index("around")


@dataclass(frozen=True)
class PointsOfInterest:
    """What is counted of the cells of a grid.

    Attributes:
        grid: with the cells.
        cells: [N] that have a point in or around them, ascending.
        counts: [N, P] points, in the order of `POI_COUNTS`.
    """

    grid: Grid
    cells: np.ndarray
    counts: np.ndarray

    @property
    def in_cell(self) -> np.ndarray:
        """[N] all points of each cell itself."""
        return self.counts[:, : len(POI_GROUPS)].sum(1)

    def of(self, cells: np.ndarray) -> np.ndarray:
        """[n, P] what is counted of cells [n], 0 where there is nothing."""
        at = np.minimum(np.searchsorted(self.cells, cells), len(self.cells) - 1)
        return self.counts[at] * (self.cells[at] == cells)[:, None]


def count_points(cell: np.ndarray, group: np.ndarray, count: np.ndarray, grid: Grid) -> PointsOfInterest:
    """The points [n] by cell and group, a number of `POI_GROUPS`."""
    groups = len(POI_GROUPS)
    key, entry = np.unique(cell * groups + group, return_inverse=True)
    own = np.unique(key // groups)
    of_group = np.zeros((len(own), groups))
    of_group[np.searchsorted(own, key // groups), key % groups] = np.bincount(entry, count, len(key))
    step = np.array([-1, 0, 1])
    x = (own % grid.width)[:, None, None] + step
    y = (own // grid.width)[:, None, None] + step[:, None]
    inside = (x >= 0) & (x < grid.width) & (y >= 0) & (y < grid.height)
    cells, entry = np.unique((y * grid.width + x)[inside], return_inverse=True)
    counts = np.zeros((len(cells), len(POI_COUNTS)), np.float32)
    counts[np.searchsorted(cells, own), :groups] = of_group
    counts[:, AROUND] = np.bincount(entry, np.broadcast_to(of_group.sum(1)[:, None, None], inside.shape)[inside])
    return PointsOfInterest(grid, cells, counts)


def read_poi(path: str | Path, grid: Grid) -> PointsOfInterest:
    """The points of interest of a csv or parquet file x, y, category, POI_count, of any number of rows a cell.

    Args:
        path: the file; text may be packed and separated as that of records.
        grid: of the city.

    Raises:
        DataError: naming file and line: a column is missing, a value that is no whole number, a cell off the grid, a
            category that is none, a negative count; or the file holds no point. FileNotFoundError: there is no file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    table, places = _table(path)

    def refuse(wrong: np.ndarray, name: str, text: str) -> None:
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(f"{places(row)}: {name} is {shown(table[name].iloc[row])}; {text}")

    numbers = {}
    for name in ("x", "y", "poi_count"):
        numbers[name], missing, wrong = whole(table[name])
        refuse(missing | wrong, name, "it must be a whole number")
    for name, size in (("x", grid.width), ("y", grid.height)):
        refuse((numbers[name] < 1) | (numbers[name] > size), name, f"the grid has 1..{size}")
    group = _groups(table["category"])
    refuse(group < 0, "category", f"it must be a number 1..{NUM_CATEGORIES} or one of {', '.join(POI_GROUPS)}")
    refuse(numbers["poi_count"] < 0, "poi_count", "it must not be negative")
    if not numbers["poi_count"].any():
        raise DataError(f"{path} holds no point of interest")
    there = numbers["poi_count"] > 0
    cell = grid.cell(numbers["x"], numbers["y"])
    return count_points(cell[there], group[there], numbers["poi_count"][there], grid)


def _groups(category: pd.Series) -> np.ndarray:
    """[n] the number of the group of each category, -1 where it is none."""
    number, missing, wrong = whole(category)
    text = category.astype(str).str.strip().str.lower()
    text = text.where(missing | wrong, pd.Series(number, index=category.index).astype(str))
    return text.map(GROUP_OF).fillna(-1).to_numpy(np.int64)


def _table(path: Path) -> tuple[pd.DataFrame, Any]:
    """The four columns under their names, and a function that tells where a row, from 0, stands."""
    if is_parquet(path):
        with told(path):
            table = pyarrow.parquet.read_table(path).to_pandas()
        return _named(path, table), lambda row: f"{path}, row {row + 1}"
    header = read_header(path, lambda found: len(find_columns(found, COLUMNS)))
    rows = []
    for line, row in rows_by_line(path, header):
        if len(row) != len(header.names):
            text = shown(header.separator.join(row))
            raise DataError(f"{path}, line {line}: {len(row)} values in place of {len(header.names)}: {text}")
        rows.append(row)
    table = pd.DataFrame(rows, columns=header.names, dtype=object)
    return _named(path, table), lambda row: f"{path}, line {lines_of(path, [row], header.lines)[0]}"


def _named(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    names = find_columns(table.columns, COLUMNS)
    if lacking := [name for name in COLUMNS if name not in names]:
        found = ", ".join(map(str, table.columns))[:200]
        raise DataError(f"{path}: the columns are {found!r}; they must be x,y,category,POI_count (no {lacking[0]})")
    return pd.DataFrame({name: table[found] for name, found in names.items()})


def refuse_unused_poi(poi: Any, config: Any) -> None:
    """Raise DataError if points of interest, or a file of them, are given to a network that has no use for them."""
    if poi is not None and not getattr(config, "city_field_poi", False):
        raise DataError(
            "this network has no use for points of interest: leave --poi out, or train one with --city_field_poi true"
        )
