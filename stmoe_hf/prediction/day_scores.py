"""GEO-BLEU and DTW of a day against drawn days, such that a change of one record is scored anew in a few steps.

Approximate where the exact metric is slow: n-grams of up to three records, distances in eighths of a cell, and pairs
of n-grams more than ten cells apart in sum count as unmatched. All sums are of whole numbers, so it does not matter in
which order they were added up.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from ..model.decoding import PROXIMITY_BETA

RACE = 8  # draws that are scored side by side, after which a change may be given up
STEPS_A_CELL = 8  # of the distances that GEO-BLEU sees
FARTHEST = 10 * STEPS_A_CELL
_UNMATCHED = 0.002
LENGTHS_A_CELL = 64  # of the distances that DTW sees
# A pair of n-grams as one number, which sorts by distance, then by row (of the trajectory), then by column (of the
# draw), as the exact metric does: distance * 2^16 + row * 2^8 + column; so a day has at most 256 records. Pairs within
# reach are below `_FREE`, which an n-gram without a partner has; what must not be paired has `_BARRED`.
_ROW_SHIFT, _DISTANCE_SHIFT = 8, 16
_MASK = 255
_FREE = np.int32(FARTHEST << _DISTANCE_SHIFT)
_BARRED = np.int32(-1)
ORDERS = 3  # n-grams of five records, which the edition of 2025 has, take twice the time and score no better
# Not of plain Python: numba would compile `_match` for each of their values.
_NONE, _OURS, _THEIRS = np.int64(-1), np.int64(0), np.int64(1)
# In whole numbers a sum that was changed step by step equals one that was added up anew.
_UNIT = 1 << 40
_PROXIMITY = np.rint(
    np.append(np.exp(-PROXIMITY_BETA * np.arange(FARTHEST) / STEPS_A_CELL), _UNMATCHED) * _UNIT
).astype(np.int64)
_NEVER = 1 << 29  # a length that no path has
_BLOCK = 16  # lines are so many numbers long, or twice, ...: whole vectors


@numba.njit(nogil=True, cache=True)
def unknown_standing(samples, n):
    """How a trajectory of n records stands against each of S draws; nothing is known yet.

    pairs: [S, orders, 2, >= n] of each n-gram of the trajectory (0) and of the draw (1), the pair that it is in.
    totals: [S, orders] of the proximities of the pairs.
    scores: [S].
    """
    pairs = np.full((samples, min(ORDERS, n), 2, _width(n)), _BARRED, np.int32)
    return pairs, np.zeros((samples, min(ORDERS, n)), np.int64), np.full(samples, -np.inf)


@numba.njit(nogil=True, cache=True)
def _width(n):
    return (n + _BLOCK - 1) // _BLOCK * _BLOCK


@numba.njit(nogil=True, cache=True)
def copy(old, new):
    for k in range(np.uint64(len(old))):
        new[k] = old[k]


@numba.njit(nogil=True, cache=True)
def new_distances(samples, n):
    """[S, orders, n + ORDERS, >= n] of the n-grams of a trajectory to those of S draws; see `set_changed`."""
    return np.zeros((samples, min(ORDERS, n), n + ORDERS, _width(n)), np.uint8)


@numba.njit(nogil=True, cache=True)
def set_distances(trajectory, draws, steps, distances):
    """Fill in the distances of the n-grams of a trajectory to those of the draws."""
    n = np.uint64(len(trajectory))
    flat = distances.reshape(-1)
    samples, orders, lines, width = distances.shape
    for draw in range(samples):
        for i in range(n):
            for j in range(n):
                distances[np.uint64(draw), 0, i, j] = steps[trajectory[i], draws[np.uint64(draw), j]]
        here = draw * orders * lines * width
        for order in range(1, orders):
            last = here + order * width + order
            longer = here + order * lines * width
            _extend(flat, longer - lines * width, last, longer, (len(trajectory) - order) * width)


@numba.njit(nogil=True, cache=True)
def _extend(flat, shorter, last, longer, count):
    """Distances of n-grams to others: those without the last record, and those of the last record, in sum.

    Args:
        flat: distances, one after another.
        shorter, last, longer: where those without the last record and of it begin, and where the sums go.
        count: of distances.
    """
    shorter, last, longer = np.uint64(shorter), np.uint64(last), np.uint64(longer)
    for k in range(np.uint64(count)):
        distance = _sum(flat[shorter + k], flat[last + k])
        flat[longer + k] = distance if distance < np.int32(FARTHEST) else np.int32(FARTHEST)


@numba.njit(nogil=True, cache=True)
def _changed_grams(i, order, n):
    """The n-grams that hold record i begin so many records before it: from the first number to below the second."""
    return max(0, i - (n - 1 - order)), min(i, order) + 1


@numba.njit(nogil=True, cache=True)
def set_changed(steps, i, draws, distances):
    """Fill in the distances that n-grams with record i have when the record is `steps` [K] from the candidates.

    Those of n-gram i - back stand in line n + back; the others stay as they are.
    """
    n = draws.shape[1]
    flat = distances.reshape(-1)
    samples, orders, lines, width = distances.shape
    for draw in range(samples):
        for j in range(np.uint64(n)):
            distances[np.uint64(draw), 0, np.uint64(n), j] = steps[draws[np.uint64(draw), j]]
        single = draw * orders * lines * width
        for order in range(1, orders):
            begin, end = _changed_grams(i, order, n)
            here = single + order * lines * width
            for back in range(begin, end):
                shorter, last = (i - back, n) if back == order else (n + back, i - back + order)
                shorter, last = here + (shorter - lines) * width, single + last * width + order
                _extend(flat, shorter, last, here + (n + back) * width, width)


@numba.njit(nogil=True, cache=True)
def keep(i, distances, columns):
    """Take over what `set_changed` has found for all draws."""
    samples, orders = distances.shape[:2]
    n = distances.shape[2] - ORDERS
    for draw in range(samples):
        for order in range(orders):
            begin, end = _changed_grams(i, order, n)
            for back in range(begin, end):
                for j in range(n):
                    distances[draw, order, i - back, j] = distances[draw, order, n + back, j]
                    columns[draw, order, j, i - back] = distances[draw, order, n + back, j]


@numba.njit(nogil=True, cache=True)
def geobleu(totals, n):
    """GEO-BLEU of a trajectory of n records; the approximation is in the module's text."""
    product = 1.0
    for order in range(len(totals)):
        product *= totals[order] / (float(_UNIT) * (n - order))
    return product ** (1.0 / len(totals))


