"""A city's trajectories: an Arrow dataset with one row a user, prepared once and memory-mapped."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd

from ..model.records import MASKED, has_cell_999
from ..model.spacetime import Calendar, Grid
from .description import DESCRIPTION, USERS, describe
from .editions import Edition, find_file, get_edition
from .errors import DataError
from .geography import Place
from .poi import PointsOfInterest, read_poi
from .prepare import USERS_FILE, prepare
from .readers import part_files


@dataclass(frozen=True)
class Trajectory:
    """The records of one user in time order: day, slot and cell [T] int64, the cell `mask_id` where asked for."""

    uid: int
    day: np.ndarray
    slot: np.ndarray
    cell: np.ndarray


class City:
    """The trajectories of a city.

    Attributes:
        name, edition, grid, calendar, source: what it is and from which files it was prepared.
        place: where it lies and when its first day was, if its `city.json` says so.
        users: columns uid, user: what people are called in the points that the city was made from, if it was.
        poi: its points of interest, if a file of them was given (`with_poi`).
        dataset: `datasets.Dataset`, memory-mapped, one row a user: uid, and day, slot, cell as lists.
        uids, lengths, masked_counts: [users] uid, records and masked records of each user.
        first_days, last_days: [users] the days of each user's first and last record.
    """

    def __init__(
        self,
        name: str,
        edition: Edition,
        grid: Grid,
        calendar: Calendar,
        dataset: datasets.Dataset,
        source: list[Path],
        place: Place | None = None,
        users: pd.DataFrame | None = None,
    ):
        self.users = users
        self.poi: PointsOfInterest | None = None
        self.name, self.edition, self.grid, self.calendar = name, edition, grid, calendar
        self.dataset, self.source, self.place = dataset, source, place
        table = dataset.data.table
        self._columns = [
            [(chunk.offsets.to_numpy(), chunk.values.to_numpy()) for chunk in table.column(column).chunks]
            for column in ("day", "slot", "cell")
        ]
        self._starts = np.cumsum([0] + [len(offsets) - 1 for offsets, _ in self._columns[0]])
        self.uids = table.column("uid").to_numpy().astype(np.int64)
        self.lengths = table.column("records").to_numpy().astype(np.int64)
        self.masked_counts = table.column("masked").to_numpy().astype(np.int64)
        self.first_days = table.column("first_day").to_numpy().astype(np.int64)
        self.last_days = table.column("last_day").to_numpy().astype(np.int64)
        self._rows = np.arange(len(self.uids))

    def __len__(self) -> int:
        return len(self.uids)

    def __repr__(self) -> str:
        grid, calendar = self.grid, self.calendar
        return (
            f"City({self.name!r}, {self.edition.name}: {len(self):,} people, {self.num_records:,} records"
            f" ({self.num_masked:,} masked), days {calendar.first_day}..{calendar.last_day} of {calendar.num_slots}"
            f" slots, {grid.width} x {grid.height} cells of {grid.cell_km:g} km)"
        )

    def to_pandas(self) -> pd.DataFrame:
        """All records, by user, day and slot: columns uid, d, t, x, y; x and y are 999 where a cell is asked for.

        Raises:
            DataError: a masked cell, shown as 999, would be a cell of so large a grid.
        """
        if self.num_masked and has_cell_999(self.grid):
            raise DataError(
                f"city {self.name} has masked records, which a grid of {MASKED} cells and more cannot show"
            )
        people = [self.trajectory(row) for row in range(len(self))]
        day, slot, cell = (
            np.concatenate([np.empty(0, np.int64), *(getattr(person, name) for person in people)])
            for name in ("day", "slot", "cell")
        )
        x, y = self.grid.xy(cell)
        masked = cell == self.grid.mask_id
        x[masked] = y[masked] = MASKED
        return pd.DataFrame({"uid": np.repeat(self.uids, self.lengths), "d": day, "t": slot, "x": x, "y": y})

    @property
    def key(self) -> str:
        """Name with edition, as in a model's `config.cities`: city A of 2024 is not city A of 2025."""
        return f"{self.edition.name}-{self.name}"

    @property
    def num_records(self) -> int:
        return int(self.lengths.sum())

    @property
    def num_masked(self) -> int:
        return int(self.masked_counts.sum())

    def trajectory(self, row: int) -> Trajectory:
        """The records of one user, straight from the memory-mapped buffers."""
        stored = int(self._rows[row])
        chunk = int(np.searchsorted(self._starts, stored, side="right")) - 1
        index = stored - int(self._starts[chunk])
        parts = []
        for column in self._columns:
            offsets, values = column[chunk]
            parts.append(values[offsets[index] : offsets[index + 1]].astype(np.int64))
        return Trajectory(int(self.uids[row]), *parts)

    def records_before(self, rows: np.ndarray, day: np.ndarray | int) -> np.ndarray:
        """How many records [rows] of each of these users lie before a day (one for all, or one each).

        A bisection of all users at once, which reads a few pages of each instead of the whole city.
        """
        stored, day = self._rows[rows], np.broadcast_to(day, np.shape(rows))
        counts = np.empty(len(stored), np.int64)
        for some, index, (offsets, values) in self._by_chunk(stored, 0):
            first, until = offsets[index].astype(np.int64), day[some]
            low, high = first.copy(), offsets[index + 1].astype(np.int64)
            while (searching := low < high).any():
                middle = (low + high) // 2
                before = searching & (values[np.where(searching, middle, 0)] < until)
                low = np.where(before, middle + 1, low)
                high = np.where(searching & ~before, middle, high)
            counts[some] = low - first
        return counts

    def day_of(self, rows: np.ndarray, record: np.ndarray) -> np.ndarray:
        """The days [rows] of one record of each of these users, given by its number in the trajectory."""
        days = np.empty(len(rows), np.int64)
        for some, index, (offsets, values) in self._by_chunk(self._rows[rows], 0):
            days[some] = values[offsets[index] + record[some]]
        return days

    def _by_chunk(self, stored: np.ndarray, column: int) -> Iterator[tuple[np.ndarray, np.ndarray, Any]]:
        """Of every chunk with one of these stored rows: which they are, their numbers in it, and its buffers."""
        chunk = np.searchsorted(self._starts, stored, side="right") - 1
        for number in np.unique(chunk):
            some = np.flatnonzero(chunk == number)
            yield some, stored[some] - self._starts[number], self._columns[column][number]

    def with_poi(self, path: str | Path) -> City:
        """The same city with the points of interest of a file; errors as of `read_poi`."""
        other = copy.copy(self)
        other.poi = read_poi(path, self.grid)
        return other

    def select(self, rows: np.ndarray) -> City:
        """The city of these users only, without a copy of their records."""
        part = object.__new__(City)
        part.__dict__ |= self.__dict__
        part._rows = self._rows[rows]
        for name in ("uids", "lengths", "masked_counts", "first_days", "last_days"):
            setattr(part, name, getattr(self, name)[rows])
        part.dataset = self.dataset.select(part._rows)
        return part


