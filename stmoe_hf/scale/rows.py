"""Rows of people in Arrow: `uid` and lists of `day`, `slot`, `x`, `y`; what cannot be read is named with its reason.

A row may have a `user`, what the person is called elsewhere, which goes into the answer. x and y are 999, or missing,
where a cell is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ..data.city import City
from ..data.editions import Edition
from ..data.errors import DataError
from ..data.geography import Place
from ..model.records import find_masked
from ..model.spacetime import Calendar, Grid

RECORD_LISTS = ("day", "slot", "x", "y")
MADE_BY = "`stmoe partition` makes such rows of records or points in any order"


@dataclass(frozen=True)
class BadPerson:
    """A row that cannot be read: its number in the stream from 0, its uid (None if it has none), and the reason."""

    row: int
    uid: int | None
    reason: str

    def __str__(self) -> str:
        return f"row {self.row}, uid {self.uid}: {self.reason}"


Quarantine = Callable[[BadPerson], None]


def refuse(bad: BadPerson) -> None:
    """The quarantine of who has none: the first row that cannot be read raises DataError."""
    raise DataError(str(bad))


class Stream:
    """Counts the rows of a stream and sees to it that no person occurs twice in it."""

    def __init__(self, quarantine: Quarantine | None):
        self.rows, self.quarantine = 0, quarantine or refuse
        self._seen: set[int] = set()

    def people(self, batch: pa.RecordBatch, lists: Sequence[str]) -> Iterator[tuple[int, int, list[np.ndarray]]]:
        """(row of the batch, uid, values of each list) of the rows whose lists are there and of one length.

        Raises:
            DataError: a column is missing or of another type.
        """
        columns = [_lists(batch, name) for name in lists]
        uids = _uids(batch)
        for row in range(batch.num_rows):
            uid = uids[row].as_py()
            found = [None if gone[row] else values[first[row] : first[row + 1]] for first, values, gone in columns]
            if (reason := self._reason(uid, dict(zip(lists, found, strict=True)))) is not None:
                self.bad(row, uid, reason)
            else:
                self._seen.add(uid)
                yield row, uid, found  # type: ignore[misc]
        self.rows += batch.num_rows

    def bad(self, row: int, uid: int | None, reason: str) -> None:
        """A row of the batch that is being read cannot be taken."""
        self.quarantine(BadPerson(self.rows + row, uid, reason))

    def _reason(self, uid: int | None, found: dict[str, np.ndarray | None]) -> str | None:
        if uid is None or uid < 0:
            return "the uid is missing or negative"
        if uid in self._seen:
            return "the person was there before: a person is one row"
        if lost := [name for name, values in found.items() if values is None]:
            return f"{', '.join(lost)} is missing"
        lengths = {name: len(values) for name, values in found.items() if values is not None}
        if len(set(lengths.values())) > 1:
            return f"the lists are of different lengths: {lengths}"
        if not max(lengths.values()):
            return "there is no record"
        return None


def _uids(batch: pa.RecordBatch) -> pa.Array:
    if "uid" not in batch.schema.names or not pa.types.is_integer(batch.schema.field("uid").type):
        there = batch.schema.field("uid").type if "uid" in batch.schema.names else "missing"
        raise DataError(f"the column uid is {there}; it must be a whole number for each person: {MADE_BY}")
    return batch.column("uid")


def _lists(batch: pa.RecordBatch, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets [rows + 1], values, and which rows have none, of a column of lists."""
    if name not in batch.schema.names:
        raise DataError(f"the columns are {', '.join(batch.schema.names)}; there is no list {name}: {MADE_BY}")
    column, kind = batch.column(name), batch.schema.field(name).type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise DataError(f"the column {name} is {kind}; it must be a list, one row a person: {MADE_BY}")
    values = column.values
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.timestamp("us", values.type.tz)).cast(pa.int64())
    elif not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        raise DataError(f"the column {name} is {kind}; it must be a list of numbers, or of times")
    gone = pc.is_null(column).to_numpy(zero_copy_only=False)
    return column.offsets.to_numpy(), values.to_numpy(zero_copy_only=False), gone


