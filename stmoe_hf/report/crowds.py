"""Crowds: how many people will be where, hour by hour.

A person counts for 1 in every hour in which the table has a slot of theirs, divided among the areas: the mean over
those slots of the probability to be there. So a forecast of all slots counts everybody in every hour, and records, of
which many slots are missing, count who was seen.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..model.spacetime import Calendar, Grid
from .areas import ELSEWHERE, Areas
from .places import Places
from .privacy import ROUNDING, publishable

KEYS = ["d", "hour", "area"]
INTERVAL = (0.1, 0.9)


def crowds(
    places: Places, grid: Grid, calendar: Calendar, areas: Areas, *, min_people: int = 10, expansion: float = 1.0
) -> pd.DataFrame:
    """Expected people by day, hour and area; for what is left out see `privacy`.

    Args:
        places: where people are.
        grid, calendar: of the city.
        areas: cells, squares or zones.
        min_people: K.
        expansion: people of the city for each person of the table.

    Returns:
        Columns d, hour, area, people, and, where there are samples, low and high: 80 % intervals of how many will be
        there, the 10th and 90th of 100 courses of the days drawn from the model. People before 0:30 are in hour 0.
    """
    tables = []
    for _, chances in places.chances.groupby("d"):  # a day at a time: memory does not grow with the days
        parts = presence(chances, grid, calendar, areas)
        hidden = parts["area"].to_numpy() == ELSEWHERE
        table = publishable(parts, KEYS, [["d", "hour"]], hidden, min_people)[[*KEYS, "value"]]
        tables.append(table.rename(columns={"value": "people"}))
    result = pd.concat(tables, ignore_index=True)
    if places.samples is not None:
        counts = []
        for _, samples in places.samples.groupby("d"):
            drawn = presence(samples.assign(weight=1.0), grid, calendar, areas, ["sample"])
            counts.append(drawn.groupby([*KEYS, "sample"])["weight"].sum())
        result = with_interval(result, pd.concat(counts), KEYS)
    scaled = [name for name in ("people", "low", "high") if name in result]
    result[scaled] *= expansion
    return result


def presence(
    table: pd.DataFrame, grid: Grid, calendar: Calendar, areas: Areas, more: list[str] | None = None
) -> pd.DataFrame:
    """How much of each person is in each area in each hour.

    Args:
        table: columns uid, d, t, x, y, weight, and `more`, which tell whole courses of days apart.

    Returns:
        Columns uid, d, hour, `more`, area, weight; the weights of a person's hour sum to 1.
    """
    person = ["uid", "d", "hour", *(more or [])]
    table = table.assign(
        hour=table["t"] * 24 // calendar.num_slots,
        area=areas.of_cell[grid.cell(table["x"].to_numpy(), table["y"].to_numpy())],
    )
    slots = table.groupby(person)["t"].nunique().rename("slots").reset_index()
    parts = table.groupby([*person, "area"], as_index=False).agg(weight=("weight", "sum")).merge(slots, on=person)
    parts["weight"] /= parts.pop("slots")
    return with_elsewhere(parts, person)


def with_elsewhere(parts: pd.DataFrame, person: list[str]) -> pd.DataFrame:
    """The parts, and as a part elsewhere what the weights of a person's hour lack to 1."""
    lack = 1 - parts.groupby(person)["weight"].sum()
    rest = lack[lack > ROUNDING].rename("weight").reset_index().assign(area=ELSEWHERE)
    both = pd.concat([parts, rest], ignore_index=True)
    return both.groupby([*person, "area"], as_index=False).agg(weight=("weight", "sum"))


def with_interval(table: pd.DataFrame, drawn: pd.Series, keys: list[str]) -> pd.DataFrame:
    """The table with columns low and high: the 80 % interval of its numbers over the samples.

    Args:
        table: columns `keys`.
        drawn: by `keys` and sample; what is missing is 0, and every sample has something.
    """
    wide = drawn.unstack("sample", fill_value=0)
    values = wide.reindex(pd.MultiIndex.from_frame(table[keys]), fill_value=0.0).to_numpy()
    low, high = np.quantile(values, INTERVAL, axis=1) if len(table) else (np.empty(0), np.empty(0))
    return table.assign(low=low, high=high)
