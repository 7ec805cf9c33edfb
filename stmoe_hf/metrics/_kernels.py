"""Compiled kernels of the metrics: GEO-BLEU and DTW of one day after another.

What a day of n records costs (docs/metrics.md says why not less): GEO-BLEU n^2 products an order, each of which
extends one of the order before, and a matching of n^2 steps and n more for each second look at a row, where sorting
all pairs takes O(n^2 log n). The proximity of two cells depends on dx^2 + dy^2 alone and is looked up.
DTW is n^2 steps.
"""

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def proximity_table(beta: float, size: int) -> np.ndarray:
    """[size] proximity e^(-beta * distance) by the square of the distance in cells."""
    table = np.empty(size)
    for square in range(size):
        table[square] = math.exp(-beta * math.sqrt(square))
    return table


@njit(cache=True, nogil=True)
def geobleu_day(generated, reference, order, beta, by_generated, table):
    """GEO-BLEU of a day.

    Args:
        generated, reference: [n, 2] and [m, 2] int64 cells, in time order; at least one each.
        order, beta, by_generated: of the edition; `table` from `proximity_table(beta, ...)`, of any size.
    """
    n, m = len(generated), len(reference)
    proximity = np.empty((n, m))
    for i in range(n):
        for j in range(m):
            dx, dy = generated[i, 0] - reference[j, 0], generated[i, 1] - reference[j, 1]
            square = dx * dx + dy * dy
            proximity[i, j] = table[square] if square < len(table) else math.exp(-beta * math.sqrt(square))
    product = np.ones((n, m))
    bound, best = np.empty(n), np.empty(n, np.int64)
    used = np.empty(m, np.bool_)
    highest = min(order, min(n, m))
    log_sum = 0.0
    for size in range(1, highest + 1):
        rows, columns = n - size + 1, m - size + 1
        for i in range(rows):
            highest_yet, where = -1.0, 0
            for j in range(columns):
                value = product[i, j] * proximity[i + size - 1, j + size - 1]
                product[i, j] = value
                if value > highest_yet:
                    highest_yet, where = value, j
            bound[i], best[i] = highest_yet, where
        matched = min(rows, columns)
        total = _match(product, rows, columns, matched, bound, best, used)
        log_sum += math.log(total / (rows if by_generated else matched)) if total > 0.0 else -np.inf
    brevity = 1.0 if n > m else math.exp(1.0 - m / n)
    return brevity * math.exp(log_sum / highest)


@njit(cache=True, nogil=True)
def _match(product, rows, columns, matches, bound, best, used):
    """Sum of the products of the pairs that greedy matching takes: the best pair first, each row and column once.

    Among equal pairs the first in (row, column) order is taken: another order would match others and give another
    score. `bound` and `best` are the best product of a row and its column when it was last looked at; it can only have
    fallen since, so a row is looked at again only when its bound is the highest of all and its column is gone.
    """
    for j in range(columns):
        used[j] = False
    total = 0.0
    taken = 0
    while taken < matches:
        row = 0
        for i in range(1, rows):
            if bound[i] > bound[row]:
                row = i
        if used[best[row]]:
            _look(product, row, columns, bound, best, used)
        else:
            total += bound[row]
            used[best[row]] = True
            bound[row] = -1.0
            taken += 1
    return total


@njit(cache=True, nogil=True)
def _look(product, row, columns, bound, best, used):
    """The first of the best columns that are free."""
    highest, where = -1.0, 0
    for j in range(columns):
        if product[row, j] > highest and not used[j]:
            highest, where = product[row, j], j
    bound[row], best[row] = highest, where


@njit(cache=True, nogil=True)
def dtw_day(generated, reference, cell_km, open_start):
    """DTW of a day in km; [n, 2] and [m, 2] int64 cells, in time order."""
    n, m = len(generated), len(reference)
    cost = np.full(m + 1, np.inf)
    if open_start:
        cost[:] = 0.0
    cost[0] = 0.0
    for i in range(n):
        diagonal = cost[0]
        cost[0] = np.inf
        left = np.inf
        for j in range(m):
            dx, dy = generated[i, 0] - reference[j, 0], generated[i, 1] - reference[j, 1]
            above = cost[j + 1]
            left = math.sqrt(dx * dx + dy * dy) * cell_km + min(min(above, diagonal), left)
            cost[j + 1] = left
            diagonal = above
    return cost[m]


@njit(cache=True, nogil=True)
def geobleu_rows(a, a_bounds, b, b_bounds, order, beta, by_generated, table, scores):
    """Fill `scores` [A, R] with GEO-BLEU of the A candidates in `a` against the R references in `b`.

    Args:
        a, b: [n, 2] and [m, 2] int64 cells of all candidates and of all references, one after another.
        a_bounds, b_bounds: [A + 1] and [R + 1]; candidate i has the cells a_bounds[i] to a_bounds[i + 1].
    """
    for i in range(len(scores)):
        ours = a[a_bounds[i] : a_bounds[i + 1]]
        for j in range(scores.shape[1]):
            theirs = b[b_bounds[j] : b_bounds[j + 1]]
            scores[i, j] = geobleu_day(ours, theirs, order, beta, by_generated, table)


@njit(cache=True, nogil=True)
def dtw_rows(a, a_bounds, b, b_bounds, cell_km, open_start, scores):
    """As `geobleu_rows`, with DTW in km."""
    for i in range(len(scores)):
        ours = a[a_bounds[i] : a_bounds[i + 1]]
        for j in range(scores.shape[1]):
            scores[i, j] = dtw_day(ours, b[b_bounds[j] : b_bounds[j + 1]], cell_km, open_start)


@njit(cache=True, nogil=True)
def score_days(a, b, bounds, order, beta, by_generated, table, cell_km, open_start, geobleu, dtw):
    """Fill `geobleu` and `dtw` [days] for the days whose records lie between consecutive `bounds` of a and b."""
    for day in range(len(bounds) - 1):
        ours, theirs = a[bounds[day] : bounds[day + 1]], b[bounds[day] : bounds[day + 1]]
        geobleu[day] = geobleu_day(ours, theirs, order, beta, by_generated, table)
        dtw[day] = dtw_day(ours, theirs, cell_km, open_start)
