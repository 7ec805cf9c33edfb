"""Are the probabilities true? A temperature for them, fitted on days that training did not see."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..data.windows import PredictionWindows
from ..model.decoding import temper

TEMPERATURES = tuple(float(t) for t in np.round(np.arange(0.6, 1.31, 0.05), 2))


@torch.no_grad()
def nll_by_temperature(
    model: torch.nn.Module,
    windows: PredictionWindows,
    temperatures: Sequence[float] = TEMPERATURES,
    num_candidates: int = 64,
    batch_size: int = 8,
) -> dict[float, float]:
    """Mean negative log-likelihood (nats a record) of the true cells, asked alone, at each temperature.

    A true cell that is no candidate gets its own probability at the temperature, with the sum of the candidates'.

    Args:
        model: with a history head.
        windows: whose truth is known, of people and days that training did not see.
        temperatures: to try.
        num_candidates, batch_size: of the network's answers.
    """
    total, count = dict.fromkeys(temperatures, 0.0), 0
    num_cells = windows.city.grid.num_cells
    for batch in DataLoader(windows, batch_size=batch_size, collate_fn=windows.processor.pad):
        output = model.eval()(**batch, asked_alone=True, num_candidates=num_candidates)
        truth = output.log_probability
        known = truth != 0
        count += int(known.sum())
        for temperature in temperatures:
            told = temper(output.logits, output.candidates, num_cells, temperature)
            # The same power and the same sum as of the candidates: read off the most probable one.
            best = output.logits.max(-1)
            tempered_best = told.gather(-1, best.indices[..., None])[..., 0].clamp(min=1e-30).log()
            tempered = truth / temperature + tempered_best - best.values / temperature
            total[temperature] -= float(tempered[known].double().sum())
    return {temperature: value / max(count, 1) for temperature, value in total.items()}


def best_temperature(nll: dict[float, float]) -> float:
    """The temperature of the lowest negative log-likelihood; ValueError if it is at the end of what was tried."""
    best = min(nll, key=lambda temperature: nll[temperature])
    if best in (min(nll), max(nll)) or not math.isfinite(nll[best]):
        raise ValueError(f"the best temperature, {best}, is at the end of those that were tried: try others")
    return best
