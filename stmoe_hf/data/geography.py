"""Where a grid lies on the earth, and when its days were: between latitude, longitude, time and x, y, day, slot.

The projection is equirectangular about the middle of the grid, with the two radii of curvature of the WGS 84 ellipsoid
there: x goes east and y goes north, and a cell is a rectangle of latitude and longitude. East-west distances are exact
on the middle parallel; 50 km north or south of it they are off by 0.8 % at latitude 45.
"""

from __future__ import annotations

import datetime
import difflib
import math
import zoneinfo
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..model.spacetime import Calendar, Grid
from .errors import DataError

# The ellipsoid WGS 84: equatorial radius in km, square of the eccentricity.
EQUATOR_KM, ECCENTRICITY2 = 6378.137, 6.69437999014e-3
FARTHEST_LATITUDE = 85.0
RECORD_COLUMNS = ["uid", "d", "t", "x", "y"]


def zone(name: str) -> zoneinfo.ZoneInfo:
    """The time zone of this IANA name; DataError if there is none."""
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError, TypeError):
        known = sorted(zoneinfo.available_timezones())
        city = str(name).rpartition("/")[2].replace(" ", "_").lower()
        near = [other for other in known if city and other.rpartition("/")[2].lower() == city]
        near += difflib.get_close_matches(str(name), known, 3, 0.7)
        text = " or ".join(dict.fromkeys(near[:4])) or "Asia/Tokyo or UTC"
        raise DataError(f"there is no time zone {name!r}; give a name such as {text}") from None


def day_number(date: str) -> int:
    """Days from 1970-01-01 to an ISO date; DataError if it is none."""
    try:
        return (datetime.date.fromisoformat(date) - datetime.date(1970, 1, 1)).days
    except (ValueError, TypeError):
        raise DataError(f"{date!r} is no date such as 2026-02-01") from None


@dataclass(frozen=True)
class Place:
    """Where and when the middle of the grid and the first day are.

    Attributes:
        latitude, longitude: of the middle of the grid, degrees (WGS 84).
        timezone: IANA name of the zone whose clock gives days and slots.
        first_date: ISO date of the calendar's first day.
        aligned: each person has a calendar of their own, of which only the weekdays are the city's: the true first
            dates stand in `users.csv`.
    """

    latitude: float
    longitude: float
    timezone: str
    first_date: str
    aligned: bool = False

    def __post_init__(self) -> None:
        if not abs(self.latitude) <= FARTHEST_LATITUDE or not abs(self.longitude) <= 180:
            raise DataError(
                f"the middle of a grid cannot be at latitude {self.latitude}, longitude {self.longitude}: latitudes go"
                f" from {-FARTHEST_LATITUDE:g} to {FARTHEST_LATITUDE:g}, longitudes from -180 to 180"
            )
        zone(self.timezone)
        day_number(self.first_date)

    @property
    def km_a_degree(self) -> tuple[float, float]:
        """Kilometres of a degree of longitude and of latitude in the middle of the grid."""
        latitude = math.radians(self.latitude)
        bend = 1 - ECCENTRICITY2 * math.sin(latitude) ** 2
        east = EQUATOR_KM / math.sqrt(bend) * math.cos(latitude)
        north = EQUATOR_KM * (1 - ECCENTRICITY2) / bend**1.5
        return math.radians(east), math.radians(north)

    def to_km(self, latitude: Any, longitude: Any) -> tuple[np.ndarray, np.ndarray]:
        """Kilometres east and north of the middle of the grid."""
        east, north = self.km_a_degree
        around = (np.asarray(longitude, float) - self.longitude + 180) % 360 - 180
        return around * east, (np.asarray(latitude, float) - self.latitude) * north

    def to_xy(self, latitude: Any, longitude: Any, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """x and y (1-based) of the cells of points; outside 1..width or 1..height where a point lies outside."""
        east, north = self.to_km(latitude, longitude)
        x = np.floor(east / grid.cell_km + grid.width / 2).astype(np.int64) + 1
        y = np.floor(north / grid.cell_km + grid.height / 2).astype(np.int64) + 1
        return x, y

    def to_latlon(self, x: Any, y: Any, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """Latitude and longitude of the middles of cells; x - 0.5 and y - 0.5 give the south-western corner."""
        east, north = self.km_a_degree
        km_east = (np.asarray(x, float) - 0.5 - grid.width / 2) * grid.cell_km
        km_north = (np.asarray(y, float) - 0.5 - grid.height / 2) * grid.cell_km
        longitude = (self.longitude + km_east / east + 180) % 360 - 180
        return self.latitude + km_north / north, longitude

    def day_of(self, date: str, calendar: Calendar) -> int:
        """The number of the day of an ISO date; DataError where each person has dates of their own."""
        if self.aligned:
            raise DataError(f"each person of this city has a calendar of their own: {date} is no day of it")
        return day_number(date) - day_number(self.first_date) + calendar.first_day

    def clock(self, d: Any, t: Any, calendar: Calendar, first_date: Any = None) -> pd.DatetimeIndex:
        """Local time at which slots begin; where a clock change skips one, the time right after it.

        Args:
            d, t: [n] days and slots.
            calendar: of the city.
            first_date: [n] ISO dates of the first day of each record's person, of an aligned city.
        """
        if self.aligned and first_date is None:
            raise DataError(
                "each person of this city has a calendar of their own, whose first date is in users.csv: without it"
                " there are no dates"
            )
        seconds = (np.asarray(d) - calendar.first_day) * 86400 + np.asarray(t) * 86400 // calendar.num_slots
        own = first_date is not None and self.aligned
        start = np.asarray(first_date, "datetime64[s]") if own else np.datetime64(self.first_date, "s")
        local = pd.DatetimeIndex(start + seconds.astype("timedelta64[s]"))
        earlier = np.ones(len(local), bool)  # of the two times that a clock has when it is put back
        return local.tz_localize(self.timezone, ambiguous=earlier, nonexistent="shift_forward")


def locate(records: pd.DataFrame, place: Place, grid: Grid, calendar: Calendar) -> pd.DataFrame:
    """Records or predictions with columns latitude, longitude (of the middle of the cell) and time beside their own.

    Raises:
        DataError: a column is missing, or a cell is masked or lies outside the grid.
    """
    missing = [name for name in RECORD_COLUMNS if name not in records.columns]
    if missing:
        raise DataError(f"the records lack the columns {', '.join(missing)}")
    x, y = records["x"].to_numpy(), records["y"].to_numpy()
    outside = (x < 1) | (x > grid.width) | (y < 1) | (y > grid.height)
    if outside.any():
        row = int(np.argmax(outside))
        raise DataError(
            f"{outside.sum()} records lie outside the grid of {grid.width} x {grid.height} cells or are masked, first"
            f" uid {records['uid'].iloc[row]}: x {x[row]}, y {y[row]}"
        )
    latitude, longitude = place.to_latlon(x, y, grid)
    time = place.clock(records["d"], records["t"], calendar, records.get("first_date"))
    return records.assign(latitude=latitude, longitude=longitude, time=time)
