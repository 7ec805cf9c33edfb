"""What a city's other people say of a person's new places: who was seen where, counted before a day.

A person's field is counted from the people who are most like them and never from their own records, so training and
prediction see the same kind of thing, and what it costs does not grow with the city.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..model.records import FIELD_COUNTS
from ..model.spacetime import KINDS_OF_HOUR, kind_of_hour
from .city import City
from .poi import PointsOfInterest
from .splits import draw

MOST_PEOPLE = 256  # whose records make up one person's field
MOST_CELLS = 4096  # of a person's field
MOST_POI_CELLS = 1024  # of a person's field that nobody was seen in and that have points of interest
TOP_PLACES = 16  # of a person, by which the most relevant cells are chosen where there are more
PEOPLE_A_STEP = 512  # counted together
BLOCKS = (4, 16)  # sides of the blocks of cells, in cells
NEAR_CELLS = 4.0  # distance from a place within which a cell counts about full when cells are chosen

NEIGHBOURS = [(dx, dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if (dx, dy) != (0, 0)]
EVERY_DAYS = 7  # fields of training windows are counted to the start of their week
ALONE_SHARE = 0.1  # of training windows that are told of nobody
COUNTS_SHARE = 0.2  # of training windows that are told how many people, and not whether these are like the person
LEAST_SHARE = 0.2  # of the people that others are told of
LIKENESS = slice(FIELD_COUNTS.index("by_people_of_same_cells"), None)  # what else is told of cells is mere numbers
NO_POI_SHARE = 0.2  # of training windows that are told of no points of interest
FIELD, POI = 4, 5  # tell these draws from others of the same epoch and window


@dataclass(frozen=True)
class PersonField:
    """Cells [N], ascending, and what is counted of each, [N, F] in the order of `FIELD_COUNTS`.

    `poi` [N, P] are their points of interest, in the order of `POI_COUNTS`; None where none are given.
    """

    cells: np.ndarray
    counts: np.ndarray
    poi: np.ndarray | None = None

    def as_inputs(self) -> dict[str, np.ndarray]:
        """As a window holds it, under the names of the network's forward."""
        told = {"field_cells": self.cells, "field_counts": self.counts}
        return told if self.poi is None else told | {"field_poi": self.poi}


