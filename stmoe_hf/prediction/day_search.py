"""The search of the day decoder: from the best of some trajectories, record by record, to a better one.

The search scores a trajectory against `RACE` draws at a time and gives up when it lies behind. A change of one record
changes few n-grams and one row of DTW, and only these are scored anew, exactly. All sums are of whole numbers: what
comes out does not depend on the order in which they were added up.
"""

from __future__ import annotations

import numba
import numpy as np

from .day_scores import (
    ORDERS,
    RACE,
    copy,
    dtw,
    dtw_after,
    dtw_begin,
    dtw_row,
    dtw_through,
    geobleu,
    keep,
    match_again,
    match_all,
    new_distances,
    set_changed,
    set_distances,
    unknown_standing,
)

SWEEPS = 2
REACH = ORDERS - 1  # records before and after share n-grams with one; their cells are tried for it
TRIES_AGAIN = 2  # of the best cells, in the sweeps after the first
RACE_ODDS = 0.5  # squared, in units of the sum of squares


def decode_day(draws, starts, top, steps, lengths, costs):
    """Indices [n] of the candidates of the best trajectory of one day.

    Args:
        draws: [S, n] indices of candidates.
        starts: [., n] those of the draws that the search may begin with.
        top: [n, .] candidates to be tried; the first are the trajectory to begin with.
        steps, lengths: [K, K] distances of the candidates, as GEO-BLEU and as DTW see them.
        costs: [2], of a unit of length of DTW with an open and with a strict start.
    """
    best = top[:, 0].copy()
    standing = _start(best, draws, starts, steps, lengths, costs)
    _sweep(best, draws, top, steps, lengths, costs, *standing)
    return best


@numba.njit(nogil=True, cache=True)
def _start(best, draws, starts, steps, lengths, costs):
    """Replace `best` by the best of itself and the draws; returns how it stands."""
    samples, n = draws.shape
    standing, trial = unknown_standing(samples, n), unknown_standing(samples, n)
    distances = new_distances(RACE, n)
    for start in range(-1, len(starts)):
        trajectory = best if start < 0 else starts[start]
        if _is_better(trajectory, draws, steps, lengths, costs, distances, standing[2], trial):
            standing, trial = trial, standing
            for i in range(n):
                best[i] = trajectory[i]
    return standing


@numba.njit(nogil=True, cache=True)
def _is_better(trajectory, draws, steps, lengths, costs, distances, scores, trial):
    """Whether a trajectory's mean score is above that of `scores`; how it stands is written to `trial`.

    A race: it ends as soon as the trajectory lies behind by more than chance would explain.
    """
    pairs, totals, new_scores = trial
    ahead, spread = 0.0, 0.0
    for first in range(0, len(draws), RACE):
        group = slice(first, first + RACE)
        set_distances(trajectory, draws[group], steps, distances)
        match_all(distances, pairs[group], totals[group])
        for draw in range(first, first + RACE):
            opened, strict = dtw(trajectory, draws[draw], lengths)
            new_scores[draw] = geobleu(totals[draw], len(trajectory)) - costs[0] * opened - costs[1] * strict
        ahead, spread = _gain(scores, new_scores, first, ahead, spread)
        if ahead < 0.0 and ahead * ahead > RACE_ODDS * spread:
            return False
    return ahead > 1e-12


@numba.njit(nogil=True, cache=True)
def _gain(scores, new_scores, first, ahead, spread):
    """By how much a trajectory is ahead, and the sum of squares, after some more draws."""
    for draw in range(first, first + RACE):
        ahead += new_scores[draw] - scores[draw]
        spread += (new_scores[draw] - scores[draw]) ** 2
    return ahead, spread


@numba.njit(nogil=True, cache=True)
def _sweep(best, draws, top, steps, lengths, costs, pairs, totals, scores):
    """Improve `best` record by record, `SWEEPS` times.

    After the first sweep a record is tried again, with fewer cells, if one that it shares n-grams with has changed.
    """
    samples, n = draws.shape
    standing, new_standing = (pairs, totals, scores), unknown_standing(samples, n)
    distances = new_distances(samples, n)
    columns = np.zeros_like(distances)  # the same, of the n-grams of the draw to those of the trajectory
    set_distances(best, draws, steps, distances)
    for draw in range(samples):
        for order in range(distances.shape[1]):
            for i in range(n):
                for j in range(n):
                    columns[draw, order, j, i] = distances[draw, order, i, j]
    before, after = np.empty((samples, 2, n + 1), np.int32), np.empty((samples, n, n), np.int32)
    tries, due = np.empty(top.shape[1] + 2 * REACH, np.uint64), np.ones(n, np.bool_)
    for sweep in range(SWEEPS):
        if not due.any():
            return
        for draw in range(samples):
            dtw_begin(before[draw])
            dtw_after(best, draws[draw], lengths, after[draw])
        for i in range(n):
            cells = top[i, :TRIES_AGAIN] if sweep else top[i]
            count = _set_tries(best, cells, i, tries) if due[i] else 0
            due[i] = False
            for k in range(count):
                if tries[k] == best[i]:
                    continue
                ngrams, dtw = (distances, columns), (before, after, costs)
                if _is_better_with(tries[k], i, draws, steps, lengths, ngrams, dtw, standing, new_standing):
                    best[i] = tries[k]
                    keep(i, distances, columns)
                    standing, new_standing = new_standing, standing
                    due[max(0, i - REACH) : i + REACH + 1] = True
            for draw in range(samples):
                dtw_row(lengths[best[i]], draws[draw], before[draw])


@numba.njit(nogil=True, cache=True)
def _set_tries(best, top, i, tries):
    """The cells to try for record i, each once: the best of the slot, then those of its neighbours; how many."""
    count = 0
    for k in range(len(top) + 2 * REACH):
        step = (k - len(top)) // 2 + 1
        if k < len(top):
            cell = top[k]
        else:
            cell = best[max(i - step, 0)] if (k - len(top)) % 2 == 0 else best[min(i + step, len(best) - 1)]
        new = True
        for other in range(count):
            new = new and tries[other] != cell
        if new:
            tries[count] = cell
            count += 1
    return count


@numba.njit(nogil=True, cache=True)
def _is_better_with(cell, i, draws, steps, lengths, ngrams, dtw, standing, new_standing):
    """`_is_better`, of the trajectory with another cell in place i; what stays the same is not scored again."""
    distances, columns = ngrams
    before, after, costs = dtw
    pairs, totals, scores = standing
    new_pairs, new_totals, new_scores = new_standing
    ahead, spread = 0.0, 0.0
    for first in range(0, len(draws), RACE):
        group = slice(first, first + RACE)
        set_changed(steps[cell], i, draws[group], distances[group])
        copy(pairs[group].reshape(-1), new_pairs[group].reshape(-1))
        copy(totals[group].reshape(-1), new_totals[group].reshape(-1))
        match_again(distances[group], columns[group], i, new_pairs[group], new_totals[group])
        for draw in range(first, first + RACE):
            opened, strict = dtw_through(lengths[cell], draws[draw], before[draw], after[draw, i])
            score = geobleu(new_totals[draw], draws.shape[1]) - costs[0] * opened - costs[1] * strict
            new_scores[draw] = score
        ahead, spread = _gain(scores, new_scores, first, ahead, spread)
        if ahead < 0.0 and ahead * ahead > RACE_ODDS * spread:
            return False
    return ahead > 1e-12
