"""From files to checked records, block by block; what is wrong in one is named with its line."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ..model.records import RECORD_COLUMNS, find_masked
from ..model.spacetime import Calendar, Grid
from .errors import DataError

SUFFIXES = (".csv.gz", ".csv", ".parquet")
BLOCK_BYTES = 8 << 20  # of text that is parsed at a time
PARQUET_ROWS = 1 << 19
_WHOLE = re.compile(r"-?[0-9]+")
LONGEST_LINE = 1 << 20  # characters; what is longer is no row of five numbers


@dataclass(frozen=True)
class Records:
    """Some checked records [n]; `cell` is the grid's `mask_id` where asked for.

    `first` is the number of the first of them in `path`, from 0; the others follow one by one.
    """

    path: Path
    first: int
    uid: np.ndarray
    day: np.ndarray
    slot: np.ndarray
    cell: np.ndarray

    def __len__(self) -> int:
        return len(self.uid)


def part_files(path: str | Path) -> list[Path]:
    """The files of a city: the file itself, or those of a folder of parts in the order of their names.

    Raises:
        FileNotFoundError: there is no such file or folder. DataError: a folder without parts.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"there is no file {path}")
    parts = sorted(part for part in path.iterdir() if part.name.endswith(SUFFIXES) and not part.name.startswith("."))
    if not parts:
        raise DataError(f"the folder {path} holds no part of a city ({', '.join(SUFFIXES)})")
    return parts


