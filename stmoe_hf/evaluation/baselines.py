"""Frequency baselines: what a person's own past says without a network.

Every system of the field is to be compared with these; published systems have lost to them.
"""

import numpy as np
import torch

from ..data.windows import PredictionWindows
from ..model.decoding import decode
from ..model.heads_stmoe_bert import KERNEL_DAYS, KERNEL_OTHER_KIND_OF_DAY, KERNEL_SAME_WEEKDAY, KERNEL_SLOTS
from ..model.spacetime import Calendar

# The time kernel has the constants that the model's history head starts from, all of them untuned.
# Share of the probability that all cells of a person's history have alike.
UNIFORM_SHARE = 0.02

# name -> decoder of the time kernel, None for the mode of (weekday, slot)
BASELINES: dict[str, str | None] = {
    "weekday_slot_mode": None,
    "time_kernel_mode": "mode",
    "time_kernel_geobleu": "geobleu",
    "time_kernel_dtw": "dtw",
    "time_kernel_balanced": "balanced",
}


def time_kernel(calendar: Calendar, asked: dict[str, np.ndarray], day: np.ndarray, slot: np.ndarray) -> np.ndarray:
    """Weight of each record of a history for each asked-for record.

    Args:
        calendar: weekdays and days off.
        asked: `d` and `t` [Q] of the asked-for records.
        day, slot: [T] of the history.

    Returns:
        [Q, T] weights e^(-slots apart, circular / 1.5) * e^(-days / 100) * (0.15 if one is a working day and the
        other a day off) * (1.5 on the same weekday).
    """
    apart = np.abs(asked["t"][:, None] - slot)
    apart = np.minimum(apart, calendar.num_slots - apart)
    days = np.abs(asked["d"][:, None] - day)
    same_kind = calendar.is_day_off(asked["d"])[:, None] == calendar.is_day_off(day)
    same_weekday = calendar.weekday(asked["d"])[:, None] == calendar.weekday(day)
    weight = np.exp(-apart / KERNEL_SLOTS - days / KERNEL_DAYS)
    return (
        weight * np.where(same_kind, 1.0, KERNEL_OTHER_KIND_OF_DAY) * np.where(same_weekday, KERNEL_SAME_WEEKDAY, 1.0)
    )


def weekday_slot_mode(calendar: Calendar, asked: dict[str, np.ndarray], day, slot, cell) -> np.ndarray:
    """The cell most often seen on the same weekday in the same slot; else in that slot; else at all. Ties go to the
    cell seen first, as in the published code's fallbacks.

    Returns:
        [Q] cells.
    """
    cells, first, inverse = np.unique(cell, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))  # rank of a cell by when it was first seen
    chosen = np.full(len(asked["d"]), -1, np.int64)
    weekday = calendar.weekday(day)
    both = np.zeros((7, calendar.num_slots, len(cells)), np.int32)
    np.add.at(both, (weekday, slot, order[inverse]), 1)
    by_order = cells[np.argsort(first)]
    asked_weekday, asked_slot = calendar.weekday(asked["d"]), asked["t"]
    for counts in (both[asked_weekday, asked_slot], both.sum(0)[asked_slot], both.sum((0, 1))[None]):
        missing = chosen < 0
        seen = np.broadcast_to(counts, (len(chosen), len(cells)))[missing]
        chosen[missing] = np.where(seen.any(-1), by_order[seen.argmax(-1)], -1)
    return chosen


def predict_person(windows: PredictionWindows, window: int) -> dict[str, np.ndarray]:
    """Cells [Q] of the asked-for records of a window by every baseline; the centre of the grid without a history."""
    city, row = windows.city, int(windows.rows[window])
    person, asked = city.trajectory(row), windows.asked_for(window)
    before = (person.day < asked["d"][0]) & (person.cell != city.grid.mask_id)
    day, slot, cell = person.day[before], person.slot[before], person.cell[before]
    if not len(cell):
        return {name: np.full(len(asked["d"]), city.grid.centre) for name in BASELINES}
    cells, inverse = np.unique(cell, return_inverse=True)
    weight = time_kernel(city.calendar, asked, day, slot)
    in_cell = np.zeros((len(cell), len(cells)))
    in_cell[np.arange(len(cell)), inverse] = 1.0
    probability = weight @ in_cell
    probability /= probability.sum(-1, keepdims=True)
    probability = (1 - UNIFORM_SHARE) * probability + UNIFORM_SHARE / len(cells)
    result = {}
    for name, decoder in BASELINES.items():
        if decoder is None:
            result[name] = weekday_slot_mode(city.calendar, asked, day, slot, cell)
        else:
            best = decode(torch.from_numpy(probability)[None], torch.from_numpy(cells)[None], city.grid, decoder)
            result[name] = best[0].numpy()
    return result
