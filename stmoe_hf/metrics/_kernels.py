"""Compiled kernels of the metrics: GEO-BLEU and DTW of one day after another."""

import math

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def geobleu_day(generated: np.ndarray, reference: np.ndarray, order: int, beta: float, by_generated: bool) -> float:
    """GEO-BLEU of a day; [n, 2] and [m, 2] positions in cells, in time order."""
    n, m = len(generated), len(reference)
    proximity = np.empty((n, m))
    for i in range(n):
        for j in range(m):
            dx, dy = generated[i, 0] - reference[j, 0], generated[i, 1] - reference[j, 1]
            proximity[i, j] = math.exp(-beta * math.sqrt(dx * dx + dy * dy))
    highest = min(order, min(n, m))
    log_sum = 0.0
    for size in range(1, highest + 1):
        rows, columns = n - size + 1, m - size + 1
        product = np.empty(rows * columns)
        for i in range(rows):
            for j in range(columns):
                value = 1.0
                for k in range(size):
                    value *= proximity[i + k, j + k]
                product[i * columns + j] = value
        # Descending, ties in the order of the pairs: another order would match others and give another score.
        ranked = np.argsort(-product, kind="mergesort")
        row_used, column_used = np.zeros(rows, np.bool_), np.zeros(columns, np.bool_)
        total, matched = 0.0, 0
        for pair in ranked:
            i, j = pair // columns, pair % columns
            if not row_used[i] and not column_used[j]:
                row_used[i] = column_used[j] = True
                total += product[pair]
                matched += 1
                if matched == min(rows, columns):
                    break
        log_sum += math.log(total / (rows if by_generated else matched))
    brevity = 1.0 if n > m else math.exp(1.0 - m / n)
    return brevity * math.exp(log_sum / highest)


@njit(cache=True, nogil=True)
def dtw_day(generated: np.ndarray, reference: np.ndarray, cell_km: float, open_start: bool) -> float:
    """DTW of a day in km; [n, 2] and [m, 2] positions in cells, in time order."""
    n, m = len(generated), len(reference)
    cost = np.full(m + 1, np.inf)
    if open_start:
        cost[:] = 0.0
    cost[0] = 0.0
    for i in range(n):
        diagonal = cost[0]
        cost[0] = np.inf
        for j in range(m):
            dx, dy = generated[i, 0] - reference[j, 0], generated[i, 1] - reference[j, 1]
            above = cost[j + 1]
            cost[j + 1] = math.sqrt(dx * dx + dy * dy) * cell_km + min(above, cost[j], diagonal)
            diagonal = above
    return cost[m]