def stream_records(path: str | Path, grid: Grid, calendar: Calendar, progress: Any = None) -> Iterator[Records]:
    """Check the records uid,d,t,x,y of a csv, csv.gz or parquet file block by block, in the order of the file.

    Args:
        path: the file.
        grid, calendar: what the records are checked against.
        progress: called with the number of bytes read since the last call.

    Raises:
        DataError: naming file and line: wrong columns, no number, a value out of range, a half-masked cell, an
            unreadable or empty file.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    first = 0
    for table in _parquet(path, progress) if path.suffix == ".parquet" else _csv(path, progress):
        if not table.num_rows:
            continue
        columns = (table.column(name).to_numpy() for name in RECORD_COLUMNS)
        uid, d, t, x, y = (np.asarray(values, np.int64) for values in columns)
        _check_ranges(path, first, grid, calendar, uid, d, t, x, y)
        cell = grid.cell(x, y)
        cell[find_masked(x, y, grid)[0]] = grid.mask_id
        yield Records(path, first, uid, d, t, cell)
        first += len(uid)
    if not first:
        raise DataError(f"{path} holds no record")


def where(path: Path, record: int) -> str:
    """The place of a record of a file, by its number from 0: the line of a csv file, blank ones counted."""
    if path.suffix == ".parquet":
        return f"{path}, row {record + 1}"
    with _open(path) as lines:
        filled = (number for number, line in enumerate(lines, 1) if line.strip())
        return (
            f"{path}, line {next(itertools.islice(filled, record + 1, None), record + 2)}"  # the first is the header
        )


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else open(path, "rb")  # type: ignore[return-value]


def _parquet(path: Path, progress: Any) -> Iterator[pa.RecordBatch]:
    try:
        with pa.parquet.ParquetFile(path) as file:
            missing = [name for name in RECORD_COLUMNS if name not in file.schema_arrow.names]
            if missing:
                names = ",".join(file.schema_arrow.names)
                raise DataError(f"{path}: the columns are {names!r}; they must be uid,d,t,x,y")
            for name in RECORD_COLUMNS:
                if not pa.types.is_integer(file.schema_arrow.field(name).type):
                    kind = file.schema_arrow.field(name).type
                    raise DataError(f"{path}: column {name} is of type {kind}; it must be of whole numbers")
            rows = 0
            for batch in file.iter_batches(PARQUET_ROWS, columns=list(RECORD_COLUMNS)):
                for name in RECORD_COLUMNS:
                    if batch.column(name).null_count:
                        row = rows + 1 + int(np.argmax(batch.column(name).is_null().to_numpy(zero_copy_only=False)))
                        raise DataError(f"{path}, row {row}: {name} is missing")
                rows += batch.num_rows
                yield batch
                if progress:
                    progress(int(path.stat().st_size * batch.num_rows / file.metadata.num_rows))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _csv(path: Path, progress: Any) -> Iterator[pa.RecordBatch]:
    """The five columns as int64, whatever their order in the file."""
    options = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(RECORD_COLUMNS, pa.int64()),
        include_columns=list(RECORD_COLUMNS),
        null_values=[],
        strings_can_be_null=False,
    )
    read = pa.csv.ReadOptions(block_size=BLOCK_BYTES)
    try:
        with pa.OSFile(str(path)) as raw:
            stream = pa.CompressedInputStream(raw, "gzip") if path.suffix == ".gz" else raw
            before = 0
            for batch in pa.csv.open_csv(stream, read_options=read, convert_options=options):
                yield batch
                if progress and not raw.closed:
                    progress(raw.tell() - before)
                    before = raw.tell()
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty") from None
        _name_the_line(path)
        raise DataError(f"{path} cannot be read: {error}") from None


def _name_the_line(path: Path) -> None:
    """Read slowly what could not be read fast, and raise with the line that is wrong."""
    with _open(path) as opened, io.TextIOWrapper(opened, encoding="utf-8-sig", newline="") as lines:
        rows = csv.reader(_short_lines(path, lines))
        try:
            header = next(rows, [])
            if [name.strip() for name in header] != header or set(RECORD_COLUMNS) - set(header):
                raise DataError(f"{path}, line 1: the columns are {','.join(header)!r}; they must be uid,d,t,x,y")
            for row in rows:
                if row and len(row) != len(header):
                    text = ",".join(row)[:80]
                    raise DataError(
                        f"{path}, line {rows.line_num}: {len(row)} values in place of {len(header)}: {text!r}"
                    )
                for name, value in zip(header, row, strict=False):
                    if name in RECORD_COLUMNS and not _WHOLE.fullmatch(value.strip()):
                        raise DataError(f"{path}, line {rows.line_num}: {name} is {value!r}, which is no whole number")
                    if name in RECORD_COLUMNS and abs(int(value)) >= 2**63:
                        raise DataError(f"{path}, line {rows.line_num}: {name} is {value}, which is too large")
        except (EOFError, zlib.error, OSError) as error:
            raise DataError(f"{path} is no whole gzip file: {error}") from None
        except csv.Error as error:
            raise DataError(f"{path}, line {rows.line_num}: {error}") from None
        except UnicodeDecodeError:
            raise DataError(f"{path} is not a text file in UTF-8") from None


def _short_lines(path: Path, lines: io.TextIOWrapper) -> Iterator[str]:
    """The lines of a file, of which none may fill the memory."""
    number = 1
    while line := lines.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise DataError(f"{path}, line {number} is longer than {LONGEST_LINE:,} characters")
        yield line
        number += 1


def _check_ranges(path: Path, first: int, grid: Grid, calendar: Calendar, uid, d, t, x, y) -> None:
    masked, half = find_masked(x, y, grid)

    def refuse(wrong: np.ndarray, text: str) -> None:
        if wrong.any():
            row = int(np.argmax(wrong))
            values = {"uid": uid[row], "d": d[row], "t": t[row], "x": x[row], "y": y[row]}
            raise DataError(f"{where(path, first + row)}: " + text.format(**values))

    refuse(uid < 0, "uid is {uid}; it must not be negative")
    days = f"{calendar.first_day}..{calendar.last_day}"
    refuse((d < calendar.first_day) | (d > calendar.last_day), f"d is {{d}} (uid {{uid}}); the days are {days}")
    refuse((t < 0) | (t >= calendar.num_slots), f"t is {{t}} (uid {{uid}}); the slots are 0..{calendar.num_slots - 1}")
    refuse(half, "only one of x {x} and y {y} is masked (uid {uid}, day {d}, slot {t})")
    refuse(~masked & ((x < 1) | (x > grid.width)), f"x is {{x}} (uid {{uid}}); the grid has 1..{grid.width}")
    refuse(~masked & ((y < 1) | (y > grid.height)), f"y is {{y}} (uid {{uid}}); the grid has 1..{grid.height}")
