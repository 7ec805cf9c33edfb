"""The numbers behind the maps of a report: people by square and hour, and the days of single people."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from ..model.spacetime import Grid
from .areas import squares
from .crowds import presence
from .errors import homes
from .evidence import Evidence
from .places import KEYS, Places

MOST_SQUARES = 60  # along the longer side of a map: more cannot be told apart on a screen
OUTSIDE = 0.005  # share of the people on each side who may lie outside of a map, or a few would make it all too small
MOST_PAST_CELLS = 150  # of a person, the most visited ones
COVERED = 0.9  # a forecast whose named cells hold so much of the probability is drawn by its probabilities
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def city_map(evidence: Evidence) -> dict[str, Any]:
    """People by square and hour.

    Returns:
        side (cells), x and y (middles of the columns and rows of squares: degrees, or cells), hours (label each),
        forecast and truth (of each hour [squares], [people]; no truth: None), zmax, by_probability, outside (share
        of the slots that lie beyond the edges of the map).
    """
    grid, chances = evidence.grid, evidence.places.chances
    per_slot = chances["weight"].sum() / len(chances[KEYS].drop_duplicates())
    by_probability = bool((chances["weight"] < 1).any() and per_slot >= COVERED)
    drawn = evidence.places if by_probability else Places(evidence.predicted.assign(weight=1.0))
    if evidence.truth is not None:
        drawn = drawn.only(evidence.truth)  # of masked people nobody knows how many were where
    shown = [drawn.chances] + ([] if evidence.truth is None else [evidence.truth])
    x, y = (np.concatenate([table[name].to_numpy() for table in shown]) for name in ("x", "y"))
    (west, east), (south, north) = (np.quantile(v, [OUTSIDE, 1 - OUTSIDE]).astype(int) for v in (x, y))
    outside = float(((x < west) | (x > east) | (y < south) | (y > north)).mean())
    side = max(1, -(-(max(east - west, north - south) + 1) // MOST_SQUARES))
    areas = squares(grid, int(side))
    wide = -(-grid.width // side)
    hours = drawn.chances.assign(hour=drawn.chances["t"] * 24 // evidence.calendar.num_slots)[["d", "hour"]]
    hours = hours.drop_duplicates().sort_values(["d", "hour"], ignore_index=True)
    columns = np.arange((west - 1) // side, (east - 1) // side + 1)
    rows = np.arange((south - 1) // side, (north - 1) // side + 1)
    tables = {"forecast": drawn.chances}
    if evidence.truth is not None:
        tables["truth"] = evidence.truth.assign(weight=1.0)
    counted: dict[str, Any] = {"truth": None}
    highest = 0.0
    for name, table in tables.items():
        parts = presence(table, grid, evidence.calendar, areas)
        people = parts[parts["area"] > 0].groupby(["d", "hour", "area"], as_index=False)["weight"].sum()
        row, column = (people["area"] - 1) // wide - rows[0], (people["area"] - 1) % wide - columns[0]
        people["square"] = row * len(columns) + column
        people = people[row.between(0, len(rows) - 1) & column.between(0, len(columns) - 1)]
        highest = max(highest, float(people["weight"].quantile(0.999)))
        groups = dict(list(people.groupby(["d", "hour"])))
        counted[name] = [_sparse(groups.get((d, hour))) for d, hour in hours.to_numpy().tolist()]
    centre_x, centre_y = columns * side + (side + 1) / 2, rows * side + (side + 1) / 2
    return counted | {
        "side": int(side),
        "x": _axis(evidence, centre_x, "x"),
        "y": _axis(evidence, centre_y, "y"),
        "hours": [f"{day_label(evidence, d)}, {hour}:00" for d, hour in hours.to_numpy().tolist()],
        "zmax": round(highest, 2),
        "by_probability": by_probability,
        "outside": outside,
    }


def _sparse(people: pd.DataFrame | None) -> list[list[float]]:
    if people is None:
        return [[], []]
    return [people["square"].tolist(), people["weight"].round(2).tolist()]


def _axis(evidence: Evidence, middles: np.ndarray, name: str) -> list[float]:
    """Degrees, where the place is known, else cells."""
    if evidence.place is None:
        return middles.tolist()
    x, y = (middles, np.ones(len(middles))) if name == "x" else (np.ones(len(middles)), middles)
    latitude, longitude = evidence.place.to_latlon(x, y, evidence.grid)
    return (longitude if name == "x" else latitude).round(5).tolist()


def day_label(evidence: Evidence, d: int) -> str:
    """Weekday and date, or the number of the day."""
    weekday = WEEKDAYS[int(evidence.calendar.weekday(d))]
    if evidence.place is None or evidence.place.aligned:
        return f"day {d} ({weekday})"
    return f"{weekday} {evidence.place.clock([d], [0], evidence.calendar)[0].date().isoformat()}"


def person_data(evidence: Evidence, uid: int) -> dict[str, Any]:
    """The days of a person.

    Returns:
        name; past: [[x, y, records], ...]; home: [x, y] or None; days: a list of label and of records
        [hour of the day, forecast x, y, probability, true x, y, kilometres off, other cells [x, y, probability]].
    """
    predicted = evidence.predicted[evidence.predicted["uid"] == uid]
    named = _named_cells(evidence, uid)
    truth = {}
    if evidence.truth is not None:
        own = evidence.truth[evidence.truth["uid"] == uid]
        truth = {(d, t): (x, y) for d, t, x, y in own[["d", "t", "x", "y"]].to_numpy().tolist()}
    days = []
    for d in predicted["d"].drop_duplicates().sort_values().tolist():
        records, part = [], predicted[predicted["d"] == d]
        for t, x, y, chance in zip(*(part[name].tolist() for name in ("t", "x", "y", "probability")), strict=True):
            true, here = truth.get((d, t)), _point(evidence, x, y)
            off = None if true is None else round(math.hypot(x - true[0], y - true[1]) * evidence.grid.cell_km, 2)
            others = [cell for cell in named.get((d, t), []) if cell[:2] != here]
            hour = round(t * 24 / evidence.calendar.num_slots, 2)
            probability = None if math.isnan(chance) or chance >= 1 else round(chance, 3)
            there = [None, None] if true is None else _point(evidence, *true)
            records.append([hour, *here, probability, *there, off, others])
        days.append({"label": day_label(evidence, d), "records": records})
    past, home = _past(evidence, uid)
    return {"name": evidence.name(uid), "past": past, "home": home, "days": days}


def _named_cells(evidence: Evidence, uid: int) -> dict[tuple[int, int], list[list[float]]]:
    """(d, t) -> every cell that the forecast of a person names: [x, y, probability]."""
    chances = evidence.places.chances
    named: dict[tuple[int, int], list[list[float]]] = {}
    columns = chances.loc[chances["uid"] == uid, ["d", "t", "x", "y", "weight"]]
    for d, t, x, y, weight in zip(*(columns[name].tolist() for name in columns), strict=True):
        named.setdefault((d, t), []).append([*_point(evidence, x, y), round(weight, 3)])
    return named


def _past(evidence: Evidence, uid: int) -> tuple[list[list[float]], list[float] | None]:
    if evidence.history is None:
        return [], None
    own = evidence.history[evidence.history["uid"] == uid]
    if not len(own):
        return [], None
    counts = own.groupby(["x", "y"]).size().nlargest(MOST_PAST_CELLS)
    home = homes(own, evidence.calendar)[["home_x", "home_y"]].iloc[0].tolist()
    cells = counts.reset_index(name="records").to_numpy().tolist()
    past = [[*_point(evidence, x, y), records] for x, y, records in cells]
    return past, _point(evidence, *home)


def _point(evidence: Evidence, x: float, y: float) -> list[float]:
    """Degrees east and north, or x and y."""
    if evidence.place is None:
        return [x, y]
    latitude, longitude = evidence.place.to_latlon(x, y, evidence.grid)
    return [round(float(longitude), 5), round(float(latitude), 5)]


def aspect(evidence: Evidence) -> float:
    """How much longer a unit of y is than one of x on the ground."""
    if evidence.place is None:
        return 1.0
    east, north = evidence.place.km_a_degree
    return round(north / east, 5)


def unit_km(evidence: Evidence) -> list[float]:
    """Kilometres of a unit of x and of y."""
    if evidence.place is None:
        return [evidence.grid.cell_km, evidence.grid.cell_km]
    return [round(value, 5) for value in evidence.place.km_a_degree]


def axis_titles(evidence: Evidence) -> list[str]:
    if evidence.place is None:
        grid: Grid = evidence.grid
        return [f"x, cells of {grid.cell_km:g} km", f"y, cells of {grid.cell_km:g} km"]
    return ["longitude", "latitude"]
