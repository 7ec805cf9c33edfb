"""Flows: how many people go from where to where, by hour or by day.

A person's move of an hour goes from the last area of the hour to the last area of their next hour, if the table has
one at most `gap_hours` later; it belongs to the hour in which it begins. From records and from joint samples this is
a count. From the probabilities of single slots the moves do not follow, since these do not say how two slots hang
together; what is taken is the least movement that they allow: of the chance to be in an area, as much as the next hour
allows stays, and only the surplus moves, in proportion to where the surplus of the next hour is.
"""

from __future__ import annotations

import pandas as pd

from ..model.spacetime import Calendar, Grid
from .areas import ELSEWHERE, Areas
from .crowds import with_elsewhere, with_interval
from .places import Places
from .privacy import ROUNDING, publishable

PAIR = ["origin", "destination"]


def flows(
    places: Places,
    grid: Grid,
    calendar: Calendar,
    areas: Areas,
    *,
    by: str = "hour",
    gap_hours: int = 1,
    min_people: int = 10,
    expansion: float = 1.0,
) -> pd.DataFrame:
    """Expected moves between areas; for what is left out see `privacy`.

    Args:
        places, grid, calendar, areas, min_people, expansion: as of `crowds`.
        by: hour or day. A person who goes the same way twice a day is two moves of a day, but one of the K people.
        gap_hours: how many hours later a person may next be seen.

    Returns:
        Columns d, hour (unless by day), origin, destination, moves, and with samples low and high (80 %).
    """
    time = ["d", "hour"] if by == "hour" else ["d"]
    keys = [*time, *PAIR]
    parts, drawn = moves(places, grid, calendar, areas, gap_hours)
    hidden = (parts["origin"] == parts["destination"]) | (parts[PAIR] == ELSEWHERE).any(axis=1)
    margins = [time, [*time, "origin"], [*time, "destination"]]
    tables = [  # a day at a time
        publishable(part, keys, margins, hidden[part.index].to_numpy(), min_people) for _, part in parts.groupby("d")
    ]
    empty = pd.DataFrame(columns=[*keys, "value"])
    result = pd.concat(tables, ignore_index=True) if tables else empty
    result = result[[*keys, "value"]].rename(columns={"value": "moves"})
    if drawn is not None:
        result = with_interval(result, drawn.groupby([*keys, "sample"])["weight"].sum(), keys)
    scaled = [name for name in ("moves", "low", "high") if name in result]
    result[scaled] *= expansion
    return result


def moves(
    places: Places, grid: Grid, calendar: Calendar, areas: Areas, gap_hours: int
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The moves of each person, stays among them.

    Returns:
        Columns uid, d, hour, origin, destination, weight (the weights of a person's hour sum to 1), and the same of
        each sample, with its number and weight 1; None without samples.
    """
    if places.samples is not None:
        last = _last_of_hour(places.samples.assign(weight=1.0), grid, calendar, areas, ["uid", "sample"])
        drawn = _joined(last, ["uid", "sample"], gap_hours)
        parts = drawn.groupby(["uid", "d", "hour", *PAIR], as_index=False).agg(weight=("weight", "sum"))
        return parts.assign(weight=parts["weight"] / places.num_samples), drawn
    last = _last_of_hour(places.chances, grid, calendar, areas, ["uid"])
    return _least_movement(last, gap_hours), None


def _last_of_hour(
    table: pd.DataFrame, grid: Grid, calendar: Calendar, areas: Areas, course: list[str]
) -> pd.DataFrame:
    """Columns `course`, at (hours from day 0 on), area, weight: the last slot of each hour; weights sum to 1."""
    table = table.assign(
        at=table["d"] * 24 + table["t"] * 24 // calendar.num_slots,
        area=areas.of_cell[grid.cell(table["x"].to_numpy(), table["y"].to_numpy())],
    )
    hour = [*course, "at"]
    last = table[table["t"] == table.groupby(hour)["t"].transform("max")]
    return with_elsewhere(last.groupby([*hour, "area"], as_index=False).agg(weight=("weight", "sum")), hour)


def _next_hours(last: pd.DataFrame, course: list[str], gap_hours: int) -> pd.DataFrame:
    """Columns `course`, at, then: every hour that has a next one at most `gap_hours` later, and that one."""
    hours = last[[*course, "at"]].drop_duplicates().sort_values([*course, "at"])
    hours["then"] = hours.groupby(course)["at"].shift(-1)
    return hours[hours["then"] - hours["at"] <= gap_hours].astype({"then": "int64"})


def _joined(last: pd.DataFrame, course: list[str], gap_hours: int) -> pd.DataFrame:
    """Moves where each hour has a single area."""
    hours = _next_hours(last, course, gap_hours)
    origin = last[[*course, "at", "area"]].rename(columns={"area": "origin"})
    destination = last[[*course, "at", "area"]].rename(columns={"at": "then", "area": "destination"})
    pairs = hours.merge(origin, on=[*course, "at"]).merge(destination, on=[*course, "then"])
    return _with_day(pairs.assign(weight=1.0))


def _least_movement(last: pd.DataFrame, gap_hours: int) -> pd.DataFrame:
    """Moves where each hour has chances: the coupling of two hours that keeps as much as it can in its place."""
    hours = _next_hours(last, ["uid"], gap_hours)
    now = hours.merge(last, on=["uid", "at"])
    then = hours.merge(last.rename(columns={"at": "then"}), on=["uid", "then"])
    key = ["uid", "at", "area"]
    both = now[[*key, "weight"]].merge(then[[*key, "weight"]], how="outer", on=key, suffixes=("", "_then")).fillna(0.0)
    both["stays"] = both[["weight", "weight_then"]].min(axis=1)
    stays = both[both["stays"] > ROUNDING]
    stays = stays.assign(origin=stays["area"], destination=stays["area"], weight=stays["stays"])
    leaving = both.assign(leaves=both["weight"] - both["stays"]).query("leaves > @ROUNDING")
    arriving = both.assign(arrives=both["weight_then"] - both["stays"]).query("arrives > @ROUNDING")
    total = leaving.groupby(["uid", "at"])["leaves"].sum().rename("total").reset_index()
    pairs = (
        leaving[[*key, "leaves"]]
        .rename(columns={"area": "origin"})
        .merge(arriving[[*key, "arrives"]].rename(columns={"area": "destination"}), on=["uid", "at"])
        .merge(total, on=["uid", "at"])
    )
    pairs["weight"] = pairs["leaves"] * pairs["arrives"] / pairs["total"]
    columns = ["uid", "at", *PAIR, "weight"]
    return _with_day(pd.concat([stays[columns], pairs[columns]], ignore_index=True))


def _with_day(pairs: pd.DataFrame) -> pd.DataFrame:
    pairs = pairs.assign(d=pairs["at"] // 24, hour=pairs["at"] % 24)
    return pairs.drop(columns=["at", "then"], errors="ignore")
