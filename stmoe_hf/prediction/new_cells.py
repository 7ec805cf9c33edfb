"""Drawn days go to cells that the person was never in, as often as the network says.

The days of the past, which drawn days are made of, hold none of these cells. How likely each record lies in one, and
in which, the probabilities of the candidates tell. That a record does, makes it more likely of its neighbours: whether
they do is drawn by a normal copula (an autoregression of the first order), whose correlation `TIES` was chosen on days
45-59 of cities B and D, where half of the records that follow one in a new cell lie in one too, mostly in another.
"""

from __future__ import annotations

import numpy as np
import torch

TIES = 0.6  # correlation of one record of a day and the next


def go_to_new_cells(drawn: np.ndarray, probabilities: np.ndarray, cells: np.ndarray, seed: int) -> np.ndarray:
    """Drawn days of which some records lie in new cells.

    Args:
        drawn: [S, n] cells of the records of one day, in order of time, S times.
        probabilities: [n, K] of the new cells, for each record.
        cells: [K] which these are.
        seed: of the draws.

    Returns:
        [S, n] cells; of a record the share of each new cell is, but for chance, its probability.
    """
    if not len(cells):
        return drawn
    random = np.random.default_rng(seed)
    until = probabilities.astype(np.float64).cumsum(1)
    normal = random.standard_normal(drawn.shape)
    for record in range(1, drawn.shape[1]):
        normal[:, record] = TIES * normal[:, record - 1] + np.sqrt(1 - TIES**2) * normal[:, record]
    leaves = torch.special.ndtr(torch.from_numpy(normal)).numpy() < until[:, -1]
    sample, of_record = np.nonzero(leaves)
    point = random.random(len(of_record)) * until[of_record, -1]
    chosen = [int(np.searchsorted(until[i], at, side="right")) for i, at in zip(of_record, point, strict=True)]
    result = drawn.copy()
    result[sample, of_record] = cells[np.minimum(chosen, len(cells) - 1).astype(np.int64)]
    return result
