"""From a csv file to checked records; what is wrong in it is named with its line."""

from __future__ import annotations

import csv
import gzip
import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from ..spacetime import Calendar, Grid
from .errors import DataError

COLUMNS = ("uid", "d", "t", "x", "y")
MASKED = 999
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Records:
    """Records of a file in the order uid, day, slot; `cell` is the grid's `mask_id` where asked for."""

    uid: np.ndarray
    day: np.ndarray
    slot: np.ndarray
    cell: np.ndarray


def read_records(path: str | Path, grid: Grid, calendar: Calendar) -> Records:
    """Read a file uid,d,t,x,y (csv or csv.gz) and check every record.

    Raises:
        DataError: naming file and line: wrong columns, no number, a value out of range, a half-masked cell, two
            records of a user in one slot, an unreadable or empty file.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    table = _table(path)
    if not table.num_rows:
        raise DataError(f"{path} holds no record")
    uid, d, t, x, y = (table.column(name).to_numpy() for name in COLUMNS)
    _check_ranges(path, grid, calendar, uid, d, t, x, y)
    cell = np.where(_masked(x, grid.width), grid.mask_id, grid.cell(x, y))
    time = (d - calendar.first_day) * calendar.num_slots + t
    order: np.ndarray | slice = slice(None)
    if not _in_order(uid, time):
        order = np.lexsort((time, uid))
        if (np.diff(uid) < 0).any() or (np.diff(time)[np.diff(uid) == 0] < 0).any():
            logger.warning("%s is not in the order uid, d, t; it was sorted", path)
        uid, time = uid[order], time[order]
        twice = np.flatnonzero((np.diff(uid) == 0) & (np.diff(time) == 0))
        if len(twice):
            lines = sorted(int(line) + 2 for line in np.asarray(order)[[twice[0], twice[0] + 1]])
            where = order[twice[0]]  # type: ignore[index]
            raise DataError(
                f"{path}, lines {lines[0]} and {lines[1]}: two records of uid {uid[twice[0]]} on day {d[where]},"
                f" slot {t[where]}. Keep one of them"
            )
    return Records(uid, d[order], t[order], cell[order])


def _table(path: Path) -> pa.Table:
    """The five columns as int64, whatever their order in the file."""
    options = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(COLUMNS, pa.int64()),
        include_columns=list(COLUMNS),
        null_values=[],
        strings_can_be_null=False,
    )
    try:
        with pa.OSFile(str(path)) as raw:
            stream = pa.CompressedInputStream(raw, "gzip") if path.suffix == ".gz" else raw
            return pa.csv.read_csv(stream, convert_options=options)
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty") from None
        _name_the_line(path)
        raise DataError(f"{path} cannot be read: {error}") from None


def _name_the_line(path: Path) -> None:
    """Read slowly what could not be read fast, and raise with the line that is wrong."""
    opened: Any = gzip.open(path) if path.suffix == ".gz" else open(path, "rb")  # noqa: SIM115
    with opened, io.TextIOWrapper(opened, encoding="utf-8-sig", newline="") as lines:
        try:
            rows = csv.reader(lines)
            header = next(rows, [])
            if [name.strip() for name in header] != header or set(COLUMNS) - set(header):
                raise DataError(f"{path}, line 1: the columns are {','.join(header)!r}; they must be uid,d,t,x,y")
            for row in rows:
                if row and len(row) != len(header):
                    text = ",".join(row)[:80]
                    raise DataError(
                        f"{path}, line {rows.line_num}: {len(row)} values in place of {len(header)}: {text!r}"
                    )
                for name, value in zip(header, row, strict=False):
                    if name in COLUMNS and not value.strip().lstrip("+-").isdigit():
                        raise DataError(f"{path}, line {rows.line_num}: {name} is {value!r}, which is no whole number")
        except (EOFError, gzip.BadGzipFile, OSError) as error:
            raise DataError(f"{path} is no whole gzip file: {error}") from None
        except UnicodeDecodeError:
            raise DataError(f"{path} is not a text file in UTF-8") from None


def _masked(values: np.ndarray, size: int) -> np.ndarray:
    """Where x or y is 999; on a grid of 999 cells and more that is a cell."""
    return values == MASKED if size < MASKED else np.zeros(len(values), bool)


def _check_ranges(path: Path, grid: Grid, calendar: Calendar, uid, d, t, x, y) -> None:
    masked_x, masked_y = _masked(x, grid.width), _masked(y, grid.height)

    def refuse(wrong: np.ndarray, text: str) -> None:
        if wrong.any():
            row = int(np.argmax(wrong))
            values = {"uid": uid[row], "d": d[row], "t": t[row], "x": x[row], "y": y[row]}
            raise DataError(f"{path}, line {row + 2}: " + text.format(**values))

    refuse(uid < 0, "uid is {uid}; it must not be negative")
    days = f"{calendar.first_day}..{calendar.last_day}"
    refuse((d < calendar.first_day) | (d > calendar.last_day), f"d is {{d}} (uid {{uid}}); the days are {days}")
    refuse((t < 0) | (t >= calendar.num_slots), f"t is {{t}} (uid {{uid}}); the slots are 0..{calendar.num_slots - 1}")
    refuse(masked_x != masked_y, "only one of x {x} and y {y} is masked (uid {uid}, day {d}, slot {t})")
    refuse(~masked_x & ((x < 1) | (x > grid.width)), f"x is {{x}} (uid {{uid}}); the grid has 1..{grid.width}")
    refuse(~masked_y & ((y < 1) | (y > grid.height)), f"y is {{y}} (uid {{uid}}); the grid has 1..{grid.height}")


def _in_order(uid: np.ndarray, time: np.ndarray) -> bool:
    step = np.diff(uid)
    return bool(((step > 0) | ((step == 0) & (np.diff(time) > 0))).all())
