"""What is known of a city as a file that may be published: who many were where, and nothing of any person.

`CityField` reads the records of a city's people, who must be at hand. `CityCounts` are the counts of its cells alone:
they can be given away, and an engine whose batches are no city can tell a network of the city by them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..model.records import FIELD_COUNTS
from ..model.spacetime import KINDS_OF_HOUR, Calendar, Grid
from .city import City
from .counting import counted, surroundings
from .errors import DataError
from .field import LIKENESS, MOST_PEOPLE, PersonField, person_field, places_of, with_points
from .files import open_aside
from .geography import Place
from .poi import PointsOfInterest

KIND = "stmoe_hf city counts"
MIN_PEOPLE = 5  # behind each number of a file that is published
KINDS = FIELD_COUNTS[1 : 1 + KINDS_OF_HOUR]
MOST_RECORDS = 1 << 16  # of a person in a cell at a kind of hour, as they are counted
COLUMNS = ("x", "y", "people", *KINDS)
WHERE = {"latitude": "middle of the grid", "longitude": "middle of the grid", "first_date": "date of the first day"}
WHEN = {
    "first_day": "number of the first day",
    "first_weekday": "weekday of the first day",
    "num_slots": "slots a day",
}


@dataclass(frozen=True, eq=False)
class CityCounts:
    """Counts of a city's cells before a day, none of which fewer than `min_people` make up.

    In the records of a cell and kind of hour nobody counts for more than the person of rank `min_people` there, so
    that no number is mostly one person's: that of the nights of a cell where one sleeps and others pass is 0.

    Attributes:
        grid: of the city.
        told: what else says which city it is and how its days are numbered: those of `WHERE`, if its place is known,
            and of `WHEN`.
        until: the first day that was not counted.
        min_people: behind each number.
        num_people: who were counted; cells_a_person: how many cells each was seen in, on average.
        cells: [N], ascending.
        people: [N] who were seen there.
        kinds: [N, KINDS_OF_HOUR] their records by kind of hour, as above; 0 where fewer than `min_people` have any.
        poi: points of interest that are told too; they are in no file.
    """

    grid: Grid
    told: dict[str, Any]
    until: int
    min_people: int
    num_people: int
    cells_a_person: float
    cells: np.ndarray
    people: np.ndarray
    kinds: np.ndarray
    poi: PointsOfInterest | None = None

    def __post_init__(self) -> None:
        around = surroundings(self.cells, self.people, self.grid.width)
        counts = np.column_stack([self.people, self.kinds, *around]).astype(np.float32)
        likeness = np.zeros((len(counts), len(FIELD_COUNTS[LIKENESS])), np.float32)
        object.__setattr__(self, "_counts", np.concatenate([counts, likeness], axis=1))

    def of_person(self, row: int, history: np.ndarray) -> PersonField:
        """What the counts say to a person, as of `CityField.of_person`, but not who is like the person.

        A network learns from the records of at most 256 people at a time: the counts of more are scaled to as many as
        256 would give. The person may be among the counted; what is told are cells that they do not know.

        Args:
            row: has no say; all people of a city are told of the same counts.
            history: [T] the cells that the person is known to have been in.
        """
        places, visits = places_of(history)
        if not len(places):
            return PersonField.of_nobody()
        counts: np.ndarray = self._counts  # type: ignore[attr-defined]
        found = person_field(self.cells, counts, places, visits, self.grid.width)
        total = float(found.counts[:, 0].sum())
        scale = min(1.0, MOST_PEOPLE * self.cells_a_person / total) if total else 1.0
        found = PersonField(found.cells, (found.counts * scale).astype(np.float32))
        return found if self.poi is None else with_points(found, self.poi, places, visits, self.grid.width)

    def with_poi(self, poi: PointsOfInterest | None) -> CityCounts:
        """The same counts, with the points of interest of a city, if it has any."""
        return self if poi is None else replace(self, poi=poi)

    def save(self, path: str | Path) -> None:
        """Write a parquet file: x, y (from 1), people, and records by kind of hour."""
        x, y = self.grid.xy(self.cells)
        columns = [x, y, self.people, *self.kinds.T]
        table = pa.table({name: np.asarray(values, np.int32) for name, values in zip(COLUMNS, columns, strict=True)})
        told = {name: getattr(self, name) for name in ("until", "min_people", "num_people", "cells_a_person")}
        told |= {"kind": KIND, "city": self.told, **vars(self.grid)}
        with open_aside(Path(path), "wb") as file:
            pq.write_table(table.replace_schema_metadata({"stmoe_hf": json.dumps(told)}), file)


def count_city(city: City, until: int, min_people: int = MIN_PEOPLE) -> CityCounts:
    """The counts of a city's records before day `until`; errors as of `count_people`."""
    return count_people([city], until, min_people, city.grid, told_of(city.calendar, city.place), city.name)


def count_people(
    parts: Iterable[City], until: int, min_people: int, grid: Grid, told: dict[str, Any], name: str
) -> CityCounts:
    """The counts of people who come in parts; memory goes with the cells that somebody was seen in.

    Args:
        parts: people as cities, nobody twice.
        until: the first day that is not counted.
        min_people: behind each number.
        grid, told: as of `CityCounts`; name: of the city, for errors.

    Raises:
        DataError: fewer than `min_people` people have a record before that day, or no cell has as many.
    """
    if min_people < 1:
        raise DataError(f"min_people is {min_people}; it must be at least 1")
    tally = _Tally.of(np.zeros(0, np.int64), np.zeros((0, KINDS_OF_HOUR), np.int64), min_people)
    num_people = entries = 0
    for part in parts:
        for some in counted(part, until):
            tally = tally.plus(_Tally.of(some.cell, some.kinds.astype(np.int64), min_people))
            num_people += len(np.unique(some.person))
            entries += len(some.cell)
    kept = tally.people >= min_people
    if not kept.any():
        raise DataError(f"no cell of city {name} has {min_people} people before day {until}: nothing can be kept")
    numbers = until, min_people, num_people, entries / num_people
    return CityCounts(grid, told, *numbers, tally.cells[kept], tally.people[kept], tally.bounded()[kept])


