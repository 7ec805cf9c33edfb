"""Times as people write them: ISO 8601, unix seconds to nanoseconds, Twitter's and Foursquare's, or a given format.

`parse_times(values)` reads each value for itself; what it cannot read it names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ..model.tables import shown
from .errors import DataError

SECOND_US, DAY_US = 1_000_000, 86_400_000_000
# A number of seconds since 1970 is this large from 1973 to 2286; milliseconds are a thousand times as many.
SECONDS = (1e8, 1e10)
UNITS = {"seconds": 1, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
# Besides ISO 8601: forms in which day and month cannot be taken for each other.
FORMATS = (
    "%a %b %d %H:%M:%S %z %Y",  # Twitter, Foursquare
    "%a, %d %b %Y %H:%M:%S %z",  # e-mail, HTTP
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%Y%m%d%H%M%S",
    "%d %b %Y %H:%M:%S",
    "%d-%b-%Y %H:%M:%S",
    "%b %d, %Y %H:%M:%S",
)
_CLOCK_AND_OFFSET = r"[T ][0-9][0-9].*(?:Z|[+-][0-9][0-9](?::?[0-9][0-9])?)$"
_UTC_NAME = r"\s*(?:UTC|GMT)$"
_NUMBER = r"-?[0-9]+(?:\.[0-9]*)?"
_DAY_MONTH = re.compile(r"\d{1,2}[/.]\d{1,2}[/.]\d{2,4}", re.ASCII)
YEARS = (1900, 2200)


@dataclass(frozen=True)
class Times:
    """Times [n]: microseconds since 1970-01-01, of the instant where `aware`, else of some clock.

    `wrong` maps the rows that could not be read to what is wrong with them; `said` tells how numbers were taken.
    """

    microseconds: np.ndarray
    aware: np.ndarray
    wrong: dict[int, str]
    said: str = ""


def parse_times(values: pd.Series, time_format: str | None = None) -> Times:
    """Times of a column of times, numbers or text.

    Args:
        values: [n]; numbers are unix times, whose unit their size tells.
        time_format: of text, as of `strptime`, where it is not ISO 8601.

    Raises:
        DataError: the numbers are no unix times, or `time_format` is none.
    """
    if pd.api.types.is_datetime64_any_dtype(values):
        return _stamps(pd.DatetimeIndex(values))
    if pd.api.types.is_bool_dtype(values):
        return _all_wrong(values)
    if time_format is None:
        if pd.api.types.is_numeric_dtype(values):
            return _unix(values.to_numpy(float, na_value=np.nan), values)
        text = _text(values)
        plain = _plainly(text)
        if plain is not None:
            return plain
        numeric = text.str.fullmatch(_NUMBER).to_numpy(bool, na_value=False)
        if numeric.mean() > 0.5 and not text[numeric].str.fullmatch(r"(?:19|20)[0-9]{6}(?:[0-9]{6})?").all():
            return _unix(pd.to_numeric(text.where(numeric), errors="coerce").to_numpy(float, na_value=np.nan), text)
        return _texts(text)
    text = _text(values)
    try:
        found = pd.to_datetime(text, format=time_format, errors="coerce", utc="%z" in time_format)
    except ValueError as error:
        raise DataError(f"time_format {time_format!r} cannot be used: {error}") from None
    if not pd.api.types.is_datetime64_any_dtype(found):
        raise DataError(f"time_format {time_format!r} reads no time")
    lost = found.isna().to_numpy()
    wrong = {
        int(row): f"the time {shown(text.iloc[row])} is not of the form {time_format}" for row in np.flatnonzero(lost)
    }
    return Times(_microseconds(pd.DatetimeIndex(found)), np.full(len(found), "%z" in time_format), wrong)


def _plainly(text: pd.Series) -> Times | None:
    """Times of text that is ISO 8601 throughout, all with a zone or none; None if it is not. It is the fastest way."""
    for zone in ("UTC", None):
        try:
            stamps = pa.array(text, pa.string()).cast(pa.timestamp("us", zone))
        except pa.ArrowInvalid:
            continue
        if not stamps.null_count:
            number = stamps.cast(pa.int64()).to_numpy()
            wrong: dict[int, str] = {}
            _refuse_years(number, np.zeros(len(number), bool), wrong)
            return Times(number, np.full(len(number), zone is not None), wrong)
    return None


def _text(values: pd.Series) -> pd.Series:
    if isinstance(values.dtype, pd.CategoricalDtype) or values.dtype == object:
        values = values.map(lambda value: value.isoformat() if hasattr(value, "isoformat") else value)
    return values.astype("str").str.strip()


def _all_wrong(values: pd.Series) -> Times:
    wrong = {row: f"the time {shown(value)} is no time" for row, value in enumerate(values)}
    return Times(np.zeros(len(values), np.int64), np.zeros(len(values), bool), wrong)


def _stamps(stamps: pd.DatetimeIndex) -> Times:
    aware = stamps.tz is not None
    if aware:
        stamps = stamps.tz_convert("UTC").tz_localize(None)
    number = _microseconds(stamps)
    wrong: dict[int, str] = {}
    _refuse_years(number, np.asarray(stamps.isna()), wrong)
    return Times(number, np.full(len(stamps), aware), wrong)


def _microseconds(stamps: pd.DatetimeIndex) -> np.ndarray:
    """Microseconds since 1970 of the instants, or of the clock where they have no zone; 0 where there is no time."""
    if stamps.tz is not None:
        stamps = stamps.tz_convert("UTC").tz_localize(None)
    number = stamps.to_numpy().astype("datetime64[us]").astype(np.int64)
    return np.where(stamps.isna(), 0, number)


def _refuse_years(number: np.ndarray, lost: np.ndarray, wrong: dict[int, str]) -> None:
    low, high = ((year - 1970) * 365.2425 * DAY_US for year in YEARS)
    for row in np.flatnonzero(~lost & ((number < low) | (number > high))):
        wrong[int(row)] = f"the time lies outside the years {YEARS[0]} to {YEARS[1]}"


def _unix(number: np.ndarray, values: pd.Series) -> Times:
    """Unix times: their median tells the unit of all."""
    there = np.isfinite(number)
    middle = float(np.median(number[there])) if there.any() else 0.0
    unit = next((name for name, size in UNITS.items() if SECONDS[0] <= middle / size < SECONDS[1]), None)
    if unit is None:
        raise DataError(
            f"the times are numbers such as {middle:g}, which are no unix times in seconds, milliseconds,"
            " microseconds or nanoseconds; turn them into times first, or give their time_format"
        )
    micro: np.ndarray
    exact = values if pd.api.types.is_integer_dtype(values) else None
    if exact is not None and unit in ("microseconds", "nanoseconds"):
        divisor = 1 if unit == "microseconds" else 1000
        micro = exact.fillna(0).to_numpy(np.int64) // divisor
    else:
        with np.errstate(invalid="ignore"):
            micro = np.nan_to_num(np.round(number * (SECOND_US / UNITS[unit])), posinf=0, neginf=0)
        far = np.abs(micro) >= 2**62
        micro = np.where(far, 0, micro).astype(np.int64)
        there &= ~far
    wrong = {int(row): f"the time {shown(values.iloc[row])} is no number" for row in np.flatnonzero(~there)}
    _refuse_years(micro, ~there, wrong)
    first = np.datetime64(int(micro[int(np.argmax(there))]), "us").astype("datetime64[s]")
    said = f"the times are numbers, taken for unix {unit} since 1970 in UTC (the first is {first})"
    return Times(micro, np.ones(len(number), bool), wrong, said)


def _texts(text: pd.Series) -> Times:
    """ISO 8601 first, for all at once; then the other forms, for what is left."""
    text = text.str.replace(_UTC_NAME, "Z", regex=True)
    aware = np.array(text.str.contains(_CLOCK_AND_OFFSET).to_numpy(bool, na_value=False))
    number = np.zeros(len(text), np.int64)
    left = np.ones(len(text), bool)
    for which, utc in ((aware, True), (~aware, False)):
        if which.any():
            number[which], left[which] = _try(text[which], "ISO8601", utc)
    forms = [*FORMATS, *(f"{form} %z" for form in FORMATS if "%z" not in form)]
    for form in forms:
        if not left.any():
            break
        rows = np.flatnonzero(left)
        found, lost = _try(text.iloc[rows], form, "%z" in form)
        number[rows] = np.where(lost, number[rows], found)
        aware[rows[~lost]] = "%z" in form
        left[rows] = lost
    wrong: dict[int, str] = {}
    for row in np.flatnonzero(left):
        value = text.iloc[row]
        hint = ""
        if isinstance(value, str) and _DAY_MONTH.match(value):
            hint = "; give the time_format, such as '%d/%m/%Y %H:%M': day and month cannot be told apart"
        wrong[int(row)] = f"the time {shown(value)} is no ISO 8601 time{hint}"
    _refuse_years(number, left, wrong)
    return Times(number, aware, wrong)


def _try(text: pd.Series, form: str, utc: bool) -> tuple[Any, Any]:
    """Microseconds, and which could not be read, of text in one form."""
    try:
        found = pd.to_datetime(text, format=form, errors="coerce", utc=utc)
    except (ValueError, OverflowError):
        return np.zeros(len(text), np.int64), np.ones(len(text), bool)
    if not pd.api.types.is_datetime64_any_dtype(found):
        return np.zeros(len(text), np.int64), np.ones(len(text), bool)
    return _microseconds(pd.DatetimeIndex(found)), found.isna().to_numpy()
