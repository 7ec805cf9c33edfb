"""What a city's other people say of a person's new places: who was seen where, counted before a day.

A person's field is counted from the people who are most like them and never from their own records, so training and
prediction see the same kind of thing, and what it costs does not grow with the city.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np

from ..model.records import FIELD_COUNTS
from .city import City
from .counting import BLOCKS, block_of, counted, surroundings
from .poi import PointsOfInterest
from .splits import draw

MOST_PEOPLE = 256  # whose records make up one person's field
MOST_CELLS = 4096  # of a person's field
MOST_POI_CELLS = 1024  # of a person's field that nobody was seen in and that have points of interest
TOP_PLACES = 16  # of a person, by which the most relevant cells are chosen where there are more
NEAR_CELLS = 4.0  # distance from a place within which a cell counts about full when cells are chosen

EVERY_DAYS = 7  # fields of training windows are counted to the start of their week
ALONE_SHARE = 0.1  # of training windows that are told of nobody
COUNTS_SHARE = 0.2  # of training windows that are told how many people, and not whether these are like the person
LEAST_SHARE = 0.2  # of the people that others are told of
LIKENESS = slice(FIELD_COUNTS.index("by_people_of_same_cells"), None)  # what else is told of cells is mere numbers
NO_POI_SHARE = 0.2  # of training windows that are told of no points of interest
FIELD, POI = 4, 5  # tell these draws from others of the same epoch and window


def places_of(history: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct cells [P] of a history [T], ascending, and of each the logarithm [P] of its visits and one."""
    places, visits = np.unique(history, return_counts=True)
    return places, np.log1p(visits).astype(np.float32)


