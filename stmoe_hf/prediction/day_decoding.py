"""The day decoder: for each day, the trajectory of the highest expected score.

GEO-BLEU and DTW score a whole day's trajectory, so choosing each cell by itself leaves much on the table. Here days
are drawn from the network's distribution over the records of a person's history, and the trajectory is sought whose
mean score against those draws is best: decoding by minimum Bayes risk (Kumar and Byrne, "Minimum Bayes-risk decoding
for statistical machine translation", 2004).

What the network gives is a distribution for each slot, not for a day. What ties the slots of a drawn day together is a
theme: a day of the person's past, drawn by how much weight its records have in the asked-for slots, whose records then
count `THEME_GAIN` times more. (People repeat whole days: they go to work, or they do not.)

The score is the mean of GEO-BLEU with orders to 3 and to 5, less `OPEN_DTW_COST` and `STRICT_DTW_COST` for every
kilometre of DTW with an open and with a strict start: a compromise between the editions of 2024 and 2025. Inside the
search GEO-BLEU is approximate: distances in eighths of a cell, and pairs of n-grams more than ten cells apart in sum
count as unmatched.

The constants were chosen on days 45-59 of cities B and D.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numba
import numpy as np
from torch import Tensor

from ..model.decoding import PROXIMITY_BETA, expected_values
from ..model.spacetime import Grid

DRAWS = 96
STRIDE = 19  # has no divisor in common with DRAWS
THEME_GAIN = 300.0
THEME_POWER = 2.0
OPEN_DTW_COST, STRICT_DTW_COST = 0.008, 0.004  # per kilometre
POINTWISE_DISTANCE_WEIGHT = 0.016  # of the decoder by slots that the search starts from
SWEEPS = 2
BEST_CELLS = 4  # of each slot, tried in a sweep
RACE = 8  # draws after which a change may be given up
RACE_ODDS = 0.5  # squared, in units of the sum of squares

_STEPS_A_CELL = 8
_FARTHEST = 10 * _STEPS_A_CELL
_UNMATCHED = 0.002
_MOST_RECORDS_A_DAY = 256


def decode_days(
    probabilities: Tensor, candidates: Tensor, history: Tensor, inputs: Tensor, exists: Tensor, grid: Grid
) -> Tensor:
    """Cells of the asked-for records, day by day.

    The draws depend on the person's records and the day alone, so the cells do not depend on how users are batched.

    Args:
        probabilities, candidates: [B, Q, K] and [B, K], as in `decoding.decode`.
        history: [B, Q, T] log-weights of the records of the history, -inf elsewhere.
        inputs: [B, T, 6] of the network; the first column is the day, the last the cell.
        exists: [B, Q], which asked-for records there are.
        grid: where the cells lie.

    Returns:
        Cells [B, Q]; where a row has no history, those of the `balanced` decoder.
    """
    values = expected_values(probabilities, candidates, grid, "balanced", POINTWISE_DISTANCE_WEIGHT)
    chosen = candidates.gather(1, values.argmax(-1))
    jobs: list[tuple[int, tuple[Any, ...]]] = []
    for row, (weights, day, cell, asked_day) in enumerate(_people(history, inputs, exists, grid)):
        if len(day):
            worth = values[row, : len(asked_day)].float().cpu().numpy()
            jobs.append((row, (weights, day, cell, asked_day, worth, candidates[row].cpu().numpy(), grid)))
    for (row, _), cells in zip(jobs, _pool().map(lambda job: _decode_user(*job[1]), jobs), strict=True):
        chosen[row, : len(cells)] = chosen.new_tensor(cells)
    return chosen


def draw_days(history: Tensor, inputs: Tensor, exists: Tensor, grid: Grid, samples: int) -> np.ndarray:
    """Days drawn from the network's distribution over the records of the history, tied together by a theme.

    Args:
        history, inputs, exists, grid: as of `decode_days`.
        samples: how many of each day.

    Returns:
        [B, S, Q] cells; the centre of the grid where a row has no history, `mask_id` where it asks for fewer records.
    """
    drawn = np.full((len(inputs), samples, exists.shape[1]), grid.mask_id)
    for row, (weights, record_day, record_cell, asked_day) in enumerate(_people(history, inputs, exists, grid)):
        drawn[row, :, : len(asked_day)] = grid.centre
        for day in np.unique(asked_day) if len(record_day) else ():
            slots = np.flatnonzero(asked_day == day)
            seed = _seed(day, record_day)
            drawn[row][:, slots] = _seeded_draw(
                weights[slots], record_day, record_cell, samples, _stride(samples), seed
            )
    return drawn


def _people(history: Tensor, inputs: Tensor, exists: Tensor, grid: Grid) -> Iterator[tuple[np.ndarray, ...]]:
    """Of each row: weights [Q, T] of the records of its history, their days and cells [T], and the asked days [Q]."""
    asked = inputs[..., -1] == grid.mask_id
    for row in range(len(inputs)):
        count = int(exists[row].sum())
        weights = history[row, :count].exp().cpu().numpy().astype(np.float64)
        records = np.flatnonzero(weights.sum(0) > 0)
        day, cell = (inputs[row, :, column].cpu().numpy() for column in (0, -1))
        yield weights[:, records], day[records], cell[records], day[asked[row].cpu().numpy()][:count]


def _seed(day: Any, record_day: np.ndarray) -> int:
    """Of the draws of a day: it depends on the person's records and the day alone."""
    return (int(day) * 7919 + len(record_day)) % 2**32