@numba.njit(nogil=True, cache=True)
def match_all(distances, pairs, totals):
    """Match the n-grams of a trajectory with those of `RACE` draws, greedily, closest pairs first."""
    n = distances.shape[2] - ORDERS
    line, found = np.empty(RACE, np.int64), np.empty(RACE, np.int32)
    for order in range(totals.shape[1]):
        for lane in range(RACE):
            totals[lane, order] = (n - order) * _proximity(_FREE)
            for i in range(n - order):
                pairs[lane, order, 0, i] = pairs[lane, order, 1, i] = _FREE
        for i in range(n - order):
            line[:] = i
            _match(distances, _NONE, order, _OURS, line, found, pairs, totals)


@numba.njit(nogil=True, cache=True)
def match_again(distances, columns, i, pairs, totals):
    """Change a matching as record i of the trajectory changes.

    The n-grams that hold the record leave, and their partners find others; then they come back.
    """
    n = distances.shape[2] - ORDERS
    line, found = np.empty(RACE, np.int64), np.empty(RACE, np.int32)
    left = np.empty((ORDERS, RACE), np.int64)
    for order in range(totals.shape[1]):
        begin, end = _changed_grams(i, order, n)
        for lane in range(RACE):
            for back in range(begin, end):
                pair = pairs[lane, order, 0, i - back]
                pairs[lane, order, 0, i - back] = _BARRED
                totals[lane, order] += _proximity(_FREE) - _proximity(pair)
                left[back, lane] = _NONE
                if pair != _FREE:
                    left[back, lane] = pair & _MASK
                    pairs[lane, order, 1, pair & _MASK] = _FREE
        for back in range(begin, end):
            _match(columns, _NONE, order, _THEIRS, left[back], found, pairs, totals)
        for lane in range(RACE):
            for back in range(begin, end):
                pairs[lane, order, 0, i - back] = _FREE
        for back in range(begin, end):
            line[:] = i - back
            _match(distances, i, order, _OURS, line, found, pairs, totals)


