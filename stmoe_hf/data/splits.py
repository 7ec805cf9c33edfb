"""Splits: who is trained on until when, and whose later days are held out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..model.spacetime import Calendar
from .city import City


def draw(*keys: Any) -> np.ndarray:
    """Numbers in [0, 1) that depend on nothing but the keys (integers or arrays of them, broadcast).

    The finaliser of SplitMix64 (Steele, Lea and Flood, 2014), chained over the keys.
    """
    state = np.zeros(np.broadcast_shapes(*(np.shape(key) for key in keys)), np.uint64)
    with np.errstate(over="ignore"):
        for key in keys:
            state = state ^ np.asarray(key).astype(np.uint64)
            state = state + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)).astype(np.float64) / 2**53


@dataclass(frozen=True)
class Split:
    """Who is trained on until when, and who is predicted.

    Attributes:
        cut_day: the first day of the horizon.
        train_until: [users] the first day that training does not see.
        held_out: rows of the users whose days from the cut on are predicted and scored.
        masked: rows of the users who have masked records, which are predicted.
    """

    cut_day: int
    train_until: np.ndarray
    held_out: np.ndarray
    masked: np.ndarray


def refuse_cut_day(cut_day: int, calendar: Calendar) -> None:
    """Raise ValueError if a cut leaves no day before or after it."""
    if not calendar.first_day < cut_day <= calendar.last_day:
        raise ValueError(
            f"cut_day {cut_day} leaves no history or no horizon in the days {calendar.first_day}..{calendar.last_day}"
        )


def refuse_fraction(test_fraction: float) -> None:
    """Raise ValueError if this is no share of the users."""
    if not 0 <= test_fraction <= 1:
        raise ValueError(f"test_fraction is {test_fraction}; it is a share of the users, 0 to 1")


def split_users(city: City, cut_day: int, test_fraction: float, seed: int) -> Split:
    """Hold out a share of the unmasked users from the cut day on.

    Their earlier days are training data, and so are those of masked users; all other users are trained on whole. Who
    is held out depends on seed and uid only, not on the order or number of users.

    Raises:
        ValueError: `cut_day` outside the calendar or `test_fraction` outside 0..1.
    """
    calendar = city.calendar
    refuse_cut_day(cut_day, calendar)
    refuse_fraction(test_fraction)
    masked = np.flatnonzero(city.masked_counts)
    plain = np.flatnonzero(city.masked_counts == 0)
    count = round(test_fraction * len(plain))
    if test_fraction > 0 and len(plain):
        count = max(count, 1)
    order = np.argsort(draw(seed, city.uids[plain]), kind="stable")
    held_out = np.sort(plain[order[:count]])
    train_until = np.full(len(city), calendar.last_day + 1)
    train_until[masked] = cut_day
    train_until[held_out] = cut_day
    return Split(cut_day, train_until, held_out, masked)
