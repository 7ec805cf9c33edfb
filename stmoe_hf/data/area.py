"""Which grid fits some points: where most of them are, and never as large as a stray point would make it."""

from __future__ import annotations

import contextlib
import importlib.resources
import itertools
import math
import re
import zoneinfo
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..model.spacetime import Grid
from .description import Description
from .errors import DataError
from .geography import FARTHEST_LATITUDE, Place

MOST_CELLS = 1_000_000  # of a grid that is fitted to the data
COMPACT_CELLS = 400  # a side: a grid up to this size holds every point
BIN_KM = 25.0  # of the squares in which points are counted; neighbours belong together
LEAST_SHARE = 0.01  # of all points: an area with fewer is left out where it would make the grid large
NEAR_ZONE_KM, FAR_ZONE_KM = 1500.0, 3000.0


def choose_grid(
    latitude: np.ndarray,
    longitude: np.ndarray,
    cell_km: float,
    bounds: tuple[float, float, float, float] | None = None,
    grid_size: tuple[int, int] | None = None,
    like: Description | None = None,
    drop: bool = False,
) -> tuple[Grid, tuple[float, float]]:
    """The grid of points [n], and the latitude and longitude of its middle; fitted where nothing says what it is.

    A grid that is fitted holds every point if it is compact, and else the areas with most of them; `drop`: these only.

    Raises:
        DataError: the bounds are none, the city `like` has no place, or the grid would lie at a pole or be too large.
    """
    if like is not None:
        if like.place is None:
            raise DataError(f"city {like.name} does not say where it lies: its city.json has no place")
        return like.grid, (like.place.latitude, like.place.longitude)
    if bounds is not None:
        south, west, north, east = bounds
        if not -90 <= south < north <= 90 or not -180 <= west <= 180 or not -180 <= east <= 180 or west == east:
            raise DataError(f"the bounds {bounds} are no south, west, north, east in degrees")
        grid, middle = _of_box(south, west, north, east + (360 if east < west else 0), cell_km, exact=True)
        if grid.num_cells > MOST_CELLS:
            raise DataError(
                f"these bounds hold {grid.width:,} x {grid.height:,} cells of {cell_km:g} km, more than {MOST_CELLS:,}"
                ": give narrower bounds, a grid_size, or larger cells"
            )
        return grid, middle
    # Around the first point, so that points on both sides of the 180th meridian lie together.
    around = (longitude - longitude[0] + 180) % 360 - 180
    if grid_size is not None:
        middle = _on_earth(np.median(latitude), longitude[0] + np.median(around))
        return Grid(grid_size[0], grid_size[1], cell_km), middle
    return _fit(latitude, around, longitude[0], cell_km, drop)


