"""Which days some points are of: a calendar for all people, or one for each, and times that are out of it."""

from __future__ import annotations

import datetime
import itertools
from dataclasses import dataclass

import numpy as np

from ..model.spacetime import Calendar
from .errors import DataError
from .geography import day_number

GAP_DAYS = 365  # times that are farther apart than this are not of one time,
STRAY_DAYS = 730  # and are stray if they are so far from most of the times
STRAY_SHARE = 0.1  # and are fewer than this share of all
MOST_DAYS = 3653  # of a calendar that is fitted to the points


@dataclass(frozen=True)
class Days:
    """The calendar of a city, and where each person's days lie in it.

    Attributes:
        calendar: of the city.
        first_date: ISO date of its first day; of an aligned city, of the person who was seen last.
        shift: [people] what is taken from a day since 1970 to give the day of the calendar.
        holidays: [people] days of each person's holidays, of an aligned city; else none.
    """

    calendar: Calendar
    first_date: str
    shift: np.ndarray
    holidays: list[list[int]]


def stray(day: np.ndarray) -> np.ndarray:
    """Which days [n] are far from all others: a clock that was never set, or ran wild."""
    order = np.argsort(day, kind="stable")
    ordered = day[order]
    group = np.cumsum(np.diff(ordered, prepend=ordered[:1]) > GAP_DAYS)
    counts = np.bincount(group)
    main = int(counts.argmax())
    first, last = ordered[group == main][[0, -1]]
    away = np.maximum(first - ordered, ordered - last)
    few = counts[group] < STRAY_SHARE * len(day)
    found = np.zeros(len(day), bool)
    found[order] = few & (away > STRAY_DAYS)
    return found


def stray_of_person(person: np.ndarray, day: np.ndarray) -> np.ndarray:
    """`stray` among the days of each person."""
    found = np.zeros(len(day), bool)
    order = np.argsort(person, kind="stable")
    bounds = np.flatnonzero(np.diff(person[order], prepend=-1, append=-1))
    for start, end in itertools.pairwise(bounds.tolist()):
        found[order[start:end]] = stray(day[order[start:end]])
    return found


def one_calendar(
    day: np.ndarray, people: int, slots: int, first_date: str | None, num_days: int | None, holidays: tuple[str, ...]
) -> Days:
    """One calendar for all: from the first point's day, or a given one, to the last one's.

    Args:
        day: [n] days since 1970 of the points.
        people: how many there are.
        slots: of a day.
        first_date, num_days: of the calendar, where they are given.
        holidays: ISO dates.
    """
    start = int(day.min()) if first_date is None else day_number(first_date)
    if num_days is None:
        num_days = int(day.max() - start + 1)
        if num_days < 1:
            raise DataError(f"no point in the grid lies in the days from {first_date} on")
        if num_days > MOST_DAYS:
            raise DataError(
                f"the points span {num_days:,} days, from {iso(start)} to {iso(int(day.max()))}: give first_date and"
                " num_days, or a calendar to each person (align)"
            )
    date = iso(start)
    off = tuple(d for d in sorted(day_number(text) - start for text in holidays) if 0 <= d < num_days)
    return Days(_calendar(num_days, slots, start, off), date, np.full(people, start), [])


def own_calendars(
    person: np.ndarray, day: np.ndarray, people: int, slots: int, num_days: int | None, holidays: tuple[str, ...]
) -> Days:
    """A calendar for each person: shifted by whole weeks, so that the last days of all fall into the last week.

    Weekdays stay true. Arguments as of `one_calendar`, with the number of each point's person [n].
    """
    first, last = np.full(people, np.iinfo(np.int64).max), np.full(people, np.iinfo(np.int64).min)
    np.minimum.at(first, person, day)
    np.maximum.at(last, person, day)
    there = first <= last
    end = int(last[there].max())
    weeks = np.where(there, (end - last) // 7, 0)
    if num_days is None:
        num_days = int((end + 1 - (first + 7 * weeks))[there].max())
    start = end + 1 - num_days
    shift = start - 7 * weeks
    numbers = sorted(day_number(text) for text in holidays)
    own = [[number - int(s) for number in numbers if 0 <= number - s < num_days] for s in shift] if numbers else []
    return Days(_calendar(num_days, slots, start, ()), iso(start), shift, own)


def iso(day: int) -> str:
    """The ISO date of a day since 1970."""
    try:
        return (datetime.date(1970, 1, 1) + datetime.timedelta(days=int(day))).isoformat()
    except OverflowError:
        raise DataError(f"day {day:,} since 1970 is no date") from None


def _calendar(num_days: int, slots: int, start: int, holidays: tuple[int, ...]) -> Calendar:
    if num_days < 2:
        raise DataError("all points are of one day; a history and a horizon need two")
    return Calendar(0, num_days, slots, (start + 3) % 7, holidays)  # 1970-01-01 was a Thursday