@dataclass(frozen=True)
class PersonField:
    """Cells [N], ascending, and what is counted of each, [N, F] in the order of `FIELD_COUNTS`.

    `poi` [N, P] are their points of interest, in the order of `POI_COUNTS`; None where none are given.
    """

    cells: np.ndarray
    counts: np.ndarray
    poi: np.ndarray | None = None

    @classmethod
    def of_nobody(cls) -> PersonField:
        return cls(np.zeros(0, np.int64), np.zeros((0, len(FIELD_COUNTS)), np.float32))

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
        self.poi, self.width = city.poi, city.grid.width
        self.person, self.cell, self.kinds = (np.concatenate(part) for part in zip(*counted(city, until), strict=True))
        self.starts = np.searchsorted(self.person, np.arange(len(city) + 1))
        self.weight = np.log1p(self.kinds.sum(1)).astype(np.float32)
        is_seen = np.bincount(self.cell, minlength=city.grid.num_cells) > 0
        self.cells, self.place = np.flatnonzero(is_seen), (np.cumsum(is_seen) - 1)[self.cell]
        self.norm = np.sqrt(np.bincount(self.person, self.weight**2, minlength=len(city))) + 1e-6
        # Who was seen in which block, of which to find the people who live in the same parts of the city.
        block = block_of(self.cell, BLOCKS[0], self.width)
        self.num_blocks = int(block_of(np.array(city.grid.num_cells - 1), BLOCKS[0], self.width)) + 1
        key = self.person * self.num_blocks + block
        key.sort(kind="stable")  # in order by person as it is: fifty times as fast as np.unique
        self._blocks = key[np.append(True, np.diff(key) > 0)] if len(key) else key
        self._people_of_block = np.bincount(self._blocks % self.num_blocks, minlength=self.num_blocks) + 1

    def __len__(self) -> int:
        return len(self.starts) - 1

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
        places, visits = places_of(history)
        alike = self._alike(places, visits)
        alike[row] = -1.0
        if keep is not None:
            alike = np.where(keep, alike, -1.0)
        others = np.flatnonzero(alike >= 0)
        if len(others) > MOST_PEOPLE:
            others = np.sort(others[np.argpartition(-alike[others], MOST_PEOPLE)[:MOST_PEOPLE]])
        found = PersonField.of_nobody()
        if len(places):
            found = self._counted(others, places, visits, alike)
        if self.poi is None or not with_poi:
            return found
        return with_points(found, self.poi, places, visits, self.width) if len(places) else found

    def _alike(self, places: np.ndarray, visits: np.ndarray) -> np.ndarray:
        """[people] how many blocks of the city they share with the person, rare ones more."""
        of_block = np.bincount(block_of(places, BLOCKS[0], self.width), visits, minlength=self.num_blocks)
        worth = (of_block / self._people_of_block)[self._blocks % self.num_blocks]
        return np.bincount(self._blocks // self.num_blocks, worth, minlength=len(self))

    def _counted(self, others: np.ndarray, places: np.ndarray, visits: np.ndarray, alike: np.ndarray) -> PersonField:
        # How often the person is in each of the cells of the city.
        at = np.searchsorted(self.cells, places)
        is_there = self.cells[np.minimum(at, len(self.cells) - 1)] == places if len(self.cells) else at < 0
        own = np.zeros(len(self.cells), np.float32)
        own[at[is_there]] = visits[is_there]
        of_others = self.starts, self.place, self.kinds, self.weight, self.norm
        seen, people, kinds, shared = _of_others(others, *of_others, own, alike)
        cells = self.cells[seen]
        counts = np.column_stack([people, kinds, *surroundings(cells, people, self.width), shared]).astype(np.float32)
        return person_field(cells, counts, places, visits, self.width)


@numba.njit(nogil=True, cache=True)
def _of_others(others, starts, place, kinds, weight, norm, own, alike):
    """What a city's records say of the cells that some people were seen in.

    Args:
        others: [O] the people.
        starts, place, kinds, weight: [people + 1] where each person's entries begin, and of the entries the number of
            their cell, their records by kind of hour, and their weight.
        norm: [people] of each person's weights.
        own: [cells] how often the person who is told is in each cell.
        alike: [people] how like that person they are.

    Returns:
        [N] numbers of the cells, ascending; [N] people; [N, KINDS_OF_HOUR] their records; [N, 2] how much each is
        visited by people who share cells and blocks of cells with the person.
    """
    people = np.zeros(len(own))
    for other in others:
        for entry in range(starts[other], starts[other + 1]):
            people[place[entry]] += 1
    seen = np.flatnonzero(people)
    people = people[seen]
    number = np.empty(len(own), np.int64)
    number[seen] = np.arange(len(seen))
    own = own[seen] / (people + 1)  # who shares a cell that few are in is alike
    likeness = np.zeros((len(others), 2))
    for i, other in enumerate(others):
        for entry in range(starts[other], starts[other + 1]):
            likeness[i, 0] += weight[entry] * own[number[place[entry]]]
        if starts[other] < starts[other + 1]:
            likeness[i, 1] = alike[other]
    records, shared = np.zeros((len(seen), kinds.shape[1])), np.zeros((len(seen), 2))
    total = likeness.sum(axis=0) + 1e-6
    for i, other in enumerate(others):
        of_cells, of_blocks = likeness[i] / norm[other] / total * 10
        for entry in range(starts[other], starts[other + 1]):
            at = number[place[entry]]
            for kind in range(kinds.shape[1]):
                records[at, kind] += kinds[entry, kind]
            shared[at, 0] += weight[entry] * of_cells
            shared[at, 1] += weight[entry] * of_blocks
    return seen, people, records, shared


def person_field(
    cells: np.ndarray, counts: np.ndarray, places: np.ndarray, visits: np.ndarray, width: int
) -> PersonField:
    """Of the cells [N] and their counts [N, F], those that the person does not know; the most relevant of too many.

    Relevant are cells with people around them near the most visited of the person's places, [P] with `visits` [P].
    """
    at = np.searchsorted(places, cells)
    chosen = places[np.minimum(at, len(places) - 1)] != cells
    cells, counts = cells[chosen], counts[chosen]
    if len(cells) > MOST_CELLS:
        worth = counts[:, FIELD_COUNTS.index("people_around")] * _near(cells, places, visits, width)
        most = np.sort(np.argpartition(-worth, MOST_CELLS)[:MOST_CELLS])
        cells, counts = cells[most], counts[most]
    return PersonField(cells, counts)


def with_points(
    found: PersonField, poi: PointsOfInterest, places: np.ndarray, visits: np.ndarray, width: int
) -> PersonField:
    """With the points of each cell, and cells of many points near the places that nobody was seen in."""
    points = poi.in_cell
    is_more = (points > 0) & ~np.isin(poi.cells, found.cells) & ~np.isin(poi.cells, places)
    more, points = poi.cells[is_more], points[is_more]
    if len(more) > MOST_POI_CELLS:
        worth = np.log1p(points) * _near(more, places, visits, width)
        more = more[np.argpartition(-worth, MOST_POI_CELLS)[:MOST_POI_CELLS]]
    cells = np.concatenate([found.cells, more])
    counts = np.concatenate([found.counts, np.zeros((len(more), len(FIELD_COUNTS)), np.float32)])
    order = np.argsort(cells)
    return PersonField(cells[order], counts[order], poi.of(cells[order]))


def _near(cells: np.ndarray, places: np.ndarray, visits: np.ndarray, width: int) -> np.ndarray:
    """[N] closeness of cells to the places of most visits."""
    top = np.argsort(-visits, kind="stable")[:TOP_PLACES]
    dx = cells[:, None] % width - places[top] % width
    dy = cells[:, None] // width - places[top] // width
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