class CityField:
    """The records of a city's people before a day, by person and cell.

    Args:
        city: with the records.
        until: [people] or one for all: the first day that is not counted. What is predicted must not be among the
            counted: give the day of the cut.
    """

    def __init__(self, city: City, until: np.ndarray | int):
        self.poi = city.poi
        self.width, self.height, self.mask_id = city.grid.width, city.grid.height, city.grid.mask_id
        until = np.broadcast_to(until, len(city))
        parts = [
            self._count(city, np.arange(first, min(first + PEOPLE_A_STEP, len(city))), until)
            for first in range(0, len(city), PEOPLE_A_STEP)
        ]
        self.person, self.cell = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        self.kinds = np.concatenate([part[2] for part in parts])  # [entries, KINDS_OF_HOUR] records
        self.starts = np.searchsorted(self.person, np.arange(len(city) + 1))
        self.weight = np.log1p(self.kinds.sum(1)).astype(np.float32)
        self.norm = np.sqrt(np.bincount(self.person, self.weight**2, minlength=len(city))) + 1e-6
        # Who was seen in which block, of which to find the people who live in the same parts of the city.
        block = self._block(self.cell, BLOCKS[0])
        self.num_blocks = self._block(np.array([self.width * self.height - 1]), BLOCKS[0])[0] + 1
        self._blocks = np.unique(self.person * self.num_blocks + block)
        self._people_of_block = np.bincount(self._blocks % self.num_blocks, minlength=self.num_blocks) + 1

    def __len__(self) -> int:
        return len(self.starts) - 1

    def _count(self, city: City, rows: np.ndarray, until: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Person and cell [entries], and records of each by kind of hour, of some people."""
        people = [city.trajectory(int(row)) for row in rows]
        kept = [(one.day < until[row]) & (one.cell != self.mask_id) for row, one in zip(rows, people, strict=True)]
        person = np.repeat(rows, [int(some.sum()) for some in kept])
        day, slot, cell = (
            np.concatenate([getattr(one, name)[some] for one, some in zip(people, kept, strict=True)])
            for name in ("day", "slot", "cell")
        )
        kind = kind_of_hour(slot, city.calendar.is_day_off(day), city.calendar.num_slots)
        key, entry = np.unique(person * self.mask_id + cell, return_inverse=True)
        kinds = np.bincount(entry * KINDS_OF_HOUR + kind, minlength=len(key) * KINDS_OF_HOUR).reshape(
            -1, KINDS_OF_HOUR
        )
        return key // self.mask_id, key % self.mask_id, kinds.astype(np.uint16)

    def _block(self, cell: np.ndarray, side: int) -> np.ndarray:
        across = -(-self.width // side)
        return cell // self.width // side * across + cell % self.width // side

    def of_person(
        self, row: int, history: np.ndarray, keep: np.ndarray | None = None, with_poi: bool = True
    ) -> PersonField:
        """What the others, and the points of interest of the city if it has any, say to a person.

        Args:
            row: of the person in the city, whose own records are left out.
            history: [T] the cells that the person is known to have been in.
            keep: [people] which of the others count; by default all.
            with_poi: whether points of interest count.
        """
        places, visits = np.unique(history, return_counts=True)
        visits = np.log1p(visits).astype(np.float32)
        alike = self._alike(places, visits)
        alike[row] = -1.0
        if keep is not None:
            alike = np.where(keep, alike, -1.0)
        others = np.flatnonzero(alike >= 0)
        if len(others) > MOST_PEOPLE:
            others = np.sort(others[np.argpartition(-alike[others], MOST_PEOPLE)[:MOST_PEOPLE]])
        entries = np.concatenate([np.arange(0), *(np.arange(self.starts[i], self.starts[i + 1]) for i in others)])
        found = PersonField(np.zeros(0, np.int64), np.zeros((0, len(FIELD_COUNTS)), np.float32))
        if len(entries) and len(places):
            found = self._counted(entries.astype(np.int64), places, visits, alike)
        if self.poi is None or not with_poi:
            return found
        return self._with_poi(found, self.poi, places, visits) if len(places) else found

    def _alike(self, places: np.ndarray, visits: np.ndarray) -> np.ndarray:
        """[people] how many blocks of the city they share with the person, rare ones more."""
        of_block = np.bincount(self._block(places, BLOCKS[0]), visits, minlength=self.num_blocks)
        worth = (of_block / self._people_of_block)[self._blocks % self.num_blocks]
        return np.bincount(self._blocks // self.num_blocks, worth, minlength=len(self))

    def _counted(self, entries: np.ndarray, places: np.ndarray, visits: np.ndarray, alike: np.ndarray) -> PersonField:
        person, weight = self.person[entries], self.weight[entries]
        cells, entry = np.unique(self.cell[entries], return_inverse=True)
        people = np.bincount(entry, minlength=len(cells)).astype(np.float32)
        kinds = np.stack(
            [np.bincount(entry, self.kinds[entries, k], len(cells)) for k in range(KINDS_OF_HOUR)], axis=1
        )
        around = people + sum(
            people[at] * there for at, there in (self._beside(cells, dx, dy) for dx, dy in NEIGHBOURS)
        )
        in_blocks = []
        for side in BLOCKS:
            _, block = np.unique(self._block(cells, side), return_inverse=True)
            in_blocks.append(np.bincount(block, people)[block])
        # How often the person is in each cell, by the number of people there: who shares it is alike.
        at = np.minimum(np.searchsorted(places, cells), len(places) - 1)
        own = np.where(places[at] == cells, visits[at], 0.0) / (people + 1)
        of_same_cells = np.bincount(person, weight * own[entry], minlength=len(self))
        shared = []
        for likeness in (of_same_cells, np.maximum(alike, 0.0)):
            total = likeness[np.unique(person)].sum()
            shared.append(
                np.bincount(entry, weight * (likeness / self.norm)[person], len(cells)) / (total + 1e-6) * 10
            )
        counts = np.column_stack([people, kinds, around, *in_blocks, *shared]).astype(np.float32)
        chosen = ~np.isin(cells, places)
        cells, counts = cells[chosen], counts[chosen]
        if len(cells) > MOST_CELLS:
            worth = counts[:, FIELD_COUNTS.index("people_around")] * self._near(cells, places, visits)
            most = np.sort(np.argpartition(-worth, MOST_CELLS)[:MOST_CELLS])
            cells, counts = cells[most], counts[most]
        return PersonField(cells, counts)

    def _with_poi(
        self, found: PersonField, poi: PointsOfInterest, places: np.ndarray, visits: np.ndarray
    ) -> PersonField:
        """With the points of each cell, and cells of many points near the places that nobody was seen in."""
        points = poi.in_cell
        is_more = (points > 0) & ~np.isin(poi.cells, found.cells) & ~np.isin(poi.cells, places)
        more, points = poi.cells[is_more], points[is_more]
        if len(more) > MOST_POI_CELLS:
            worth = np.log1p(points) * self._near(more, places, visits)
            more = more[np.argpartition(-worth, MOST_POI_CELLS)[:MOST_POI_CELLS]]
        cells = np.concatenate([found.cells, more])
        counts = np.concatenate([found.counts, np.zeros((len(more), len(FIELD_COUNTS)), np.float32)])
        order = np.argsort(cells)
        return PersonField(cells[order], counts[order], poi.of(cells[order]))

    def _beside(self, cells: np.ndarray, dx: int, dy: int) -> tuple[np.ndarray, np.ndarray]:
        """For each cell where its neighbour stands among the cells, and whether it does."""
        x = cells % self.width + dx
        sought = cells + dy * self.width + dx
        at = np.minimum(np.searchsorted(cells, sought), len(cells) - 1)
        return at, (cells[at] == sought) & (x >= 0) & (x < self.width)

    def _near(self, cells: np.ndarray, places: np.ndarray, visits: np.ndarray) -> np.ndarray:
        """[N] closeness of cells to the places of most visits."""
        top = np.argsort(-visits, kind="stable")[:TOP_PLACES]
        dx = cells[:, None] % self.width - places[top] % self.width
        dy = cells[:, None] // self.width - places[top] // self.width
        return (1 / (1 + (dx * dx + dy * dy) / NEAR_CELLS**2)) @ visits[top]


class TrainingFields:
    """The fields of training windows: of each week of the city's days, from the records before it.

    A share of the windows is told of nobody else and the others of a random part of the people, and a share of no
    points of interest, so that a network learns cities of which little is known.
    """

    def __init__(self, city: City, until: np.ndarray):
        self.city, self.until = city, until
        self._of_week: dict[int, CityField] = {}

    def of_window(self, row: int, history: np.ndarray, cut: int, *keys: int) -> PersonField:
        """What a window is told that begins on day `cut`; `history` [T] cells, `keys` of the draws."""
        first = self.city.calendar.first_day
        week = first + (cut - first) // EVERY_DAYS * EVERY_DAYS
        if week not in self._of_week:
            self._of_week[week] = CityField(self.city, np.minimum(self.until, week))
        share = 0.0
        if draw(*keys, FIELD) >= ALONE_SHARE:
            share = LEAST_SHARE + (1 - LEAST_SHARE) * float(draw(*keys, FIELD, 1))
        keep = draw(*keys, FIELD, 2 + np.arange(len(self.city))) < share
        with_poi = self.city.poi is not None and float(draw(*keys, POI)) >= NO_POI_SHARE
        made = self._of_week[week].of_person(row, history, keep, with_poi)
        if draw(*keys, FIELD, 0) < COUNTS_SHARE:
            made.counts[:, LIKENESS] = 0.0
        return made
