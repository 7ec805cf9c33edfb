"""The table of a forecast: rows of cells, with latitude, longitude and time where the place is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ..data.city import City
from ..data.geography import Place
from ..model.spacetime import Calendar

if TYPE_CHECKING:
    from .forecast import Answer


def to_table(answers: Sequence[Answer], city: City, calendar: Calendar) -> pd.DataFrame:
    """The table of `forecast` of some answers."""
    parts = []
    for answer in answers:
        if answer.samples is not None:
            count = len(answer.samples)
            cells, name, number = answer.samples.ravel(), "sample", np.repeat(np.arange(count), len(answer.day))
            day, slot = np.tile(answer.day, count), np.tile(answer.slot, count)
            more = {}
        else:
            ranks = answer.cells.shape[1]
            cells, name, number = answer.cells.ravel(), "rank", np.tile(np.arange(1, ranks + 1), len(answer.day))
            day, slot = np.repeat(answer.day, ranks), np.repeat(answer.slot, ranks)
            more = {"probability": answer.probabilities.ravel()}
        x, y = city.grid.xy(cells)
        part = pd.DataFrame({"uid": answer.uid, "d": day, "t": slot, name: number, "x": x, "y": y} | more)
        parts.append(part[cells >= 0])
    table = pd.concat(parts, ignore_index=True)
    if city.place is not None:
        table = _located(table, city, city.place, calendar)
    return table


def _located(table: pd.DataFrame, city: City, place: Place, calendar: Calendar) -> pd.DataFrame:
    latitude, longitude = place.to_latlon(table["x"], table["y"], city.grid)
    first = None
    if place.aligned and city.users is not None:
        first = table["uid"].map(city.users.set_index("uid")["first_date"]).to_numpy(object)
    time = place.clock(table["d"], table["t"], calendar, first)
    table = table.assign(latitude=latitude, longitude=longitude, time=time)
    if city.users is not None:
        table.insert(1, "user", table["uid"].map(city.users.set_index("uid")["user"]))
    return table
