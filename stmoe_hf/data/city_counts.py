"""What is known of a city as a file that may be published: who many were where, and nothing of any person.

`CityField` reads the records of a city's people, who must be at hand. `CityCounts` are the counts of its cells alone:
they can be given away, and an engine whose batches are no city can tell a network of the city by them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..model.records import FIELD_COUNTS
from ..model.spacetime import KINDS_OF_HOUR, Grid
from .city import City
from .counting import counted, surroundings
from .errors import DataError
from .field import LIKENESS, MOST_PEOPLE, PersonField, person_field
from .files import open_aside

KIND = "stmoe_hf city counts"
MIN_PEOPLE = 5  # behind each number of a file that is published
KINDS = FIELD_COUNTS[1 : 1 + KINDS_OF_HOUR]
COLUMNS = ("x", "y", "people", *KINDS)


@dataclass(frozen=True, eq=False)
class CityCounts:
    """Counts of a city's cells before a day, none of which fewer than `min_people` make up.

    Attributes:
        grid: of the city.
        until: the first day that was not counted.
        min_people: behind each number.
        num_people: who were counted; cells_a_person: how many cells each was seen in, on average.
        cells: [N], ascending.
        people: [N] who were seen there.
        kinds: [N, KINDS_OF_HOUR] their records by kind of hour; 0 where fewer than `min_people` have any.
    """

    grid: Grid
    until: int
    min_people: int
    num_people: int
    cells_a_person: float
    cells: np.ndarray
    people: np.ndarray
    kinds: np.ndarray

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
        places, visits = np.unique(history, return_counts=True)
        if not len(places) or not len(self.cells):
            return PersonField(np.zeros(0, np.int64), np.zeros((0, len(FIELD_COUNTS)), np.float32))
        counts: np.ndarray = self._counts  # type: ignore[attr-defined]
        found = person_field(self.cells, counts, places, np.log1p(visits).astype(np.float32), self.grid.width)
        total = float(found.counts[:, 0].sum())
        scale = min(1.0, MOST_PEOPLE * self.cells_a_person / total) if total else 1.0
        return PersonField(found.cells, (found.counts * scale).astype(np.float32))

    def save(self, path: str | Path) -> None:
        """Write a parquet file: x, y (from 1), people, and records by kind of hour."""
        x, y = self.grid.xy(self.cells)
        columns = [x, y, self.people, *self.kinds.T]
        table = pa.table({name: np.asarray(values, np.int32) for name, values in zip(COLUMNS, columns, strict=True)})
        told = {name: getattr(self, name) for name in ("until", "min_people", "num_people", "cells_a_person")}
        told |= {"kind": KIND, **vars(self.grid)}
        with open_aside(Path(path), "wb") as file:
            pq.write_table(table.replace_schema_metadata({"stmoe_hf": json.dumps(told)}), file)


def count_city(city: City, until: int, min_people: int = MIN_PEOPLE) -> CityCounts:
    """The counts of a city's records before day `until`.

    Raises:
        DataError: fewer than `min_people` people have a record before that day, or no cell has as many.
    """
    if min_people < 1:
        raise DataError(f"min_people is {min_people}; it must be at least 1")
    size = city.grid.num_cells
    people, records, behind = np.zeros(size, np.int64), *(np.zeros((size, KINDS_OF_HOUR), np.int64) for _ in range(2))
    num_people = entries = 0
    for part in counted(city, until):
        people += np.bincount(part.cell, minlength=size)
        for kind in range(KINDS_OF_HOUR):
            records[:, kind] += np.bincount(part.cell, part.kinds[:, kind], size).astype(np.int64)
            behind[:, kind] += np.bincount(part.cell[part.kinds[:, kind] > 0], minlength=size)
        num_people += len(np.unique(part.person))
        entries += len(part.cell)
    cells = np.flatnonzero(people >= min_people)
    if not len(cells):
        raise DataError(f"no cell of city {city.name} has {min_people} people before day {until}: nothing can be kept")
    kinds = np.where(behind[cells] >= min_people, records[cells], 0)
    return CityCounts(city.grid, until, min_people, num_people, entries / num_people, cells, people[cells], kinds)


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
    if told.get("kind") != KIND or tuple(table.column_names) != COLUMNS:
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
    return CityCounts(grid, *numbers, cells, people, np.stack(kinds, axis=1))


def counts_for(
    path: str | Path | None,
    grid: Grid,
    config: object,
    first_day: int | None = None,
    read: Callable[[str | Path, Grid], CityCounts] = read_counts,
) -> CityCounts | None:
    """The counts of a file, if one is given, for a network of this configuration.

    Raises:
        DataError: the network has no use for them, or they hold days from `first_day` on, which is to be predicted.
    """
    if path is None:
        return None
    if not getattr(config, "city_field", False):
        raise DataError("this network has no use for a city's counts: leave --field out, or take one with city_field")
    counts = read(path, grid)
    if first_day is not None and counts.until > first_day:
        raise DataError(f"{path} counts days before {counts.until}; to predict day {first_day}, count fewer (--until)")
    return counts
