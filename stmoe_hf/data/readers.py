"""From files to checked records, block by block; what is wrong in one is named with its line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ..model.records import KEY_COLUMNS, RECORD_COLUMNS, find_masked
from ..model.spacetime import Calendar, Grid
from ..model.tables import find_columns, shown, whole
from .errors import DataError
from .opening import (
    LONGEST_LINE,
    TEXT_SUFFIXES,
    Header,
    is_parquet,
    lines_of,
    partition,
    parts_of_folder,
    read_header,
    rows_of,
    stream_text,
    told,
)

Part = TypeVar("Part")
SUFFIXES = (*TEXT_SUFFIXES, ".parquet")
BLOCK_BYTES = 8 << 20  # of text that is parsed at a time
PARQUET_ROWS = 1 << 19


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


@dataclass(frozen=True)
class Block:
    """Some rows [n] of a file as whole numbers, not checked against a grid: uid, d, t, x, y int64.

    `empty_x` and `empty_y` say where x or y is missing (they are 0 there); `first` is the number of the first row.
    """

    path: Path
    first: int
    values: dict[str, np.ndarray]
    empty_x: np.ndarray
    empty_y: np.ndarray

    def __len__(self) -> int:
        return len(self.empty_x)

    def xy(self) -> tuple[np.ndarray, np.ndarray]:
        """x and y; as floats with nan where one is missing."""
        columns = []
        for name, empty in (("x", self.empty_x), ("y", self.empty_y)):
            values = self.values[name]
            columns.append(np.where(empty, np.nan, values) if empty.any() else values)
        return columns[0], columns[1]


def part_files(path: str | Path) -> list[Path]:
    """The files of a city: the file itself, or those of a folder of parts in the order of their names.

    A folder may hold folders of the form key=value, as Spark and Hive write them; files of no bytes, and names that
    begin with a dot or an underscore, are left out.

    Raises:
        FileNotFoundError: there is no such file or folder. DataError: a folder without parts.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise FileNotFoundError(f"there is no file {path}")
    parts = parts_of_folder(path, SUFFIXES)
    if not parts:
        raise DataError(f"the folder {path} holds no part of a city (.csv, .csv.gz or .parquet)")
    return parts


def stream_parts(parts: list[Path], read: Callable[..., Iterator[Part]], *arguments: Any) -> Iterator[Part]:
    """What `stream_records` or `stream_blocks` gives of each part; of several, some may be empty, but not all."""
    found = False
    for part in parts:
        for block in read(part, *arguments, may_be_empty=len(parts) > 1):
            found = True
            yield block
    if not found:
        raise DataError(f"the folder {parts[0].parent} holds no record")


def stream_records(
    path: str | Path, grid: Grid, calendar: Calendar, progress: Any = None, may_be_empty: bool = False
) -> Iterator[Records]:
    """Check the records uid,d,t,x,y of a csv or parquet file block by block, in the order of the file.

    Args:
        path: the file.
        grid, calendar: what the records are checked against.
        progress: called with the number of bytes read since the last call.
        may_be_empty: a file without a record, as Spark writes among others, is no mistake.

    Raises:
        DataError: naming file and line: wrong columns, no number, a value out of range, a half-masked cell, an
            unreadable or empty file.
        FileNotFoundError: there is no such file.
    """
    for block in stream_blocks(path, progress, may_be_empty):
        uid, d, t = (block.values[name] for name in KEY_COLUMNS)
        x, y = block.xy()
        masked = _check_ranges(block, grid, calendar, x, y)
        cell = np.where(masked, grid.mask_id, grid.cell(block.values["x"], block.values["y"]))
        yield Records(block.path, block.first, uid, d, t, cell)


