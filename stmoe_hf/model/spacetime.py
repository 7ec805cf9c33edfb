"""The grid and the calendar: where a cell lies, and what kind of day a day is."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Grid:
    """`width` x `height` square cells of `cell_km` kilometres.

    x runs 1..width and y 1..height, as in the files; a cell id is `(y - 1) * width + (x - 1)`, so ids are
    0..num_cells - 1. Two ids follow the cells: `mask_id` for an asked-for record, whose cell is not known, and
    `pad_id` for a position that holds no record.
    """

    width: int = 200
    height: int = 200
    cell_km: float = 0.5

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1 or self.cell_km <= 0:
            raise ValueError(f"a grid needs at least one cell of a positive size, not {self}")

    @property
    def num_cells(self) -> int:
        return self.width * self.height

    @property
    def mask_id(self) -> int:
        return self.num_cells

    @property
    def pad_id(self) -> int:
        return self.num_cells + 1

    @property
    def centre(self) -> int:
        """The cell in the middle: the least far from everywhere, for people of whom nothing is known."""
        return self.cell((self.width + 1) // 2, (self.height + 1) // 2)

    def cell(self, x: Any, y: Any) -> Any:
        """Cell ids of x and y (numbers or arrays, 1-based)."""
        return (y - 1) * self.width + (x - 1)

    def xy(self, cell: Any) -> tuple[Any, Any]:
        """x and y (1-based) of cell ids; the inverse of `cell`."""
        return cell % self.width + 1, cell // self.width + 1


@dataclass(frozen=True)
class Calendar:
    """The days of an edition, numbered `first_day`..`last_day`, each of `num_slots` slots.

    `first_weekday` is the weekday of `first_day` (Monday 0 .. Sunday 6); `holidays` are days on which people keep
    the rhythm of a Sunday. Both are inferred from the data: the editions publish no dates.
    """

    first_day: int = 0
    num_days: int = 75
    num_slots: int = 48
    first_weekday: int = 6
    holidays: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.num_days < 1 or self.num_slots < 1 or not 0 <= self.first_weekday <= 6:
            raise ValueError(f"a calendar needs days, slots and a first weekday 0 (Monday) to 6, not {self}")

    @property
    def last_day(self) -> int:
        return self.first_day + self.num_days - 1

    def weekday(self, day: Any) -> Any:
        """Monday 0 .. Sunday 6, for a day or an array of days."""
        return (np.asarray(day) - self.first_day + self.first_weekday) % 7

    def is_day_off(self, day: Any) -> Any:
        """Whether a day is a Saturday, a Sunday or a holiday."""
        return (self.weekday(day) >= 5) | np.isin(day, self.holidays)


KINDS_OF_HOUR = 5


def kind_of_hour(slot: Any, day_off: Any, num_slots: int) -> Any:
    """0 at night (0-6 h); on working days 1 to 10 h, 2 to 17 h, 3 after; 4 the day of a day off; arrays or tensors."""
    hour = slot * 24 // num_slots
    by_day = 1 + 1 * (hour >= 10) + 1 * (hour >= 17)
    return (hour >= 6) * ((day_off == 0) * by_day + 4 * (day_off != 0))
