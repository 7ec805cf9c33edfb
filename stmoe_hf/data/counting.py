"""Counting a city's records before a day, by person, cell and kind of hour, some people at a time.

`CityField` and `CityCounts` are made of it. 28 million records of 25,000 people take a core 0.7 seconds, so nothing of
it is cached.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numba
import numpy as np

from ..model.spacetime import KINDS_OF_HOUR, kind_of_hour
from .city import City

PEOPLE_A_STEP = 512  # counted together
BLOCKS = (4, 16)  # sides of the blocks of cells, in cells


class Counted(NamedTuple):
    """An entry for each person and cell, in the order of both: `person`, `cell` [entries] and `kinds`, the person's
    records there by kind of hour, [entries, KINDS_OF_HOUR]."""

    person: np.ndarray
    cell: np.ndarray
    kinds: np.ndarray


def counted(city: City, until: np.ndarray | int) -> Iterator[Counted]:
    """The known records of people before a day, some people at a time.

    Args:
        city: with the records.
        until: [people] or one for all: the first day that is not counted.
    """
    until = np.broadcast_to(until, len(city)).astype(np.int64)
    calendar = city.calendar
    day_off = calendar.is_day_off(calendar.first_day + np.arange(calendar.num_days))
    kind = kind_of_hour(np.arange(calendar.num_slots), day_off[:, None], calendar.num_slots).astype(np.uint8)
    for first in range(0, len(city), PEOPLE_A_STEP):
        rows = np.arange(first, min(first + PEOPLE_A_STEP, len(city)))
        lengths, *records = city.records_of(rows)
        day, slot, cell = (values.astype(np.int32) for values in records)  # one type, compiled once
        ends = np.append(0, np.cumsum(lengths))
        found = _entries(ends, day, slot, cell, until[rows], calendar.first_day, kind, city.grid.num_cells)
        yield Counted(found[0] + first, *found[1:])


@numba.njit(nogil=True, cache=True)
def _entries(ends, day, slot, cell, until, first_day, kind, num_cells):
    """Person (from 0), cell and records by kind of hour of each entry; `kind` [days, slots]."""
    entry_of = np.full(num_cells, -1, np.int32)  # of the person at hand, by cell
    person = np.empty(len(day), np.int64)
    cells = np.empty(len(day), np.int64)
    kinds = np.zeros((len(day), KINDS_OF_HOUR), np.uint16)
    count = 0
    for row in range(len(until)):
        first = count
        for record in range(ends[row], ends[row + 1]):
            where = cell[record]
            if day[record] >= until[row] or where >= num_cells:  # what is masked lies in no cell
                continue
            entry = entry_of[where]
            if entry < 0:
                entry = entry_of[where] = count
                person[count], cells[count] = row, where
                count += 1
            kinds[entry, kind[day[record] - first_day, slot[record]]] += 1
        order = np.argsort(cells[first:count])
        cells[first:count] = cells[first:count][order]
        kinds[first:count] = kinds[first:count][order]
        entry_of[cells[first:count]] = -1
    return person[:count].copy(), cells[:count].copy(), kinds[:count].copy()


def block_of(cell: np.ndarray, side: int, width: int) -> np.ndarray:
    """The number of the block of `side` x `side` cells that cells lie in, on a grid of this width."""
    return cell // width // side * -(-width // side) + cell % width // side


def surroundings(cells: np.ndarray, people: np.ndarray, width: int) -> list[np.ndarray]:
    """[N] people in and around each of the cells [N], ascending, and in its block of each of `BLOCKS`."""
    in_blocks = []
    for side in BLOCKS:
        block = block_of(cells, side, width)
        in_blocks.append(np.bincount(block, people)[block])
    return [_around(cells, people.astype(np.float64), width), *in_blocks]


@numba.njit(nogil=True, cache=True)
def _around(cells, people, width):
    """[N] people in the nine cells in and around each: three places in the list go along with it, one a line."""
    total = np.zeros(len(cells))
    for line in (-1, 0, 1):
        first = 0
        for i in range(len(cells)):
            x = cells[i] % width
            left = cells[i] + line * width - (1 if x > 0 else 0)
            right = cells[i] + line * width + (1 if x < width - 1 else 0)
            while first < len(cells) and cells[first] < left:
                first += 1
            at = first
            while at < len(cells) and cells[at] <= right:
                total[i] += people[at]
                at += 1
    return total