def stream_blocks(path: str | Path, progress: Any = None, may_be_empty: bool = False) -> Iterator[Block]:
    """The rows of a csv or parquet file block by block, of which only x and y may be missing.

    Text may be packed (gzip, bz2, xz, a zip archive of one file) and separated by commas, semicolons, tabs or bars;
    columns may stand in any order among others, their names in any case.

    Raises:
        DataError: naming file and line: wrong columns, a value that is no whole number, an unreadable or empty file.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    blocks = _parquet(path, progress) if is_parquet(path) else _csv(path, progress)
    first = 0
    for frame in blocks:
        if not len(frame):
            continue
        yield _block(path, first, frame)
        first += len(frame)
    if not first and not may_be_empty:
        raise DataError(f"{path} holds no record")


def where(path: Path, record: int) -> str:
    """The place of a record of a file, by its number from 0: the line of a csv file, blank ones counted."""
    if is_parquet(path):
        return f"{path}, row {record + 1}"
    lines = lines_of(path, [record], read_header(path).lines)
    return f"{path}, line {lines[0] if lines else record + 2}"


def _block(path: Path, first: int, frame: pd.DataFrame) -> Block:
    """Rows as whole numbers; DataError with the line of the first that has none."""
    values: dict[str, np.ndarray] = {}
    empty: dict[str, np.ndarray] = {}
    refused: list[tuple[int, int, str]] = []
    for order, name in enumerate(RECORD_COLUMNS):
        values[name], empty[name], wrong = whole(frame[name])
        if name in KEY_COLUMNS:
            wrong = wrong | empty[name]
        if wrong.any():
            row = int(np.argmax(wrong))
            text = "is missing" if empty[name][row] else f"is {no_whole(frame[name].iloc[row])}"
            refused.append((row, order, f"{name} {text}"))
    if refused:
        row, _, text = min(refused)
        raise DataError(f"{where(path, first + row)}: {text}")
    return Block(path, first, values, empty["x"], empty["y"])


def no_whole(value: Any) -> str:
    """A value and why it is no whole number."""
    text = str(value).strip()
    digits = text.removeprefix("-")
    if digits.isascii() and digits.isdecimal():
        return f"{text if len(text) <= 40 else shown(value)}, which is too large"
    return f"{shown(value)}, which is no whole number"


def _names(path: Path, found: list[str]) -> dict[str, str]:
    """What the five columns are called in a file; one that is missing may be told by a folder such as d=3."""
    names = find_columns(found, RECORD_COLUMNS)
    missing = [name for name in RECORD_COLUMNS if name not in names and name not in partition(path)]
    if missing:
        place = path if is_parquet(path) else f"{path}, line 1"
        text = ",".join(found)
        hint = "; the first line must name the columns" if all(name.lstrip("-").isdigit() for name in found) else ""
        raise DataError(
            f"{place}: the columns are {text[:200]!r}; they must be uid,d,t,x,y (it lacks {','.join(missing)}){hint}"
        )
    return names


def _with_partition(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """With the columns that the folders above a file tell."""
    for name, value in partition(path).items():
        if name in RECORD_COLUMNS and name not in frame:
            frame[name] = value
    return frame


def _parquet(path: Path, progress: Any) -> Iterator[pd.DataFrame]:
    with told(path), pa.parquet.ParquetFile(path) as file:
        names = _names(path, file.schema_arrow.names)
        for batch in file.iter_batches(PARQUET_ROWS, columns=list(names.values())):
            # A column at a time: whole numbers with missing ones must not become floats.
            columns = {name: _to_pandas(batch.column(found)) for name, found in names.items()}
            yield _with_partition(path, pd.DataFrame(columns))
            if progress:
                progress(int(path.stat().st_size * batch.num_rows / file.metadata.num_rows))


def _to_pandas(column: pa.Array) -> pd.Series:
    if pa.types.is_integer(column.type) and column.null_count:
        return pd.Series(column.to_pandas(integer_object_nulls=True), dtype="Int64")
    return column.to_pandas()


def _csv(path: Path, progress: Any) -> Iterator[pd.DataFrame]:
    """The five columns; as text in the blocks where not all of them are plain numbers."""
    header = read_header(path, lambda names: len(find_columns(names, RECORD_COLUMNS)))
    names = _names(path, header.names)
    for line, data, size in stream_text(path, header.lines, BLOCK_BYTES):
        table = _parse(data, header, names, pa.int64())
        if table is None:
            table = _parse(data, header, names, pa.string())
        if table is None:
            _name_the_line(path, header, line, data)
        else:
            yield _with_partition(path, table.to_pandas())
        if progress:
            progress(size)


def read_plainly(path: Path, header: Header) -> pd.DataFrame | None:
    """The five columns of a csv file of plain whole numbers without blank lines; None if it has anything else."""
    names = {name: name for name in RECORD_COLUMNS}
    tables = []
    for _, data, _ in stream_text(path, header.lines, BLOCK_BYTES):
        table = _parse(data, header, names, pa.int64(), blank=True)
        if table is None:
            return None
        tables.append(table.to_pandas())
    return pd.concat(tables, ignore_index=True) if tables else None


def _parse(
    data: bytes, header: Header, names: dict[str, str], kind: pa.DataType, blank: bool = False
) -> pa.Table | None:
    """The five columns of some lines, all of one type, under their names; None if they are not of this type.

    With `blank`, blank lines are rows. What Arrow would read as a hexadecimal number is no number here.
    """
    if kind != pa.string() and (b"0x" in data or b"0X" in data):
        return None
    columns = [f"column {i}" for i in range(len(header.names))]
    found = {name: columns[header.names.index(other)] for name, other in names.items()}
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(data),
            read_options=pa.csv.ReadOptions(
                column_names=columns, block_size=max(1 << 20, len(data) // 4 + LONGEST_LINE)
            ),
            parse_options=pa.csv.ParseOptions(delimiter=header.separator, ignore_empty_lines=not blank),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(found.values(), kind),
                include_columns=list(found.values()),
                null_values=[],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):  # blank lines only
            return pa.table({name: pa.array([], kind) for name in found})
        return None
    return table.rename_columns(list(found))


def _name_the_line(path: Path, header: Header, first: int, data: bytes) -> None:
    """Read slowly what could not be read fast, and raise with the line that is wrong."""
    for line, row in rows_of(path, header, first, data):
        if len(row) != len(header.names):
            text = shown(header.separator.join(row))
            raise DataError(f"{path}, line {line}: {len(row)} values in place of {len(header.names)}: {text}")
    raise DataError(f"{path}: what stands from line {first} on cannot be read as csv")


def _check_ranges(block: Block, grid: Grid, calendar: Calendar, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which records ask for their cell; DataError with the line of what lies outside the grid or calendar."""
    masked, half = find_masked(x, y, grid)
    uid, d, t = (block.values[name] for name in KEY_COLUMNS)

    def refuse(wrong: np.ndarray, text: str) -> None:
        if wrong.any():
            row = int(np.argmax(wrong))
            values = {name: int(column[row]) for name, column in block.values.items()}
            missing = {name: "missing" for name, e in (("x", block.empty_x), ("y", block.empty_y)) if e[row]}
            raise DataError(f"{where(block.path, block.first + row)}: " + text.format(**(values | missing)))

    refuse(uid < 0, "uid is {uid}; it must not be negative")
    days = f"{calendar.first_day}..{calendar.last_day}"
    refuse((d < calendar.first_day) | (d > calendar.last_day), f"d is {{d}} (uid {{uid}}); the days are {days}")
    refuse((t < 0) | (t >= calendar.num_slots), f"t is {{t}} (uid {{uid}}); the slots are 0..{calendar.num_slots - 1}")
    refuse(half, "only one of x {x} and y {y} is masked (uid {uid}, day {d}, slot {t})")
    hint = _exchanged(x[~masked], y[~masked], grid)
    refuse(~masked & ((x < 1) | (x > grid.width)), f"x is {{x}} (uid {{uid}}); the grid has 1..{grid.width}{hint}")
    refuse(~masked & ((y < 1) | (y > grid.height)), f"y is {{y}} (uid {{uid}}); the grid has 1..{grid.height}{hint}")
    return masked


def _exchanged(x: np.ndarray, y: np.ndarray, grid: Grid) -> str:
    """A hint where the cells would lie in the grid with x and y exchanged."""

    def inside(x: np.ndarray, y: np.ndarray) -> bool:
        return bool(((x >= 1) & (x <= grid.width) & (y >= 1) & (y <= grid.height)).all())

    return "; x and y look exchanged" if len(x) and not inside(x, y) and inside(y, x) else ""
