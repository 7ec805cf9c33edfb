"""The day decoder: for each day, the trajectory of the highest expected score.

GEO-BLEU and DTW score a whole day's trajectory, so choosing each cell by itself leaves much on the table. Here days
are drawn from the network's distribution over the records of a person's history, and the trajectory is sought whose
mean score against those draws is best: decoding by minimum Bayes risk (Kumar and Byrne, "Minimum Bayes-risk decoding
for statistical machine translation", 2004).

What the network gives is a distribution for each slot, not for a day. What ties the slots of a drawn day together is a
theme: a day of the person's past, drawn by how much weight its records have in the asked-for slots, whose records then
count `THEME_GAIN` times more. (People repeat whole days: they go to work, or they do not.)

The score is GEO-BLEU of the edition of 2024, less `OPEN_DTW_COST` and `STRICT_DTW_COST` for every kilometre of DTW
with an open and with a strict start: a compromise between the editions of 2024 and 2025. Inside the search GEO-BLEU is
approximate: see `day_scores`.

A forecast asks for every slot of a day, and the person will be observed in some of them: what scores best over all
slots does not score best over those. So the plan of a whole day is improved on the slots in which the person was
observed on `USUAL_DAYS` days of the past of the same kind, one after the other, the latest last.

The constants were chosen on days 45-59 of cities B and D.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache

import numba
import numpy as np
from torch import Tensor

from ..model.decoding import expected_values
from ..model.records import CELL, DAY, DAY_OFF, SLOT
from ..model.spacetime import Grid
from .day_scores import FARTHEST, LENGTHS_A_CELL, STEPS_A_CELL
from .day_search import decode_day

DRAWS = 96  # a multiple of RACE
THEME_GAIN = 300.0
THEME_POWER = 2.0
OPEN_DTW_COST, STRICT_DTW_COST = 0.010, 0.005  # per kilometre
POINTWISE_DISTANCE_WEIGHT = 0.016  # of the decoder by slots that the search starts from
STARTS = 24  # draws that the search may begin with, the worthiest by the slots alone
BEST_CELLS = 3  # of each slot, tried in the first sweep
USUAL_DAYS = 8
USUAL_RECORDS = 3  # a day of the past with fewer says nothing of when a person is observed
_MOST_RECORDS_A_DAY = 256
_NO_CELL = -100


def decode_days(
    probabilities: Tensor,
    candidates: Tensor,
    history: Tensor,
    inputs: Tensor,
    exists: Tensor,
    grid: Grid,
    whole_days: bool = False,
) -> Tensor:
    """Cells of the asked-for records, day by day.

    The draws depend on the person's records and the day alone, so the cells do not depend on how users are batched.

    Args:
        probabilities, candidates: [B, Q, K] and [B, K], as in `decoding.decode`.
        history: [B, Q, T] log-weights of the records of the history, -inf elsewhere.
        inputs: [B, T, 6] of the network, in order of time; the first column is the day, the last the cell.
        exists: [B, Q], which asked-for records there are.
        grid: where the cells lie.
        whole_days: all slots of a day are asked for, and in some of them the person will be observed, not known which.

    Returns:
        Cells [B, Q]; where a row has no history, those of the `balanced` decoder.
    """
    values = expected_values(probabilities, candidates, grid, "balanced", POINTWISE_DISTANCE_WEIGHT)
    chosen = candidates.gather(1, values.argmax(-1))
    people = [person for person in _people(history, inputs, exists, grid) if len(person.record_day)]

    def decode(person: _Person) -> np.ndarray:
        worth = values[person.row, : len(person.asked_day)].float().cpu().numpy()
        return _decode_person(person, worth, candidates[person.row].cpu().numpy(), grid, whole_days)

    for person, cells in zip(people, _pool().map(decode, people), strict=True):
        chosen[person.row, : len(cells)] = chosen.new_tensor(cells)
    return chosen


def draw_days(
    probabilities: Tensor,
    candidates: Tensor,
    history: Tensor,
    inputs: Tensor,
    exists: Tensor,
    grid: Grid,
    samples: int = DRAWS,
) -> Tensor:
    """Joint samples of the asked-for records: `samples` (S) trajectories of each day.

    The records of one day in one sample belong together; sample s of one day and sample s of another are drawn
    independently. `DRAWS` samples are those that `decode_days` decides by. The samples of a day are stratified by its
    themes, so all of them together stand for the distribution, and a few of them do not.

    Args:
        probabilities, candidates, history, inputs, exists, grid: as in `decode_days`.
        samples: how many.

    Returns:
        Cells [B, S, Q], -100 where there is no asked-for record; where a row has no history, each record is drawn by
        itself, from the probabilities of the candidates.
    """
    drawn = candidates.new_full((len(inputs), samples, exists.shape[1]), _NO_CELL)
    for person in _people(history, inputs, exists, grid):
        if not len(person.record_day):
            known = (candidates[person.row] >= 0).cpu().numpy()
            cells = candidates[person.row].cpu().numpy()[known]
            weights = probabilities[person.row, : len(person.asked_day)].float().cpu().numpy()[:, known]
            nothing = np.zeros(len(cells), np.int64)
            person = replace(person, weights=weights, record_day=nothing, record_cell=cells)
        for _, slots in person.days():
            cells = person.record_cell[person.draw(slots, samples)]
            drawn[person.row][:, slots] = drawn.new_tensor(cells)
    return drawn


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="decode_days")


@dataclass(frozen=True)
class _Person:
    """What the draws of a person depend on.

    weights [Q, R] of the records of the history, in order of time, their record_day, _slot, _off (whether the day is
    off) and _cell [R]; and asked_day, _slot and _off [Q].
    """

    row: int
    weights: np.ndarray
    record_day: np.ndarray
    record_slot: np.ndarray
    record_off: np.ndarray
    record_cell: np.ndarray
    asked_day: np.ndarray
    asked_slot: np.ndarray
    asked_off: np.ndarray

    def days(self) -> Iterator[tuple[int, np.ndarray]]:
        """The asked-for days, and which records are of each."""
        for day in np.unique(self.asked_day):
            yield int(day), np.flatnonzero(self.asked_day == day)

    def usual_slots(self, slots: np.ndarray) -> Iterator[np.ndarray]:
        """Which asked-for records of a day are in the slots of each of the last days of its kind, the latest last."""
        alike = self.record_off == self.asked_off[slots[0]]
        days, count = np.unique(self.record_day[alike], return_counts=True)
        for day in days[count >= USUAL_RECORDS][-USUAL_DAYS:]:
            of_day = self.record_slot[alike & (self.record_day == day)]
            usual = np.flatnonzero(np.isin(self.asked_slot[slots], of_day))
            if len(usual):
                yield usual

    def draw(self, slots: np.ndarray, samples: int) -> np.ndarray:
        """Records [samples, n] of the history that stand for n asked-for records of one day."""
        seed = (int(self.asked_day[slots[0]]) * 7919 + len(self.record_day)) % 2**32
        return _draw(np.ascontiguousarray(self.weights[slots]), self.record_day, samples, _stride(samples), seed)


def _people(history: Tensor, inputs: Tensor, exists: Tensor, grid: Grid) -> Iterator[_Person]:
    """The rows of a batch that are asked for something; who has no history has no records."""
    asked = inputs[..., -1] == grid.mask_id
    for row in range(len(inputs)):
        count = int(exists[row].sum())
        weights = history[row, :count].exp().cpu().numpy()
        records = np.flatnonzero(weights.sum(0) > 0)
        columns = inputs[row].cpu().numpy().T
        places = np.flatnonzero(asked[row].cpu().numpy())[:count]
        if count:
            of_records = (columns[column, records] for column in (DAY, SLOT, DAY_OFF, CELL))
            of_asked = (columns[column, places] for column in (DAY, SLOT, DAY_OFF))
            yield _Person(row, weights[:, records], *of_records, *of_asked)


def _decode_person(
    person: _Person, values: np.ndarray, candidates: np.ndarray, grid: Grid, whole_days: bool
) -> np.ndarray:
    """Cells [Q] of one person; values [Q, K] of the candidates [K]."""
    known = candidates >= 0
    candidates, values = candidates[known], values[:, known]
    order = np.argsort(candidates)
    record_index = order[np.searchsorted(candidates, person.record_cell, sorter=order)].astype(np.uint64)
    x, y = grid.xy(candidates)
    distance = np.hypot(x[:, None] - x[None, :], y[:, None] - y[None, :])
    steps = np.minimum(np.rint(distance * STEPS_A_CELL), FARTHEST).astype(np.uint8)
    lengths = np.rint(distance * LENGTHS_A_CELL).astype(np.int32)
    costs = np.array([OPEN_DTW_COST, STRICT_DTW_COST]) * (grid.cell_km / LENGTHS_A_CELL)
    top = np.argsort(-values, axis=1, kind="stable")[:, :BEST_CELLS].astype(np.uint64)
    cells = np.empty(len(person.asked_day), np.int64)
    for _, slots in person.days():
        draws, best_cells = record_index[person.draw(slots, DRAWS)], top[slots]
        best = np.empty(len(slots), np.uint64)
        for part in np.array_split(np.arange(len(slots)), -(-len(slots) // _MOST_RECORDS_A_DAY)):
            drawn = draws[:, part].copy()
            worth = values[slots[part], drawn].sum(1)
            # In the order of the draws: with the worthiest first, fewer are given a fair chance, and DTW is worse.
            starts = drawn[np.sort(np.argsort(-worth, kind="stable")[:STARTS])]
            best[part] = decode_day(drawn, starts, best_cells[part], steps, lengths, costs)
        for usual in person.usual_slots(slots) if whole_days else ():
            drawn = record_index[person.draw(slots[usual], DRAWS)]
            best[usual] = decode_day(drawn, best[usual][None], best_cells[usual], steps, lengths, costs)
        cells[slots] = candidates[best]
    return cells


def _stride(samples: int) -> int:
    """About a fifth of the samples, without a divisor in common with them."""
    return next(stride for stride in range(max(samples // 5, 1), samples + 2) if math.gcd(stride, samples) == 1)


@numba.njit(nogil=True, cache=True)
def _draw(weights, record_day, samples, stride, seed):
    """Drawn days [samples, n], as indices of records: `_Person.draw`."""
    np.random.seed(seed)
    n, records = weights.shape
    days = record_day[-1] - record_day[0] + 1
    until = np.zeros(days, np.int64)  # of the records of each day, the end
    sums, prior = np.zeros((n, records + 1)), np.zeros(days)
    for record in range(records):
        until[record_day[record] - record_day[0]] = record + 1
    for i in range(n):
        for record in range(records):
            sums[i, record + 1] = sums[i, record] + weights[i, record]
            prior[record_day[record] - record_day[0]] += weights[i, record]
    total = 0.0
    for theme in range(days):
        until[theme] = max(until[theme], until[theme - 1] if theme else 0)
        total += prior[theme] ** THEME_POWER
        prior[theme] = total
    draws = np.empty((samples, n), np.int64)
    for draw in range(samples):
        # Stratified: the draws cover the themes as evenly as their number allows.
        stratum = draw * stride % samples  # neighbours in the order of the draws are far apart in time
        theme = _first_from(prior, (stratum + np.random.random()) / samples * total)
        begin, end = until[theme - 1] if theme else 0, until[theme]
        for i in range(n):
            draws[draw, i] = _draw_record(sums[i], begin, end)
    return draws


@numba.njit(nogil=True, cache=True)
def _draw_record(sums, begin, end):
    """A record by its weight, of which `sums` [R + 1] are cumulative; those from begin to end weigh more."""
    more = THEME_GAIN * (sums[end] - sums[begin])
    point = np.random.random() * (sums[-1] + more)
    if point > sums[end] + more:
        point -= more
    elif point > sums[begin]:
        point = sums[begin] + (point - sums[begin]) / (1.0 + THEME_GAIN)
    return _first_from(sums[1:], point)


@numba.njit(nogil=True, cache=True)
def _first_from(sums, point):
    """The first place of increasing sums that is not below a point, or the last place."""
    low, high = 0, len(sums) - 1
    while low < high:
        middle = (low + high) >> 1
        if sums[middle] < point:
            low = middle + 1
        else:
            high = middle
    return low