@numba.njit(nogil=True, cache=True)
def _match(distances, i, order, side, line, found, pairs, totals):
    """Find a partner for one n-gram without one, in each of `RACE` draws.

    It takes the closest n-gram of the other side that it is closer to than that one's partner is, who then looks for
    another in turn, and so on (deferred acceptance, Gale and Shapley, 1962). Since both sides rank pairs by the same
    numbers, this ends with what greedy matching gives. The draws are worked on side by side because the steps of one
    draw wait for each other.

    Args:
        distances: of the side that looks, see `new_distances`.
        i: n-grams that hold this record have the distances of `set_changed`; `_NONE`: no n-gram has.
        order: n-grams are of order + 1 records.
        side: `_OURS`, n-grams of the trajectory look; `_THEIRS`, those of the draws.
        line: [RACE] the n-gram of each draw, `_NONE` for none; all are `_NONE` afterwards.
        found: [RACE], to work in.
        pairs, totals: of `RACE` draws, see `unknown_standing`; they are changed.
    """
    shift, other_shift = (_ROW_SHIFT, 0) if side == _OURS else (0, _ROW_SHIFT)
    own, others = np.uint64(side), np.uint64(_THEIRS - side)
    n, size, looking = distances.shape[2] - ORDERS, np.uint64(order), True
    while looking:
        for lane in range(RACE):
            if line[lane] >= 0:
                back = i - line[lane]
                row = np.uint64(n + back if 0 <= back <= order else line[lane])
                start, step = np.int32(line[lane] << shift), np.int32(1 << other_shift)
                found[lane] = _closest(distances[lane, size, row], start, step, pairs[lane, size, others])
        looking = False
        for lane in range(RACE):
            if line[lane] >= 0:
                pair = found[lane]
                pairs[lane, size, own, np.uint64(line[lane])] = pair
                line[lane] = _NONE
                if pair != _FREE:
                    other = np.uint64((pair >> other_shift) & _MASK)
                    before = pairs[lane, size, others, other]
                    pairs[lane, size, others, other] = pair
                    totals[lane, size] += _proximity(pair) - _proximity(before)
                    if before != _FREE:
                        line[lane] = (before >> shift) & _MASK
                        looking = True


@numba.njit(nogil=True, cache=True)
def _proximity(pair):
    return _PROXIMITY[np.uint64(pair >> _DISTANCE_SHIFT)]


@numba.njit(nogil=True, cache=True)
def _closest(distances, start, step, taken):
    """The least pair of an n-gram that is below the one that its other n-gram is in, else `_FREE`."""
    least = _FREE
    for j in range(len(taken)):
        pair = _sum(_product(distances[j], np.int32(1 << _DISTANCE_SHIFT)), _sum(_product(np.int32(j), step), start))
        pair = pair if pair < taken[j] else _FREE
        least = pair if pair < least else least
    return least


# numba adds and multiplies in 64 bits, which halves what a vector holds.
@intrinsic
def _sum(typing_context, a, b):
    return types.int32(types.int32, types.int32), lambda context, builder, signature, values: builder.add(*values)


@intrinsic
def _product(typing_context, a, b):
    return types.int32(types.int32, types.int32), lambda context, builder, signature, values: builder.mul(*values)


@numba.njit(nogil=True, cache=True)
def dtw(trajectory, draw, lengths):
    """DTW with an open and with a strict start."""
    row = np.empty((2, len(draw) + 1), np.int32)
    dtw_begin(row)
    for i in range(len(trajectory)):
        dtw_row(lengths[trajectory[i]], draw, row)
    return row[0, len(draw)], row[1, len(draw)]


@numba.njit(nogil=True, cache=True)
def dtw_begin(row):
    """What the paths cost before the first record: open [n + 1], strict [n + 1]."""
    row[0] = 0
    row[1] = _NEVER
    row[1, 0] = 0


@numba.njit(nogil=True, cache=True)
def dtw_row(lengths, draw, row):
    """One more record, whose distances to the candidates are `lengths`."""
    diagonal_open, diagonal = row[0, 0], row[1, 0]
    left_open = left = row[0, 0] = row[1, 0] = _NEVER
    for j in range(len(draw)):
        length = lengths[draw[j]]
        above_open, above = row[0, j + 1], row[1, j + 1]
        left_open = length + min(left_open, min(above_open, diagonal_open))
        left = length + min(left, min(above, diagonal))
        row[0, j + 1], row[1, j + 1] = left_open, left
        diagonal_open, diagonal = above_open, above


@numba.njit(nogil=True, cache=True)
def dtw_through(lengths, draw, row, after):
    """DTW through one more record, if `after` [n] is what follows when the record is left at each of the draw's."""
    diagonal_open, diagonal = row[0, 0], row[1, 0]
    left_open = left = _NEVER
    least_open = least = 2 * _NEVER
    for j in range(len(draw)):
        length = lengths[draw[j]]
        above_open, above = row[0, j + 1], row[1, j + 1]
        left_open = length + min(left_open, min(above_open, diagonal_open))
        left = length + min(left, min(above, diagonal))
        least_open = min(least_open, left_open + after[j])
        least = min(least, left + after[j])
        diagonal_open, diagonal = above_open, above
    return least_open, least


@numba.njit(nogil=True, cache=True)
def dtw_after(trajectory, draw, lengths, after):
    """Fill `after` [n, n]: the least that a path costs once it has left record i at the draw's record j."""
    n = len(trajectory)
    after[n - 1] = _NEVER
    after[n - 1, n - 1] = 0
    for i in range(n - 2, -1, -1):
        below_right = _NEVER
        for j in range(n - 1, -1, -1):
            below = lengths[trajectory[i + 1], draw[j]] + min(after[i + 1, j], below_right)
            after[i, j] = min(below, below_right)
            below_right = below
