"""Points in, records out, one row a person: `time`, `latitude`, `longitude` -> `day`, `slot`, `x`, `y`.

The rules are those of `data.gps`: a person's cell in a slot is the one with the most points, of equals the one that
was entered first; of two points of a person with one time stamp the first counts. Grid and calendar are given, not
fitted, so what becomes of a person depends on nobody else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from ..data.errors import DataError
from ..data.geography import day_number
from ..data.gps import modal_cells
from ..data.times import DAY_US
from .batches import Job
from .rows import RECORD_LISTS, Stream

POINT_LISTS = ("time", "latitude", "longitude")


@dataclass(frozen=True)
class GpsJob(Job):
    """Records of points; `time` is microseconds since 1970 in UTC, or a timestamp of UTC.

    A person without a point in the grid and in the days cannot be read.
    """

    kind = "gps"
    lists = POINT_LISTS

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.place is None:
            raise DataError("points need a place: where the grid lies, and the date of its first day")

    def schema(self) -> pa.Schema:
        user = [("user", pa.string())] if self.with_user else []
        return pa.schema([("uid", pa.int64()), *user, *((name, pa.list_(pa.int32())) for name in RECORD_LISTS)])

    def answers(self, batch: pa.RecordBatch, stream: Stream) -> Iterator[pa.RecordBatch]:
        rows, people = [], []
        for row, uid, found in stream.people(batch, POINT_LISTS):
            time, latitude, longitude = found
            wrong = ~((np.abs(latitude) <= 90) & (np.abs(longitude) <= 180) & np.isfinite(time))
            if wrong.any():
                at = int(np.argmax(wrong))
                stream.bad(row, uid, f"point {at} has no time or no place: {latitude[at]:g}, {longitude[at]:g}")
                continue
            rows.append(row)
            people.append(found)
        if not rows:
            return
        person = np.repeat(np.arange(len(rows)), [len(time) for time, _, _ in people])
        time, latitude, longitude = (np.concatenate(parts) for parts in zip(*people, strict=True))
        person, day, slot, cell = self._records(person, time.astype(np.int64), latitude, longitude)
        counts = np.bincount(person, minlength=len(rows))
        for number in np.flatnonzero(counts == 0):
            row = rows[number]
            stream.bad(row, batch.column("uid")[row].as_py(), "no point lies in the grid and in the days")
        kept = pa.array(np.array(rows)[counts > 0])
        offsets = pa.array(np.append(0, np.cumsum(counts[counts > 0])).astype(np.int32))
        x, y = self.grid.xy(cell)
        lists = [pa.ListArray.from_arrays(offsets, pa.array(v.astype(np.int32))) for v in (day, slot, x, y)]
        named = [batch.column(name).take(kept) for name in (("uid", "user") if self.with_user else ("uid",))]
        columns = [column.cast(field.type) for column, field in zip(named, self.schema(), strict=False)]
        yield pa.record_batch([*columns, *lists], schema=self.schema())

    def _records(
        self, person: np.ndarray, time: np.ndarray, latitude: np.ndarray, longitude: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Person, day, slot and cell of the records of points [n], in this order."""
        place, calendar, grid = self.place, self.calendar, self.grid
        assert place is not None
        order = np.lexsort((time, person))
        person, time = person[order], time[order]
        first = (np.diff(person, prepend=-1) != 0) | (np.diff(time, prepend=time[:1] - 1) != 0)
        order, person, time = order[first], person[first], time[first]
        stamps = pd.DatetimeIndex(time.astype("datetime64[us]")).tz_localize("UTC").tz_convert(place.timezone)
        local = stamps.tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.int64)
        x, y = place.to_xy(latitude[order], longitude[order], grid)
        day = local // DAY_US - day_number(place.first_date)
        kept = (x >= 1) & (x <= grid.width) & (y >= 1) & (y <= grid.height) & (day >= 0) & (day < calendar.num_days)
        slot = local[kept] % DAY_US * calendar.num_slots // DAY_US
        when = day[kept] * calendar.num_slots + slot
        cell = grid.cell(x[kept], y[kept])
        person, when, cell = modal_cells(
            person[kept], when, cell, calendar.num_days * calendar.num_slots, grid.num_cells
        )
        day, slot = np.divmod(when, calendar.num_slots)
        return person, day + calendar.first_day, slot, cell
