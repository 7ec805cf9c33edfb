"""Parts of a city that people are counted in: cells, coarser squares, or zones from a GeoJSON file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..data.errors import DataError
from ..data.geography import Place
from ..model.spacetime import Grid

ELSEWHERE = 0  # the area of what lies in none, and of people of whom no cell is named


@dataclass(frozen=True)
class Areas:
    """Areas numbered from 1.

    Attributes:
        of_cell: [cells] the area that the middle of each cell lies in; 0 where it lies in none.
        labels: a row an area (area k in row k - 1): x and y of a square, or the name of a zone.
        middles: [areas, 2] x and y of their middles in cells (a number .5 lies between two cells).
        outlines: a GeoJSON geometry an area; None where the place is not known.
    """

    of_cell: np.ndarray
    labels: pd.DataFrame
    middles: np.ndarray
    outlines: list[dict[str, Any]] | None = None

    def labelled(self, table: pd.DataFrame, column: str, prefix: str = "") -> pd.DataFrame:
        """The table with the labels of the areas in `column`, in place of their numbers."""
        labels = self.labels.iloc[table[column].to_numpy() - 1].add_prefix(prefix)
        at = int(table.columns.get_loc(column))  # type: ignore[arg-type]
        left, right = table.iloc[:, :at], table.iloc[:, at + 1 :]
        parts = [part.reset_index(drop=True) for part in (left, labels, right)]
        return pd.concat(parts, axis=1)


def squares(grid: Grid, side: int, place: Place | None = None) -> Areas:
    """Squares of `side` x `side` cells from the corner of the grid on; with side 1 the cells."""
    if side < 1:
        raise DataError(f"a square has a whole number of cells along each side, not {side}")
    wide, high = -(-grid.width // side), -(-grid.height // side)
    x, y = grid.xy(np.arange(grid.num_cells))
    of_cell = (y - 1) // side * wide + (x - 1) // side + 1
    number = np.arange(wide * high)
    labels = pd.DataFrame({"x": number % wide + 1, "y": number // wide + 1})
    first = (labels.to_numpy() - 1) * side + 1
    last = np.minimum(first + side - 1, [grid.width, grid.height])
    outlines = None if place is None else [_square(a, b, place, grid) for a, b in zip(first, last, strict=True)]
    return Areas(of_cell, labels, (first + last) / 2, outlines)


def side_of(square_km: float | None, grid: Grid) -> int:
    """How many cells a square of so many kilometres has along its side; DataError if that is no whole number."""
    if square_km is None:
        return 1
    side = square_km / grid.cell_km
    if abs(side - round(side)) > 1e-6 or round(side) < 1:
        raise DataError(f"a square of {square_km:g} km is no whole number of cells, which are {grid.cell_km:g} km")
    return round(side)


def zones(path: str | Path, grid: Grid, place: Place, name: str | None = None) -> Areas:
    """The zones of a GeoJSON file of polygons; a cell belongs to the first zone that its middle lies in.

    Args:
        path: the file, in degrees (WGS 84), as GeoJSON is.
        grid, place: of the city.
        name: the property that names a zone; unset: `name` or `id` where all have it, else their number.

    Raises:
        DataError: the file is no such collection, a zone has no polygon or no name, none has a cell.
        ImportError: shapely is missing.
    """
    from shapely import contains_xy
    from shapely.geometry import shape

    try:
        features = json.loads(Path(path).read_text(encoding="utf-8"))["features"]
        shapes = [shape(feature["geometry"]) for feature in features]
        properties = [{"id": feature.get("id")} | (feature.get("properties") or {}) for feature in features]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is no GeoJSON collection of zones: {error}") from None
    for number, polygon in enumerate(shapes, 1):
        if polygon.geom_type not in ("Polygon", "MultiPolygon"):
            raise DataError(f"{path}: zone {number} is a {polygon.geom_type}; it must be a polygon")
    latitude, longitude = place.to_latlon(*grid.xy(np.arange(grid.num_cells)), grid)
    of_cell = np.zeros(grid.num_cells, np.int64)
    for number, polygon in enumerate(shapes, 1):
        of_cell[(of_cell == ELSEWHERE) & contains_xy(polygon, longitude, latitude)] = number
    if not of_cell.any():
        raise DataError(f"{path}: no zone has the middle of a cell of this city")
    labels = pd.DataFrame({"zone": _names(path, properties, name)})
    middles = np.array([place.to_km(point.y, point.x) for point in (p.representative_point() for p in shapes)])
    middles = middles / grid.cell_km + np.array([grid.width, grid.height]) / 2 + 0.5
    return Areas(of_cell, labels, middles, [feature["geometry"] for feature in features])


def _names(path: str | Path, properties: list[dict[str, Any]], name: str | None) -> list[str]:
    if name is None:
        name = next((key for key in ("name", "id") if all(p.get(key) is not None for p in properties)), None)
    if name is None:
        return [str(number) for number in range(1, len(properties) + 1)]
    names = [str(p.get(name)) for p in properties]
    if "None" in names:
        raise DataError(f"{path}: zone {names.index('None') + 1} has no property {name!r}")
    twice = pd.Series(names).duplicated()
    if twice.any():
        raise DataError(f"{path}: two zones are called {names[int(np.argmax(twice))]!r}")
    return names


def _square(first: np.ndarray, last: np.ndarray, place: Place, grid: Grid) -> dict[str, Any]:
    (west, south), (east, north) = first - 0.5, last + 0.5
    latitude, longitude = place.to_latlon([west, east, east, west, west], [south, south, north, north, south], grid)
    return {"type": "Polygon", "coordinates": [np.column_stack([longitude, latitude]).round(6).tolist()]}
