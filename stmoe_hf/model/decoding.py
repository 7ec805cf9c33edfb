"""From probabilities to cells: most probable, highest expected proximity, lowest expected distance, or between.

GEO-BLEU rewards the proximity e^(-d / 2) of cells d apart, DTW charges their distance; a decoder that picks the cell
of the best expected value under the model's own distribution aims at the metric instead of at being exactly right.
The `day` decoder, which chooses a day's cells together, is in `day_decoding.py`.
"""

import math

import torch
from torch import Tensor

from .decoders import SLOT_DECODERS
from .spacetime import Grid

# Decay of GEO-BLEU's proximity by cell (Shimizu et al., 2022; the challenge's beta).
PROXIMITY_BETA = 0.5
# What a kilometre of expected distance costs in the `balanced` decoder, in units of proximity.
BALANCED_DISTANCE_WEIGHT = 0.008


def expected_values(
    probabilities: Tensor,
    candidates: Tensor,
    grid: Grid,
    decoder: str,
    distance_weight: float = BALANCED_DISTANCE_WEIGHT,
) -> Tensor:
    """What each candidate cell is worth for each asked-for record under the probabilities.

    Args:
        probabilities: [B, Q, K] of the candidates; they need not sum to 1.
        candidates: [B, K] cell ids, -1 for none.
        grid: where the cells lie.
        decoder: one of `SLOT_DECODERS`.
        distance_weight: of the `balanced` decoder, per kilometre.

    Returns:
        [B, Q, K] values, -inf for what is no candidate.
    """
    exists = (candidates >= 0)[:, None, :]
    if decoder == "mode":
        values = probabilities
    else:
        x, y = grid.xy(candidates)
        dx, dy = x[:, :, None] - x[:, None, :], y[:, :, None] - y[:, None, :]
        distance = (dx * dx + dy * dy).to(probabilities.dtype).sqrt()
        if decoder == "geobleu":
            gain = torch.exp(-PROXIMITY_BETA * distance)
        elif decoder == "dtw":
            gain = -distance
        elif decoder == "balanced":
            gain = torch.exp(-PROXIMITY_BETA * distance) - distance_weight * grid.cell_km * distance
        else:
            raise ValueError(f"decoder is {decoder!r}; it must be one of {', '.join(SLOT_DECODERS)}")
        values = (probabilities * exists) @ gain
    return values.masked_fill(~exists, -math.inf)


def temper(log_probability: Tensor, candidates: Tensor, num_cells: int, temperature: float) -> Tensor:
    """Probabilities at a temperature: p^(1 / temperature), made to sum to 1 over the grid again.

    Of the cells that are no candidates only the sum is known; they are taken to be equally probable.

    Args:
        log_probability: [B, Q, K] of the candidates.
        candidates: [B, K] cell ids, -1 for none.
        num_cells: of the grid.
        temperature: above 0; below 1 sharpens.

    Returns:
        [B, Q, K] probabilities of the candidates, 0 for what is none.
    """
    exists = (candidates >= 0)[:, None, :]
    log_probability = log_probability.float().masked_fill(~exists, -math.inf)
    if temperature == 1:
        return log_probability.exp()
    others = (num_cells - exists.sum(-1)).clamp(min=1).float()  # [B, 1]
    rest = (1 - log_probability.exp().sum(-1)).clamp(min=1e-9)
    log_rest = others.log() + (rest / others).log() / temperature
    total = torch.logsumexp(torch.cat([log_probability / temperature, log_rest[..., None]], dim=-1), dim=-1)
    return (log_probability / temperature - total[..., None]).exp()


def decode(
    probabilities: Tensor,
    candidates: Tensor,
    grid: Grid,
    decoder: str = "balanced",
    distance_weight: float = BALANCED_DISTANCE_WEIGHT,
) -> Tensor:
    """The best candidate for each asked-for record: cells [B, Q]. Arguments as in `expected_values`."""
    best = expected_values(probabilities, candidates, grid, decoder, distance_weight).argmax(-1)
    return candidates.gather(1, best)
