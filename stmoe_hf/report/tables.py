"""Crowds and flows as files: areas by their labels and shapes, hours by their times."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..data.exports import COORDINATE_DIGITS, Geometry
from ..data.geography import Place
from ..model.spacetime import Calendar, Grid
from .areas import Areas

NUMBER_DIGITS = 3  # of people and moves


def crowd_table(
    crowds: pd.DataFrame, areas: Areas, place: Place | None, grid: Grid, calendar: Calendar
) -> tuple[pd.DataFrame, list[Geometry] | None]:
    """Columns d, hour, time, x and y (or zone), latitude, longitude, people, low, high; and the outlines."""
    table = areas.labelled(_timed(crowds, place, calendar), "area")
    if place is None or areas.outlines is None:
        return table, None
    number = crowds["area"].to_numpy() - 1
    x, y = areas.middles[number].T
    latitude, longitude = place.to_latlon(x, y, grid)
    table["latitude"], table["longitude"] = latitude.round(COORDINATE_DIGITS), longitude.round(COORDINATE_DIGITS)
    return table, [areas.outlines[area] for area in number]


def flow_table(
    flows: pd.DataFrame, areas: Areas, place: Place | None, grid: Grid, calendar: Calendar
) -> tuple[pd.DataFrame, list[Geometry] | None]:
    """Columns d, hour, time, origin_x, ..., destination_x, ... (or zones), moves, low, high; and lines."""
    table = _timed(flows, place, calendar)
    for end in ("origin", "destination"):
        table = areas.labelled(table, end, f"{end}_")
    if place is None:
        return table, None
    ends = []
    for end in ("origin", "destination"):
        x, y = areas.middles[flows[end].to_numpy().astype(np.int64) - 1].T
        latitude, longitude = place.to_latlon(x, y, grid)
        table[f"{end}_latitude"] = latitude.round(COORDINATE_DIGITS)
        table[f"{end}_longitude"] = longitude.round(COORDINATE_DIGITS)
        ends.append(table[[f"{end}_longitude", f"{end}_latitude"]].to_numpy())
    shapes: Any = np.stack(ends, axis=1).tolist() if len(table) else []
    return table, [{"type": "LineString", "coordinates": line} for line in shapes]


def _timed(table: pd.DataFrame, place: Place | None, calendar: Calendar) -> pd.DataFrame:
    """Rounded, and with the time at which the hour (or the day) begins, ISO with offset, where it is known."""
    table = table.round(dict.fromkeys(("people", "moves", "low", "high"), NUMBER_DIGITS))
    if place is None or place.aligned or not len(table):
        return table
    slot = table["hour"] * calendar.num_slots // 24 if "hour" in table else np.zeros(len(table), np.int64)
    times = [time.isoformat() for time in place.clock(table["d"], slot, calendar)]
    after = 2 if "hour" in table else 1
    table.insert(after, "time", times)
    return table
