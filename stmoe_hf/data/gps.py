"""From GPS points to the records of a city with its own grid and calendar: `points_to_city(points, timezone=...)`.

Each point falls into a cell of the grid and a slot of the local clock. A person's cell in a slot is the one with the
most points; of equals, the one that was entered first. Of two points of a person with one time stamp the first in the
file counts. In the hour that a clock change repeats, both passes fall into the same slots.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ..model.spacetime import Calendar, Grid
from ..model.tables import shown
from .area import choose_grid, far_from_most, refuse_exchanged
from .calendars import iso, one_calendar, own_calendars, stray, stray_of_person
from .description import USERS, Description
from .errors import DataError
from .files import new_folder, open_aside
from .geography import Place, zone
from .points import NUMBER, BadRow, Points, table_points
from .times import DAY_US, Times, parse_times

RECORDS = "records.parquet"
OUTLIERS = ("refuse", "drop", "keep")
ALIGN = ("person",)
SHOWN = 3  # rows that an error or a remark names


class BadPoints(DataError):
    """Points that are refused: all of them stand in `rows`."""

    def __init__(self, text: str, rows: list[BadRow]):
        super().__init__(text)
        self.rows = rows


@dataclass(frozen=True)
class GpsCity:
    """A city made of points.

    Attributes:
        records: columns uid, d, t, x, y in this order, one row for each person and slot with a point.
        users: columns uid, user: which person got which number; of an aligned city also first_date, the date of the
            calendar's first day for this person, and holidays, if there are any, as days of it.
        description: name, grid, calendar and place, as written to `city.json`.
        counts: what became of the points.
        bad: the rows that were left out because something is wrong with them.
        said: what a person should know of how the points were taken.
    """

    records: pd.DataFrame
    users: pd.DataFrame
    description: Description
    counts: dict[str, int]
    bad: list[BadRow] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def write(self, folder: str | Path) -> Path:
        """Write records, users and `city.json` into a new folder, which `--data_path` then takes.

        Raises:
            FileExistsError: the folder is not empty.
        """
        with new_folder(Path(folder)) as aside:
            self.records.to_parquet(aside / RECORDS, index=False)
            self.users.to_csv(aside / USERS, index=False)
            self.description.write(aside)
        return Path(folder)


def write_bad_rows(rows: list[BadRow], path: str | Path) -> None:
    """Write the rows that were left out or refused: a csv file with the columns file, line, reason."""
    with open_aside(Path(path)) as file:
        writer = csv.writer(file)
        writer.writerow(["file", "line", "reason"])
        writer.writerows([row.file or "", row.line, row.reason] for row in rows)


def points_to_city(
    points: Any,
    *,
    timezone: str,
    name: str = "city",
    cell_km: float = 0.5,
    slot_minutes: int = 30,
    bounds: tuple[float, float, float, float] | None = None,
    grid_size: tuple[int, int] | None = None,
    like: Description | None = None,
    first_date: str | None = None,
    num_days: int | None = None,
    align: str | None = None,
    times_in: str | None = None,
    time_format: str | None = None,
    holidays: tuple[str, ...] = (),
    horizon_days: int = 15,
    skip_bad: bool = False,
    outliers: str = "refuse",
    columns: dict[str, str] | None = None,
) -> GpsCity:
    """Records of points.

    Args:
        points: from `read_points`, or any table (a DataFrame of pandas or polars, a `datasets.Dataset`, rows, ...)
            with columns as in `points.NAMES` (scikit-mobility's, trackintel's).
        timezone: IANA name of the zone whose clock gives days and slots.
        name: of the city.
        cell_km: side of a cell.
        slot_minutes: length of a slot; a day is a whole number of them.
        bounds: south, west, north, east of the grid in degrees; or
        grid_size: its width and height in cells, around the median point; or
        like: a city whose grid, place, slot length and number of days are taken over, so that its model fits.
            With none of the three the grid is fitted to where most points are; the others are counted and named.
        first_date: ISO date of the first day; by default that of the first point in the grid.
        num_days: by default up to the last point in the grid; of aligned people, so many days before the last of each.
        align: "person" gives each person a calendar of their own, shifted by whole weeks so that all end in one week.
        times_in: zone of times that do not say theirs; without it such times are refused.
        time_format: of times as text, as of `strptime`, where they are not in ISO 8601.
        holidays: ISO dates with the rhythm of a Sunday.
        horizon_days: the last so many days are to be predicted (a fifth of all days, if that is less).
        skip_bad: leave points without user, time or possible coordinates out, and count them.
        outliers: what becomes of times that are years away from all others: refuse, drop or keep them. Of aligned
            people they are always dropped, and named. In space nothing is refused: a fitted grid leaves out what
            would make it very large, and names it; drop leaves out all places far from where most points are.
        columns: what the columns user, latitude, longitude, time are called, where not as in `NAMES`.

    Raises:
        BadPoints: a DataError with all wrong rows, naming the first one and what to do.
        DataError: naming what cannot be, and what to do.
    """
    if slot_minutes < 1 or 1440 % slot_minutes:
        raise DataError(f"slot_minutes is {slot_minutes}; a day must be a whole number of slots")
    if sum(choice is not None for choice in (bounds, grid_size, like)) > 1:
        raise DataError("give at most one of bounds, grid_size and like: each says what the grid is")
    if align not in (None, *ALIGN) or outliers not in OUTLIERS:
        raise DataError(f"align is {align!r}, outliers {outliers!r}; they are one of {ALIGN} and one of {OUTLIERS}")
    if align is not None and first_date is not None:
        raise DataError("aligned people have first dates of their own: leave first_date out")
    zone(timezone)
    if not isinstance(points, Points):
        try:
            points = table_points(points, columns)
        except DataError:
            raise
        except ValueError as error:
            raise DataError(str(error)) from None
    if not len(points.table):
        raise DataError("there is no point")
    said = list(points.said)
    counts = {"points": len(points.table) + len(points.bad)}
    latitude, longitude, times, reasons = _checked(points, timezone, times_in, time_format)
    said += [times.said] if times.said else []
    bad = _refuse_bad(points, reasons, skip_bad)
    counts["bad"] = len(bad)
    good = np.ones(len(points.table), bool)
    good[list(reasons)] = False
    rows = np.flatnonzero(good)
    instant, local = _clocks(times, rows, timezone, times_in)
    person, users = _people(points.table["user"].iloc[rows])
    day = local // DAY_US

    # Times that are years away from all others.
    away = np.zeros(len(rows), bool)
    if align is not None:
        away = stray_of_person(person, day)
    elif outliers != "keep" and (first_date is None or num_days is None) and (like is None or first_date is None):
        away = stray(day)
    if away.any():
        stray_rows = points.bad_rows(
            {int(row): f"the date is {iso(d)}" for row, d in zip(rows[away], day[away], strict=True)}
        )
        text = f"{len(stray_rows):,} points are years away from most others: {_named(stray_rows)}"
        if align is None and outliers == "refuse":
            raise BadPoints(
                f"{text} (outliers drop leaves them out, keep takes them; or give first_date and num_days)", stray_rows
            )
        said.append(f"{text}; they are left out")
        bad += stray_rows
    counts["outliers in time"] = int(away.sum())

    order = np.lexsort((instant, person))
    order = order[~away[order]]
    twice = np.zeros(len(order), bool)
    twice[1:] = (np.diff(person[order]) == 0) & (np.diff(instant[order]) == 0)
    counts["same stamp"] = int(twice.sum())
    order = order[~twice]
    row, person, local, day = (values[order] for values in (rows, person, local, day))
    latitude, longitude = latitude[row], longitude[row]

    if bounds is None and like is None:
        refuse_exchanged(latitude, longitude, timezone)
    is_fitted = bounds is None and grid_size is None and like is None
    grid, middle = choose_grid(latitude, longitude, cell_km, bounds, grid_size, like, drop=outliers == "drop")
    place = Place(*middle, timezone, "1970-01-01")
    x, y = place.to_xy(latitude, longitude, grid)
    inside = (x >= 1) & (x <= grid.width) & (y >= 1) & (y <= grid.height)
    counts["outside the grid"] = int((~inside).sum())
    if not inside.any():
        x, y = place.to_xy(longitude, latitude, grid)
        exchanged = (x >= 1) & (x <= grid.width) & (y >= 1) & (y <= grid.height)
        hint = "; latitude and longitude look exchanged" if exchanged.mean() > 0.5 else ""
        raise DataError(f"none of the {len(inside):,} points lies in the grid{hint}")
    if is_fitted:
        remarks, left_out = _far_away(points, row, latitude, longitude, inside, grid)
        said += remarks
        bad += left_out

    slots = 1440 // slot_minutes if like is None else like.calendar.num_slots
    if num_days is None and like is not None:
        num_days = like.calendar.num_days
    if align is None:
        days = one_calendar(day[inside], len(users), slots, first_date, num_days, holidays)
    else:
        days = own_calendars(person[inside], day[inside], len(users), slots, num_days, holidays)
    calendar = days.calendar
    d = day - days.shift[person]
    kept = inside & (d >= 0) & (d < calendar.num_days)
    counts["outside the days"] = int((inside & ~kept).sum())
    if not kept.any():
        raise DataError(f"no point in the grid lies in the {calendar.num_days} days from {days.first_date} on")

    time = d[kept] * slots + local[kept] % DAY_US * slots // DAY_US
    person, time, cell = modal_cells(
        person[kept], time, grid.cell(x[kept], y[kept]), calendar.num_days * slots, grid.num_cells
    )
    cut_day = _cut_day(calendar, horizon_days)
    d, t = np.divmod(time, slots)
    x, y = grid.xy(cell)
    records = pd.DataFrame({"uid": users["uid"].to_numpy()[person], "d": d, "t": t, "x": x, "y": y})
    records.attrs["grid"] = {"width": grid.width, "height": grid.height, "cell_km": grid.cell_km}
    if align is not None:
        users["first_date"] = [iso(start) for start in days.shift]
        if days.holidays:
            users["holidays"] = [" ".join(map(str, own)) for own in days.holidays]
    with_records = np.unique(person)
    counts |= {"users": len(with_records), "users left out": len(users) - len(with_records), "records": len(records)}
    place = Place(*middle, timezone, days.first_date, align is not None)
    description = Description(name, RECORDS, grid, calendar, cut_day, place)
    users = users.iloc[with_records].reset_index(drop=True)
    return GpsCity(records, users, description, counts, bad, said)


def fixed_description(
    name: str,
    timezone: str,
    bounds: tuple[float, float, float, float],
    first_date: str,
    num_days: int,
    *,
    cell_km: float = 0.5,
    slot_minutes: int = 30,
    holidays: tuple[str, ...] = (),
    horizon_days: int = 15,
) -> Description:
    """The grid and the days that `points_to_city` takes if all of them are given, without a look at points."""
    if slot_minutes < 1 or 1440 % slot_minutes:
        raise DataError(f"slot_minutes is {slot_minutes}; a day must be a whole number of slots")
    nothing = np.zeros(0)
    grid, middle = choose_grid(nothing, nothing, cell_km, bounds, None, None)
    calendar = one_calendar(nothing, 0, 1440 // slot_minutes, first_date, num_days, holidays).calendar
    cut_day = _cut_day(calendar, horizon_days)
    return Description(name, ".", grid, calendar, cut_day, Place(*middle, timezone, first_date))


def _cut_day(calendar: Calendar, horizon_days: int) -> int:
    return calendar.num_days - max(1, min(horizon_days, calendar.num_days // 5))


def _named(rows: list[BadRow]) -> str:
    return "; ".join(map(str, rows[:SHOWN])) + ("; ..." if len(rows) > SHOWN else "")


def _far_away(points: Points, row, latitude, longitude, inside, grid: Grid) -> tuple[list[str], list[BadRow]]:
    """What to say of points that a fitted grid leaves out, or that make it large; those that it leaves out."""

    def rows(which: np.ndarray) -> list[BadRow]:
        reason = {int(row[i]): f"latitude {latitude[i]:g}, longitude {longitude[i]:g}" for i in np.flatnonzero(which)}
        return points.bad_rows(reason)

    if not inside.all():
        outside = rows(~inside)
        text = (
            f"{len(outside):,} points lie outside of the grid, which is fitted to where most points are, and are left"
        )
        return [f"{text} out: {_named(outside)}. bounds or grid_size choose another grid"], outside
    far = far_from_most(latitude, longitude)
    without, _ = choose_grid(latitude[~far], longitude[~far], grid.cell_km)
    if not far.any() or 2 * without.num_cells > grid.num_cells:
        return [], []
    text = f"{far.sum():,} points far from all others make the grid {grid.width} x {grid.height} cells in place of"
    text += f" {without.width} x {without.height}: {_named(rows(far))}. outliers drop leaves them out"
    return [text], []


def _checked(
    points: Points, timezone: str, times_in: str | None, time_format: str | None
) -> tuple[np.ndarray, np.ndarray, Times, dict[int, str]]:
    """Latitude and longitude [n], the times, and row -> what is wrong with it; each value is read by itself."""
    table = points.table
    reasons: dict[int, str] = {}
    for role in ("user", "time"):
        lost: np.ndarray = table[role].isna().to_numpy(bool)
        if not pd.api.types.is_numeric_dtype(table[role]) and not pd.api.types.is_datetime64_any_dtype(table[role]):
            words = table[role].astype("str")
            lost = lost | ((words == "") | words.str.isspace()).to_numpy(bool, na_value=False)
        reasons |= {int(row): "the user or the time is missing" for row in np.flatnonzero(lost)}
    times = parse_times(table["time"], time_format)
    latitude, longitude = (_degrees(table[role]) for role in ("latitude", "longitude"))
    for row in np.flatnonzero(~((np.abs(latitude) <= 90) & (np.abs(longitude) <= 180))):  # nan is wrong too
        number = int(row)
        text = points.wrong.get(number) or _no_place(table.iloc[number], latitude[number], longitude[number])
        reasons.setdefault(number, text)
    reasons = times.wrong | reasons
    if len(reasons) == len(table):
        bad = points.bad_rows(reasons)
        raise BadPoints(f"there is no point with a user, a time and possible coordinates, first {bad[0]}", bad)
    good = np.ones(len(table), bool)
    good[list(reasons)] = False
    if times_in is not None:
        zone(times_in)
    elif not times.aware[good].all():
        naive = int(np.argmax(good & ~times.aware))
        if times.aware[good].any():
            with_zone, without = points.where(int(np.argmax(good & times.aware))), points.where(naive)
            raise DataError(
                f"some times have a zone ({with_zone}) and some have none ({without}); times_in says which zone"
                " these are in"
            )
        stamp = pd.Timestamp(int(times.microseconds[naive]), unit="us")
        raise DataError(
            f"{points.where(naive)}: the time {stamp} has no zone; say in which zone the times are:"
            f" times_in UTC, or {timezone}"
        )
    return latitude, longitude, times, reasons


def _degrees(values: pd.Series) -> np.ndarray:
    """Degrees [n]; nan where a value is no number. Text may have a decimal comma."""
    if pd.api.types.is_bool_dtype(values):
        return np.full(len(values), np.nan)
    if pd.api.types.is_numeric_dtype(values):
        return values.to_numpy(float, na_value=np.nan)
    text = values.astype("str")
    try:
        return pa.array(text, pa.string()).cast(pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:
        pass  # some of them are no plain numbers
    plain = text.where(text.str.fullmatch(NUMBER).fillna(False).astype(bool))
    return pd.to_numeric(plain.str.strip().str.replace(",", ".", regex=False), errors="coerce").to_numpy(
        float, na_value=np.nan
    )


def _no_place(point: pd.Series, latitude: float, longitude: float) -> str:
    """Why the latitude and longitude of a point are none."""
    for role, number in (("latitude", latitude), ("longitude", longitude)):
        if np.isnan(number) and isinstance(point[role], str):
            return f"{role} is {shown(point[role])}, which is no number"
    text = f"latitude {latitude:g}, longitude {longitude:g} is no place on the earth"
    if abs(longitude) <= 90 < abs(latitude) <= 180:
        text += "; they look exchanged: check what the columns are called"
    return text


def _refuse_bad(points: Points, reasons: dict[int, str], skip_bad: bool) -> list[BadRow]:
    """All bad rows; BadPoints if there is one and none may be skipped."""
    if not reasons and not points.bad:
        return []
    rows = [*points.bad, *points.bad_rows(reasons)]
    rows.sort(key=lambda row: (row.file or "", row.line))
    if not skip_bad:
        raise BadPoints(f"{rows[0]} ({len(rows):,} such points in all; skip_bad leaves them out)", rows)
    return rows


def _clocks(times: Times, rows: np.ndarray, timezone: str, times_in: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Microseconds since 1970 [rows] of each point, of its instant and of the local clock."""
    number, aware = times.microseconds[rows], times.aware[rows]
    instant, local = number.copy(), number.copy()
    if aware.any():
        local[aware] = _convert(number[aware], lambda stamps: stamps.tz_localize("UTC").tz_convert(timezone))
    if not aware.all() and times_in != timezone:  # else the clock is what is asked for
        without = number[~aware]
        ambiguous: Any = np.ones(len(without), bool)

        def utc(stamps: pd.DatetimeIndex) -> pd.DatetimeIndex:
            zoned = stamps.tz_localize(times_in, ambiguous=ambiguous, nonexistent="shift_forward")
            return zoned.tz_convert("UTC")

        instant[~aware] = _convert(without, utc)
        local[~aware] = _convert(without, lambda stamps: utc(stamps).tz_convert(timezone))
    return instant, local