def city_id(cities: Sequence[str] | None, city: City) -> int | None:
    """The number of a city among those of a model: -1 if it is not one of them, None if the model knows none."""
    if not cities:
        return None
    return list(cities).index(city.key) if city.key in cities else -1


@dataclass(frozen=True)
class CitySource:
    """Where a city's records are, and what they are in; `path` is a file or a folder of parts."""

    name: str
    path: Path
    edition: Edition
    grid: Grid
    place: Place | None = None


def find_city(
    city: str | None = None,
    data_dir: str | Path | None = None,
    *,
    path: str | Path | None = None,
    edition: str | None = None,
) -> CitySource:
    """Find a city by its name in a folder, or by its path; a `city.json` there says what its grid and calendar are.

    Arguments and errors as of `open_city`.
    """
    if path is not None:
        described = describe(path)
    elif city is None or data_dir is None:
        raise ValueError("say which city in which folder (city and data_dir), or give a file (path)")
    else:
        described = describe(Path(data_dir) / city) if (Path(data_dir) / city).is_dir() else describe(data_dir)
        if described is not None and described[1].name != city:
            described = None
    if described is not None:
        file, description = described
        if edition not in (None, description.edition):
            raise DataError(
                f"the {DESCRIPTION} of {file} says edition {description.edition}, with its own calendar: leave edition"
                f" {edition} out"
            )
        name = city or description.name
        return CitySource(name, file, description.as_edition(), description.grid, description.place)
    if path is not None:
        name = city or Path(path).name.split(".")[0]
        return CitySource(name, Path(path), get_edition(edition or "humob2024"), Grid())
    assert city is not None and data_dir is not None
    file, found = find_file(city, data_dir, edition)
    return CitySource(city, file, found, Grid())


def open_city(
    city: str | None = None,
    data_dir: str | Path | None = None,
    *,
    path: str | Path | None = None,
    edition: str | None = None,
    cache_dir: str | Path | None = None,
    progress: bool = False,
    check: Callable[[Grid, Calendar], None] | None = None,
) -> City:
    """Find the file of a city, prepare it once, and open it.

    Args:
        city, data_dir: name of the city and folder of its file; or
        path: a file (csv, csv.gz, parquet) or a folder of parts, of the format of `edition` (humob2024 if not said). A
            `city.json` beside the records says their grid and calendar; else the grid is 200 x 200 cells of 500 m.
        edition: humob2023, humob2024 or humob2025; by default told from the file's name.
        cache_dir: where prepared cities are kept; by default in the cache of `datasets`.
        progress: show a bar while a city is prepared.
        check: called with grid and calendar before any record is read; may raise.

    Raises:
        DataError: naming file and line of what is wrong. FileNotFoundError: naming the folder and the accepted names.
    """
    source = find_city(city, data_dir, path=path, edition=edition)
    grid, calendar = source.grid, source.edition.calendar
    files = part_files(source.path)
    if check is not None:
        check(grid, calendar)
    root = Path(cache_dir or Path(datasets.config.HF_DATASETS_CACHE) / "stmoe_hf")
    folder = prepare(files, grid, calendar, root, progress)
    dataset = datasets.Dataset.from_file(str(folder / USERS_FILE))
    return City(source.name, source.edition, grid, calendar, dataset, files, source.place, _users(source.path))


def _users(records: Path) -> pd.DataFrame | None:
    """The table of people beside records that were made from points."""
    file = records.parent / USERS
    return pd.read_csv(file, dtype={"user": str}) if file.is_file() and describe(records) is not None else None