def told_of(calendar: Calendar, place: Place | None) -> dict[str, Any]:
    """What says which city it is and how its days are numbered, as `CityCounts.told`."""
    return {n: getattr(calendar, n) for n in WHEN} | ({} if place is None else {n: getattr(place, n) for n in WHERE})


@dataclass(frozen=True)
class _Tally:
    """Of cells [N], ascending: people [N], all records by kind of hour [N, KINDS_OF_HOUR], and of these the `most`
    of any `min_people` people, the most first, [N, KINDS_OF_HOUR, min_people]."""

    cells: np.ndarray
    people: np.ndarray
    records: np.ndarray
    most: np.ndarray

    @classmethod
    def of(cls, cell: np.ndarray, kinds: np.ndarray, min_people: int) -> _Tally:
        """Of entries [n], one a person and cell, with their records [n, KINDS_OF_HOUR]."""
        cells, entry, people = np.unique(cell, return_inverse=True, return_counts=True)
        records = np.stack([np.bincount(entry, of_kind, len(cells)) for of_kind in kinds.T], axis=1).astype(np.int64)
        most = np.zeros((len(cells), KINDS_OF_HOUR, min_people), np.int64)
        starts = np.cumsum(people) - people
        for number, of_kind in enumerate(kinds.T):
            order = np.argsort(entry * MOST_RECORDS - of_kind)  # the most of each cell first
            rank = np.arange(len(order)) - starts[entry[order]]
            first = rank < min_people
            most[entry[order][first], number, rank[first]] = of_kind[order][first]
        return cls(cells, people, records, most)

    def plus(self, other: _Tally) -> _Tally:
        """Of the people of both, of whom nobody is in both."""
        cells = np.union1d(self.cells, other.cells)
        people, records = np.zeros(len(cells), np.int64), np.zeros((len(cells), KINDS_OF_HOUR), np.int64)
        both = np.zeros((2, len(cells), *self.most.shape[1:]), np.int64)
        for number, one in enumerate((self, other)):
            at = np.searchsorted(cells, one.cells)
            people[at] += one.people
            records[at] += one.records
            both[number, at] = one.most
        most = -np.sort(-np.concatenate(list(both), axis=-1), axis=-1)[..., : self.most.shape[-1]]
        return _Tally(cells, people, records, most)

    def bounded(self) -> np.ndarray:
        """[N, KINDS_OF_HOUR] the records, with nobody counting for more than the last of the most."""
        return self.records - (self.most - self.most[..., -1:]).sum(-1)


def read_counts(path: str | Path, grid: Grid) -> CityCounts:
    """The counts of a file or URL, for a city of this grid.

    Raises:
        DataError: it is no file of counts, or of another grid, or says what its `min_people` forbid.
    """
    try:
        with fsspec.open(str(path), "rb") as file:
            table = pq.read_table(io.BytesIO(file.read()))
        told = json.loads((table.schema.metadata or {})[b"stmoe_hf"])
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    except (KeyError, ValueError, pa.ArrowException):
        told = {}
    if told.get("kind") != KIND or "city" not in told or tuple(table.column_names) != COLUMNS:
        raise DataError(f"{path} is no file of a city's counts, as `stmoe field` writes them")
    found = Grid(*(told[name] for name in vars(grid)))
    if found != grid:
        raise DataError(f"{path} counts {found}; the city has {grid}: count it again on this grid")
    x, y, people, *kinds = (table[name].to_numpy().astype(np.int64) for name in COLUMNS)
    cells, least = grid.cell(x, y), told["min_people"]
    if not len(cells) or (np.diff(cells) <= 0).any() or x.min() < 1 or cells[-1] >= grid.num_cells:
        raise DataError(f"{path}: its cells must lie on the grid, each once, in order")
    if people.min() < least:
        row = int(people.argmin())
        raise DataError(
            f"{path}: the cell ({x[row]}, {y[row]}) has {people[row]} people, fewer than its min_people {least}"
        )
    numbers = (int(told["until"]), int(least), int(told["num_people"]), float(told["cells_a_person"]))
    return CityCounts(grid, told["city"], *numbers, cells, people, np.stack(kinds, axis=1))


def counts_for(
    path: str | Path | None,
    grid: Grid,
    config: object,
    first_day: int | None = None,
    told: dict[str, Any] | None = None,
) -> CityCounts | None:
    """The counts of a file, if one is given, for a network of this configuration.

    Raises:
        DataError: the network has no use for them, they are of another city than `told` says (`told_of`), or they hold
            days from `first_day` on, which is to be predicted.
    """
    if path is None:
        return None
    if not getattr(config, "city_field", False):
        raise DataError("this network has no use for a city's counts: leave --field out, or take one with city_field")
    counts = read_counts(path, grid)
    for name, what in (WHEN | WHERE).items():
        ours, theirs = counts.told.get(name), (told or {}).get(name)
        if None not in (ours, theirs) and ours != theirs:
            raise DataError(f"{path} is of another city or other days: {what} {ours}, and of the records {theirs}")
    if first_day is not None and counts.until > first_day:
        raise DataError(f"{path} counts days before {counts.until}; to predict day {first_day}, count fewer (--until)")
    return counts