def _convert(microseconds: np.ndarray, change: Callable[[pd.DatetimeIndex], pd.DatetimeIndex]) -> np.ndarray:
    stamps = change(pd.DatetimeIndex(microseconds.astype("datetime64[us]"))).tz_localize(None)
    return stamps.to_numpy().astype("datetime64[us]").astype(np.int64)


def _people(user: pd.Series) -> tuple[np.ndarray, pd.DataFrame]:
    """The number [n] of each point's person, and a table uid, user: whole numbers stay, other names are numbered."""
    code, names = pd.factorize(user, sort=False)
    texts = np.array([str(name) for name in names], object)
    if all(text.isdecimal() and str(int(text)) == text and int(text) < 2**63 for text in texts):
        uid = np.array([int(text) for text in texts], np.int64)
    else:
        uid = np.empty(len(texts), np.int64)
        uid[np.argsort(texts.astype(str), kind="stable")] = np.arange(len(texts))
    order = np.argsort(uid)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[code], pd.DataFrame({"uid": uid[order], "user": texts[order]})


def modal_cells(person, time, cell, num_times, num_cells) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Person, time and most frequent cell of each (person, time), of equals the first; points are in time order."""
    group, of_point = np.unique(person * num_times + time, return_inverse=True)
    key = of_point * num_cells + cell
    order = np.argsort(key, kind="stable")
    start = np.flatnonzero(np.diff(key[order], prepend=-1))
    count = np.diff(np.append(start, len(key)))
    of_run, first = of_point[order[start]], order[start]
    best = np.lexsort((first, -count, of_run))
    best = best[np.flatnonzero(np.diff(of_run[best], prepend=-1))]
    person, time = np.divmod(group, num_times)
    return person, time, cell[first[best]]