def city_of_rows(
    batch: pa.RecordBatch, stream: Stream, grid: Grid, calendar: Calendar, place: Place | None = None
) -> City | None:
    """The people of a batch as a city in memory; None if no row of it can be read."""
    kept, uids, records = [], [], []
    for row, uid, found in stream.people(batch, RECORD_LISTS):
        person = _records(found, grid, calendar)
        if isinstance(person, str):
            stream.bad(row, uid, person)
            continue
        kept.append(row)
        uids.append(uid)
        records.append(person)
    if not kept:
        return None
    length = np.array([len(day) for day, _, _ in records])
    offsets = pa.array(np.append(0, np.cumsum(length)), pa.int32())
    day, slot, cell = (np.concatenate(parts) for parts in zip(*records, strict=True))
    masked = [int((cells == grid.mask_id).sum()) for _, _, cells in records]
    columns = {
        "uid": pa.array(uids, pa.int64()),
        "records": pa.array(length),
        "masked": pa.array(masked),
        "first_day": pa.array([days[0] for days, _, _ in records]),
        "last_day": pa.array([days[-1] for days, _, _ in records]),
        **{
            name: pa.ListArray.from_arrays(offsets, pa.array(values))
            for name, values in (("day", day), ("slot", slot), ("cell", cell))
        },
    }
    users = None
    if "user" in batch.schema.names:
        names = batch.column("user").take(pa.array(kept)).cast(pa.string())
        users = pd.DataFrame({"uid": uids, "user": names.to_pandas()})
    edition = Edition("own", calendar, calendar.last_day)
    return City("rows", edition, grid, calendar, datasets.Dataset(pa.table(columns)), [], place, users)


def _records(found: list[np.ndarray], grid: Grid, calendar: Calendar) -> list[np.ndarray] | str:
    """Day, slot and cell [T] of a person in order of time, or why there are none."""
    day, slot, x, y = found
    masked, half = find_masked(x, y, grid)
    outside = ~masked & ~((x >= 1) & (x <= grid.width) & (y >= 1) & (y <= grid.height))
    broken = ~masked & ((x != np.floor(x)) | (y != np.floor(y)))
    for wrong, values, text in (
        (~_between(day, calendar.first_day, calendar.last_day), day, f"{calendar.first_day}..{calendar.last_day}"),
        (~_between(slot, 0, calendar.num_slots - 1), slot, f"0..{calendar.num_slots - 1}"),
    ):
        if wrong.any():
            at = int(np.argmax(wrong))
            name = "day" if values is day else "slot"
            return f"record {at}: {name} {values[at]:g} is no whole number of {text}"
    for wrong, text in (
        (half, "is masked by half"),
        (broken, "is no cell"),
        (outside, f"lies outside the grid of {grid.width} x {grid.height}"),
    ):
        if wrong.any():
            at = int(np.argmax(wrong))
            return f"record {at}, day {day[at]:g}, slot {slot[at]:g}: cell ({x[at]:g}, {y[at]:g}) {text}"
    day, slot = day.astype(np.int64), slot.astype(np.int64)
    cell = np.where(masked, grid.mask_id, grid.cell(np.nan_to_num(x), np.nan_to_num(y))).astype(np.int64)
    order = np.lexsort((slot, day))
    day, slot, cell = day[order], slot[order], cell[order]
    twice = (np.diff(day) == 0) & (np.diff(slot) == 0)
    if twice.any():
        at = int(np.argmax(twice))
        return f"there are two records on day {day[at]}, slot {slot[at]}"
    return [day, slot, cell]


def _between(values: np.ndarray, low: int, high: int) -> np.ndarray:
    return (values >= low) & (values <= high) & (values == np.floor(values))