def far_from_most(latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Which points [n] lie in an area with few of them, apart from where most are."""
    area = _areas(latitude, (longitude - longitude[0] + 180) % 360 - 180)
    counts = np.bincount(area)
    few = counts < LEAST_SHARE * len(area)
    few[counts.argmax()] = False
    return few[area]


def _fit(
    latitude: np.ndarray, around: np.ndarray, origin: float, cell_km: float, drop: bool
) -> tuple[Grid, tuple[float, float]]:
    """The grid over all points if it is compact, else (or to `drop` the others) over the areas with most of them."""

    def box(rows: np.ndarray) -> tuple[Grid, tuple[float, float]]:
        lat, lon = latitude[rows], origin + around[rows]
        return _of_box(lat.min(), lon.min(), lat.max(), lon.max(), cell_km)

    def cells(rows: np.ndarray) -> Grid:
        middle = (latitude[rows].min() + latitude[rows].max()) / 2
        return box(rows)[0] if abs(middle) <= FARTHEST_LATITUDE else Grid(MOST_CELLS + 1, 1, cell_km)

    everything = np.ones(len(latitude), bool)
    whole = cells(everything)
    if max(whole.width, whole.height) <= COMPACT_CELLS and not drop:
        return box(everything)
    area = _areas(latitude, around)
    counts = np.bincount(area)
    chosen = area == counts.argmax()
    for other in np.argsort(-counts, kind="stable")[1:]:
        if counts[other] < LEAST_SHARE * len(area):
            break
        more = chosen | (area == other)
        if cells(more).num_cells <= MOST_CELLS:
            chosen = more
    if cells(chosen).num_cells <= MOST_CELLS:
        return box(chosen)
    side = math.isqrt(MOST_CELLS)
    middle = _on_earth(float(np.median(latitude[chosen])), float(origin + np.median(around[chosen])))
    return Grid(side, side, cell_km), middle


def _areas(latitude: np.ndarray, around: np.ndarray) -> np.ndarray:
    """The number of each point's area [n]: squares of `BIN_KM` with points that touch each other are one area."""
    rows = np.floor(latitude * 111.2 / BIN_KM).astype(np.int64)
    stretch = np.cos(np.radians(np.clip(np.round(latitude), -FARTHEST_LATITUDE, FARTHEST_LATITUDE)))
    columns = np.floor(around * 111.3 * stretch / BIN_KM).astype(np.int64)
    squares, of_point = np.unique(np.column_stack([rows, columns]), axis=0, return_inverse=True)
    number = {tuple(square): i for i, square in enumerate(squares.tolist())}
    area = np.full(len(squares), -1)
    for start in range(len(squares)):
        if area[start] >= 0:
            continue
        waiting = [start]
        area[start] = start
        while waiting:
            row, column = squares[waiting.pop()].tolist()
            for down, right in itertools.product((-1, 0, 1), repeat=2):
                other = number.get((row + down, column + right))
                if other is not None and area[other] < 0:
                    area[other] = start
                    waiting.append(other)
    return area[of_point.ravel()]


def _of_box(south, west, north, east, cell_km: float, exact: bool = False) -> tuple[Grid, tuple[float, float]]:
    """The grid of a box in degrees, and its middle."""
    middle = _on_earth((south + north) / 2, (west + east) / 2)
    a_degree = Place(*middle, "UTC", "1970-01-01").km_a_degree
    km = ((east - west) * a_degree[0], (north - south) * a_degree[1])
    # A point on the northern or eastern edge needs a cell too, unless the bounds are given.
    width, height = (max(1, int(np.ceil(k / cell_km - 1e-9)) if exact else int(k / cell_km) + 1) for k in km)
    return Grid(width, height, cell_km), middle


def _on_earth(latitude: float, longitude: float) -> tuple[float, float]:
    if abs(latitude) > FARTHEST_LATITUDE:
        raise DataError(
            f"the middle of the grid is at latitude {latitude:g}; a grid so near to a pole is not possible"
        )
    return float(latitude), float((longitude + 180) % 360 - 180)


def refuse_exchanged(latitude: np.ndarray, longitude: np.ndarray, timezone: str) -> None:
    """Raise DataError if the points lie far from the city of their time zone, and exchanged they do not."""
    city = _zone_city(timezone)
    if city is None:
        return
    here = (float(np.median(latitude)), float(np.median(longitude)))
    if abs(here[1]) <= 90 and _km(here, city) > FAR_ZONE_KM and _km(here[::-1], city) < NEAR_ZONE_KM:
        raise DataError(
            f"the points lie around latitude {here[0]:.2f}, longitude {here[1]:.2f}, far from {timezone}; exchanged"
            " they would lie there: check which column is the latitude (or give bounds, if they do lie here)"
        )


def _km(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Great-circle distance of two places (latitude, longitude)."""
    a, b, c, d = map(math.radians, (*one, *other))
    half = math.sin((c - a) / 2) ** 2 + math.cos(a) * math.cos(c) * math.sin((d - b) / 2) ** 2
    return 2 * 6371.0 * math.asin(min(1.0, math.sqrt(half)))


@lru_cache(maxsize=8)
def _zone_city(timezone: str) -> tuple[float, float] | None:
    """Latitude and longitude of the city that a zone is named after, if the zone tables of the system tell."""
    places = [Path(folder) for folder in zoneinfo.TZPATH]
    with contextlib.suppress(ModuleNotFoundError):
        places.append(importlib.resources.files("tzdata") / "zoneinfo")  # type: ignore[arg-type]
    for place in places:
        for name in ("zone.tab", "zone1970.tab"):
            try:
                lines = (place / name).read_text(encoding="utf-8").splitlines()
            except OSError:
                continue
            for line in lines:
                fields = line.split("\t")
                if len(fields) >= 3 and fields[2] == timezone:
                    return _iso_6709(fields[1])
    return None


def _iso_6709(text: str) -> tuple[float, float] | None:
    """+3518+13944 or +353916+1394441 -> degrees."""
    found = re.fullmatch(r"([+-])(\d\d)(\d\d)(\d\d)?([+-])(\d\d\d)(\d\d)(\d\d)?", text, re.ASCII)
    if found is None:
        return None
    degrees = []
    for sign, d, m, s in (found.groups()[:4], found.groups()[4:]):
        size = int(d) + int(m) / 60 + int(s or 0) / 3600
        degrees.append(-size if sign == "-" else size)
    return degrees[0], degrees[1]
