"""From GPS points to the records of a city with its own grid and calendar: `points_to_city(points, timezone=...)`.

Each point falls into a cell of the grid and a slot of the local clock. A person's cell in a slot is the one with the
most points; of equals, the one that was entered first. Of two points of a person with one time stamp the first in the
file counts. In the hour that a clock change repeats, both passes fall into the same slots.
"""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..model.spacetime import Calendar, Grid
from .description import USERS, Description
from .errors import DataError
from .files import new_folder
from .geography import FARTHEST_LATITUDE, Place, day_number, zone
from .points import Points, four_columns

RECORDS = "records.parquet"
MOST_CELLS = 1_000_000  # of a grid that is fitted to the data
_OFFSET = re.compile(r"(?:Z|UTC|[+-]\d\d:?\d\d)$")
_DAY_US = 86_400_000_000


@dataclass(frozen=True)
class GpsCity:
    """A city made of points.

    Attributes:
        records: columns uid, d, t, x, y in this order, one row for each person and slot with a point.
        users: columns uid, user: which person got which number.
        description: name, grid, calendar and place, as written to `city.json`.
        counts: what became of the points.
    """

    records: pd.DataFrame
    users: pd.DataFrame
    description: Description
    counts: dict[str, int]

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


def points_to_city(
    points: pd.DataFrame | Points,
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
    times_in: str | None = None,
    holidays: tuple[str, ...] = (),
    horizon_days: int = 15,
    skip_bad: bool = False,
    columns: dict[str, str] | None = None,
) -> GpsCity:
    """Records of points.

    Args:
        points: from `read_points`, or a DataFrame with columns as in `NAMES` (scikit-mobility's, trackintel's).
        timezone: IANA name of the zone whose clock gives days and slots.
        name: of the city.
        cell_km: side of a cell.
        slot_minutes: length of a slot; a day is a whole number of them.
        bounds: south, west, north, east of the grid in degrees; or
        grid_size: its width and height in cells, around the median point; or
        like: a city whose grid, place, slot length and number of days are taken over, so that its model fits.
            With none of the three the grid is fitted to the points.
        first_date: ISO date of the first day; by default that of the first point in the grid.
        num_days: by default up to the last point in the grid.
        times_in: zone of times that do not say theirs; without it such times are refused.
        holidays: ISO dates with the rhythm of a Sunday.
        horizon_days: the last so many days are to be predicted (a fifth of all days, if that is less).
        skip_bad: leave points without user, time or possible coordinates out, and count them.
        columns: what the columns user, latitude, longitude, time are called, where not as in `NAMES`.

    Raises:
        DataError: naming the first wrong point and what to do.
    """
    if 1440 % slot_minutes:
        raise DataError(f"slot_minutes is {slot_minutes}; a day must be a whole number of slots")
    if sum(choice is not None for choice in (bounds, grid_size, like)) > 1:
        raise DataError("give at most one of bounds, grid_size and like: each says what the grid is")
    zone(timezone)
    if not isinstance(points, Points):
        points = Points(four_columns(points, columns), [])
    counts = {"points": len(points.table)}
    rows = _good_rows(points, skip_bad)
    counts["bad"] = len(points.table) - len(rows)
    table = points.table.iloc[rows]
    instant, local = _times(points, table["time"], rows, timezone, times_in)
    person, users = _people(table["user"])
    latitude, longitude = (table[name].to_numpy(float) for name in ("latitude", "longitude"))

    order = np.lexsort((instant, person))
    twice = np.zeros(len(order), bool)
    twice[1:] = (np.diff(person[order]) == 0) & (np.diff(instant[order]) == 0)
    counts["same stamp"] = int(twice.sum())
    order = order[~twice]
    person, local, latitude, longitude = (values[order] for values in (person, local, latitude, longitude))

    grid, middle = _grid(latitude, longitude, cell_km, bounds, grid_size, like)
    place = Place(*middle, timezone, first_date or "1970-01-01")
    x, y = place.to_xy(latitude, longitude, grid)
    inside = (x >= 1) & (x <= grid.width) & (y >= 1) & (y <= grid.height)
    counts["outside the grid"] = int((~inside).sum())
    if not inside.any():
        x, y = place.to_xy(longitude, latitude, grid)
        exchanged = (x >= 1) & (x <= grid.width) & (y >= 1) & (y <= grid.height)
        hint = "; latitude and longitude look exchanged" if exchanged.mean() > 0.5 else ""
        raise DataError(f"none of the {len(inside):,} points lies in the grid{hint}")

    slots = 1440 // slot_minutes if like is None else like.calendar.num_slots
    day, within = np.divmod(local, _DAY_US)
    start = day[inside].min() if first_date is None else day_number(first_date)
    if num_days is None:
        num_days = int(day[inside].max() - start + 1) if like is None else like.calendar.num_days
    day -= start
    kept = inside & (day >= 0) & (day < num_days)
    counts["outside the days"] = int((inside & ~kept).sum())
    if not kept.any():
        raise DataError(f"no point in the grid lies in the {num_days} days from {first_date} on")
    if num_days < 2:
        raise DataError("all points are of one day; a history and a horizon need two")

    person, cell, time = person[kept], grid.cell(x[kept], y[kept]), day[kept] * slots + within[kept] * slots // _DAY_US
    person, time, cell = _modal_cells(person, time, cell, num_days * slots, grid.num_cells)
    date = datetime.date(1970, 1, 1) + datetime.timedelta(days=int(start))
    off = tuple(sorted(day_number(text) - int(start) for text in holidays))
    calendar = Calendar(0, num_days, slots, date.weekday(), tuple(d for d in off if 0 <= d < num_days))
    cut_day = num_days - max(1, min(horizon_days, num_days // 5))
    place = Place(*middle, timezone, date.isoformat())
    uid = users["uid"].to_numpy()[person]
    d, t = np.divmod(time, slots)
    x, y = grid.xy(cell)
    records = pd.DataFrame({"uid": uid, "d": d, "t": t, "x": x, "y": y})
    with_records = np.unique(person)
    counts |= {"users": len(with_records), "users left out": len(users) - len(with_records), "records": len(records)}
    description = Description(name, RECORDS, grid, calendar, cut_day, place)
    return GpsCity(records, users.iloc[with_records].reset_index(drop=True), description, counts)


def _good_rows(points: Points, skip_bad: bool) -> np.ndarray:
    """Rows of the points with a user, a time and possible coordinates; others are refused unless they are skipped."""
    table = points.table
    try:
        latitude, longitude = (table[name].to_numpy(float, na_value=np.nan) for name in ("latitude", "longitude"))
    except (ValueError, TypeError) as error:
        raise DataError(f"a latitude or longitude is no number: {error}") from None
    lost = table["user"].isna().to_numpy() | table["time"].isna().to_numpy()
    wrong = ~((np.abs(latitude) <= 90) & (np.abs(longitude) <= 180))  # nan is wrong too
    bad = lost | wrong
    if bad.any() and not skip_bad:
        row = int(np.argmax(bad))
        text = f"{points.where(row)}: "
        if lost[row]:
            text += "the user or the time is missing"
        else:
            text += f"latitude {latitude[row]:g}, longitude {longitude[row]:g} is no place on the earth"
            if abs(longitude[row]) <= 90 < abs(latitude[row]) <= 180:
                text += "; they look exchanged: check what the columns are called"
        raise DataError(f"{text} ({bad.sum():,} such points in all; skip_bad leaves them out)")
    if bad.all():
        raise DataError("there is no point with a user, a time and possible coordinates")
    return np.flatnonzero(~bad)


def _times(
    points: Points, time: pd.Series, rows: np.ndarray, timezone: str, times_in: str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Microseconds since 1970 of each point, of its instant and of the local clock."""
    if pd.api.types.is_numeric_dtype(time):
        raise DataError(
            "the times are numbers; turn them into times first, such as pd.to_datetime(time, unit='s', utc=True)"
        )
    if not pd.api.types.is_datetime64_any_dtype(time):
        text = time.astype(str)
        aware = text.str.contains(_OFFSET).to_numpy()
        if aware.any() and not aware.all():
            with_zone, without = (points.where(int(rows[np.argmax(which)])) for which in (aware, ~aware))
            raise DataError(f"some times have a zone ({with_zone}) and some have none ({without})")
        parsed = pd.to_datetime(text, format="ISO8601", utc=bool(aware.all()), errors="coerce")
        wrong = parsed.isna().to_numpy()
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(f"{points.where(int(rows[row]))}: the time {text.iloc[row]!r} is no ISO 8601 time")
        time = parsed
    stamps = pd.DatetimeIndex(time)
    if stamps.tz is None:
        if times_in is None:
            raise DataError(
                f"{points.where(int(rows[0]))}: the time {stamps[0]} has no zone; say in which zone the times are:"
                f" times_in UTC, or {timezone}"
            )
        zone(times_in)
        if times_in == timezone:  # the clock is what is asked for; in a repeated hour the instant cannot be told
            clock = _microseconds(stamps)
            return clock, clock
        ambiguous: Any = np.ones(len(stamps), bool)
        stamps = stamps.tz_localize(times_in, ambiguous=ambiguous, nonexistent="shift_forward")
    instant = _microseconds(stamps.tz_convert("UTC").tz_localize(None))
    return instant, _microseconds(stamps.tz_convert(timezone).tz_localize(None))


def _microseconds(stamps: pd.DatetimeIndex) -> np.ndarray:
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


def _grid(latitude, longitude, cell_km, bounds, grid_size, like) -> tuple[Grid, tuple[float, float]]:
    """The grid, and the latitude and longitude of its middle."""
    if like is not None:
        if like.place is None:
            raise DataError(f"city {like.name} does not say where it lies: its city.json has no place")
        return like.grid, (like.place.latitude, like.place.longitude)
    # Around the first point, so that points on both sides of the 180th meridian lie together.
    around = (longitude - longitude[0] + 180) % 360 - 180
    if grid_size is not None:
        return Grid(grid_size[0], grid_size[1], cell_km), _on_earth(
            np.median(latitude), longitude[0] + np.median(around)
        )
    if bounds is not None:
        south, west, north, east = bounds
        if not -90 <= south < north <= 90 or not -180 <= west <= 180 or not -180 <= east <= 180 or west == east:
            raise DataError(f"the bounds {bounds} are no south, west, north, east in degrees")
        east += 360 if east < west else 0
    else:
        south, north = latitude.min(), latitude.max()
        west, east = longitude[0] + around.min(), longitude[0] + around.max()
    middle = _on_earth((south + north) / 2, (west + east) / 2)
    place = Place(*middle, "UTC", "1970-01-01")
    km = [
        degrees * a_degree for degrees, a_degree in zip((east - west, north - south), place.km_a_degree, strict=True)
    ]
    # A point on the northern or eastern edge needs a cell too, unless the bounds are given.
    width, height = (max(1, int(np.ceil(k / cell_km - 1e-9)) if bounds else int(k / cell_km) + 1) for k in km)
    if width * height > MOST_CELLS:
        raise DataError(
            f"a grid over all points has {width:,} x {height:,} cells of {cell_km:g} km, more than {MOST_CELLS:,}:"
            " give its bounds or its size (points outside are left out and counted), or larger cells"
        )
    return Grid(width, height, cell_km), middle


def _on_earth(latitude: float, longitude: float) -> tuple[float, float]:
    if abs(latitude) > FARTHEST_LATITUDE:
        raise DataError(
            f"the middle of the grid is at latitude {latitude:g}; a grid so near to a pole is not possible"
        )
    return float(latitude), float((longitude + 180) % 360 - 180)


def _modal_cells(person, time, cell, num_times, num_cells) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