def _stride(samples: int) -> int:
    """A step about a fifth of the way that has no divisor in common with the number of draws."""
    return next(step for step in range(max(1, samples // 5), 2 * samples + 2) if math.gcd(step, samples) == 1)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="decode_days")


def _decode_user(weights, record_day, record_cell, asked_day, values, candidates, grid: Grid) -> np.ndarray:
    """Cells [Q] of one user."""
    known = candidates >= 0
    candidates, values = candidates[known], values[:, known]
    order = np.argsort(candidates)
    record_index = order[np.searchsorted(candidates, record_cell, sorter=order)]
    x, y = grid.xy(candidates)
    distance = np.hypot(x[:, None] - x[None, :], y[:, None] - y[None, :])
    steps = np.minimum(np.rint(distance * _STEPS_A_CELL), _FARTHEST).astype(np.int64)
    top = np.argsort(-values, axis=1, kind="stable")[:, :BEST_CELLS]
    cells = np.empty(len(asked_day), np.int64)
    for day in np.unique(asked_day):
        slots = np.flatnonzero(asked_day == day)
        for part in np.array_split(slots, -(-len(slots) // _MOST_RECORDS_A_DAY)):
            best = _decode_day(
                weights[part],
                record_day,
                record_index,
                top[part],
                steps,
                distance * grid.cell_km,
                _seed(day, record_day),
            )
            cells[part] = candidates[best]
    return cells


# A pair of n-grams as one number: row * 256 + column, so a day has at most 256 records.
_SHIFT = 8
_MASK = (1 << _SHIFT) - 1
_PROXIMITY = np.exp(-PROXIMITY_BETA * np.arange(_FARTHEST) / _STEPS_A_CELL)


@numba.njit(nogil=True, fastmath=True, cache=True)
def _decode_day(weights, record_day, record_index, top, steps, km, seed):
    """Indices [n] of the candidates of the best trajectory of one day."""
    np.random.seed(seed)
    draws = _draw(weights, record_day, record_index, DRAWS, STRIDE)
    n = len(top)
    scratch = _scratch(n)
    best = top[:, 0].copy()
    scores, trial = np.empty(len(draws)), np.full(len(draws), -np.inf)
    _is_better(best, draws, steps, km, scratch, trial, scores)  # fills `scores`: anything is better than -inf
    for draw in range(len(draws)):
        if _is_better(draws[draw], draws, steps, km, scratch, scores, trial):
            scores, trial = trial, scores
            best[:] = draws[draw]
    for _ in range(SWEEPS):
        improved = False
        for i in range(n):
            for k in range(top.shape[1] + 2):
                if k < top.shape[1]:
                    cell = top[i, k]
                elif k == top.shape[1]:
                    cell = best[max(i - 1, 0)]
                else:
                    cell = best[min(i + 1, n - 1)]
                before = best[i]
                if cell == before:
                    continue
                best[i] = cell
                if _is_better(best, draws, steps, km, scratch, scores, trial):
                    scores, trial = trial, scores
                    improved = True
                else:
                    best[i] = before
        if not improved:
            break
    return best


@numba.njit(nogil=True, cache=True)
def _scratch(n):
    """Memory that the scores of days of n records work in."""
    return (
        np.empty((n, n), np.int64),
        np.empty(n * n, np.int64),
        np.empty(n * n, np.int64),
        np.empty(_FARTHEST + 1, np.int64),
        np.empty((2, n), np.bool_),
        np.empty((2, n + 1)),
    )


@numba.njit(nogil=True, cache=True)
def _seeded_draw(weights, record_day, record_index, count, stride, seed):
    np.random.seed(seed)
    return _draw(weights, record_day, record_index, count, stride)


@numba.njit(nogil=True, cache=True)
def _draw(weights, record_day, record_index, count, stride):
    """Drawn days [count, n], as the `record_index` of the drawn records."""
    n, records = weights.shape
    first = record_day.min()
    prior = np.zeros(record_day.max() - first + 1)
    for i in range(n):
        for record in range(records):
            prior[record_day[record] - first] += weights[i, record]
    prior = np.cumsum(prior**THEME_POWER)
    draws = np.empty((count, n), np.int64)
    total = np.empty(records)
    for draw in range(count):
        # Stratified: the draws cover the themes as evenly as their number allows.
        stratum = draw * stride % count  # neighbours in the order of the draws are far apart in time
        theme = np.searchsorted(prior, (stratum + np.random.random()) / count * prior[-1])
        theme = min(theme, len(prior) - 1) + first
        for i in range(n):
            mass = 0.0
            for record in range(records):
                mass += weights[i, record] * (1.0 + THEME_GAIN if record_day[record] == theme else 1.0)
                total[record] = mass
            drawn = np.searchsorted(total, np.random.random() * mass)
            draws[draw, i] = record_index[min(drawn, records - 1)]
    return draws


@numba.njit(nogil=True, cache=True)
def _is_better(trajectory, draws, steps, km, scratch, scores, trial):
    """Whether a trajectory's mean score is above that of `scores`; its own scores are written to `trial`.

    A race: it ends as soon as the trajectory lies behind by more than chance would explain.
    """
    ahead, spread = 0.0, 0.0
    for draw in range(len(draws)):
        score = _geobleu(trajectory, draws[draw], steps, scratch) - _dtw_cost(trajectory, draws[draw], km, scratch[5])
        trial[draw] = score
        ahead += score - scores[draw]
        spread += (score - scores[draw]) ** 2
        if draw % RACE == RACE - 1 and ahead < 0.0 and ahead * ahead > RACE_ODDS * spread:
            return False
    return ahead > 1e-12


@numba.njit(nogil=True, fastmath=True, cache=True)
def _geobleu(a, b, steps, scratch):
    """Mean of GEO-BLEU with orders to 3 and to 5; the approximation is in the module's text."""
    key, pair, pair_key, start, used, _ = scratch
    n = len(a)
    highest = min(5, n)
    log_sum, to_three = 0.0, 0.0
    key[:] = 0
    for size in range(1, highest + 1):
        grams = n - size + 1
        # Sort the pairs by distance with a counting sort; ties keep their order, as in the exact metric.
        start[:] = 0
        for i in range(grams):
            for j in range(grams):
                k = key[i, j] + steps[a[i + size - 1], b[j + size - 1]]
                key[i, j] = k
                if k < _FARTHEST:
                    start[k + 1] += 1
        for k in range(_FARTHEST):
            start[k + 1] += start[k]
        pairs = start[_FARTHEST]
        for i in range(grams):
            for j in range(grams):
                k = key[i, j]
                if k < _FARTHEST:
                    pair[start[k]] = (i << _SHIFT) | j
                    pair_key[start[k]] = k
                    start[k] += 1
        used[:] = False
        matched, total = 0, 0.0
        for p in range(pairs):
            i, j = pair[p] >> _SHIFT, pair[p] & _MASK
            if not used[0, i] and not used[1, j]:
                used[0, i] = used[1, j] = True
                total += _PROXIMITY[pair_key[p]]
                matched += 1
                if matched == grams:
                    break
        log_sum += math.log((total + (grams - matched) * _UNMATCHED) / grams)
        if size == min(3, highest):
            to_three = math.exp(log_sum / size)
    return 0.5 * (to_three + math.exp(log_sum / highest))


@numba.njit(nogil=True, fastmath=True, cache=True)
def _dtw_cost(a, b, km, cost):
    """What DTW costs, with an open and with a strict start."""
    n = len(a)
    cost[0] = 0.0
    cost[1] = 1e18
    cost[1, 0] = 0.0
    for i in range(n):
        diagonal_open, diagonal = cost[0, 0], cost[1, 0]
        cost[0, 0] = cost[1, 0] = 1e18
        for j in range(n):
            step = km[a[i], b[j]]
            above_open, above = cost[0, j + 1], cost[1, j + 1]
            cost[0, j + 1] = step + min(above_open, min(cost[0, j], diagonal_open))
            cost[1, j + 1] = step + min(above, min(cost[1, j], diagonal))
            diagonal_open, diagonal = above_open, above
    return OPEN_DTW_COST * cost[0, n] + STRICT_DTW_COST * cost[1, n]
