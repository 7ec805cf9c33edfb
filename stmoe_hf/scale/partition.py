"""Records or points in any order -> parquet by person: `partition("points/", "people/")`, one row a person.

Each person goes into the file that a hash of their uid says, so nothing after it needs a shuffle. Memory holds one
block of the input and, at the end, one of the files; in between rows lie in a folder of this machine.

Whole numbers that name people stay their uid; of other names the uid is a hash of 62 bits, the same in every run and
on every machine, and the name is kept as `user`.
"""

from __future__ import annotations

import contextlib
import csv
import io
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from ..data.errors import DataError
from ..data.points import NAMES
from ..data.times import SECONDS, UNITS, parse_times
from ..model.records import RECORD_COLUMNS
from .folders import Folder, describe_as, description_of, locked
from .points import POINT_LISTS
from .rows import RECORD_LISTS
from .shards import QUARANTINE

BLOCK_BYTES = 32 << 20  # of text
BLOCK_ROWS = 1 << 19  # of parquet
FILE_BYTES = 96 << 20  # of the input, that one file of the output is made of if nothing is said
MOST_FILES = 1024  # at a time: of each a file is open
PEOPLE_A_GROUP = 1024
SUFFIXES = (".parquet", ".csv", ".csv.gz", ".csv.bz2", ".csv.xz")
BAD = f"{QUARANTINE}/rows.csv"
HASH_BITS = 62


@dataclass
class Counts:
    """What became of the rows."""

    rows: int = 0
    people: int = 0
    files: int = 0
    bad: list[tuple[str, int, str]] = field(default_factory=list)


def partition(
    source: str,
    output: str,
    *,
    files: int | None = None,
    columns: dict[str, str] | None = None,
    times_in: str | None = None,
    max_bad: int = 0,
    scratch: str | Path | None = None,
    progress: Callable[[int], Any] | None = None,
) -> Counts:
    """Write a folder of parquet files, one row a person.

    Args:
        source: path or URL of a file or folder of csv or parquet, with columns uid, d, t, x, y or user, latitude,
            longitude, time (or one of the names in `data.points.NAMES`).
        output: path or URL of a new folder.
        files: how many; by default one for every `FILE_BYTES` of the input.
        columns: what the columns of points are called, where not as in `NAMES`.
        times_in: zone of times that do not say theirs.
        max_bad: so many rows may be unreadable; they go to `_quarantine/rows.csv` with their reason.
        scratch: folder of this machine for rows in between, as large as the input unpacked; unset: a temporary one.
        progress: called with the number of rows that were read.

    Raises:
        DataError: with what is wrong, where, and what to do.
    """
    origin, parts, size = _inputs(source)
    count = min(max(1, -(-size // FILE_BYTES)), MOST_FILES) if files is None else files
    if not 1 <= count <= MOST_FILES:
        raise DataError(f"--files is {count}; it must be 1 to {MOST_FILES}")
    folder, counts = Folder(output), Counts()
    if any(name.endswith(".parquet") for name in folder.files()):
        raise DataError(f"{output} holds parquet files already: give a new folder")
    with locked(folder) as lock, tempfile.TemporaryDirectory(prefix="stmoe_hf-", dir=scratch) as between:
        folder.sweep()
        schema = None
        with contextlib.ExitStack() as stack:
            writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
            for name in parts:
                for table in _blocks(origin, name, columns, times_in, counts):
                    schema = table.schema if schema is None else schema
                    if table.schema != schema:
                        raise DataError(f"{name} is of another kind than {parts[0]}: records and points in one folder")
                    for number, rows in _dealt(table, count):
                        if number not in writers:
                            made = pa.ipc.new_stream(f"{between}/{number}", schema)
                            writers[number] = stack.enter_context(made)
                        writers[number].write_table(rows)
                    if progress is not None:
                        progress(table.num_rows)
                    if len(counts.bad) > max_bad:
                        break
        _write_bad(folder, counts, max_bad)
        for number in sorted(writers):
            with pa.memory_map(f"{between}/{number}") as file:
                people = _one_row_a_person(pa.ipc.open_stream(file).read_all())
                with folder.open_aside(f"part-{number:05d}.parquet", lock) as sink:
                    pq.write_table(people, sink, row_group_size=PEOPLE_A_GROUP, compression="zstd")
            Path(f"{between}/{number}").unlink()
            counts.people += people.num_rows
            counts.files += 1
        if (description := description_of(origin)) is not None:
            describe_as(folder, description)
    return counts


def _inputs(source: str) -> tuple[Folder, list[str], int]:
    """The folder, the names of its files, and their size in bytes."""
    folder = Folder(source)
    if folder.fs.isfile(folder.root):
        above, _, name = folder.url.rpartition("/")
        folder = Folder(above or ".")
        return folder, [name], int(folder.fs.size(folder.path(name)))
    found = {
        name: int(info["size"])
        for name, info in folder.files().items()
        if name.endswith(SUFFIXES) and not any(part.startswith((".", "_")) for part in name.split("/"))
    }
    if not found:
        raise DataError(f"{source} holds no file that ends in {', '.join(SUFFIXES)}")
    return folder, list(found), sum(found.values())


def _blocks(
    folder: Folder, name: str, columns: dict[str, str] | None, times_in: str | None, counts: Counts
) -> Iterator[pa.Table]:
    """The rows of a file as uid (and user) and columns of numbers, some at a time; bad ones are noted."""
    first = 0
    try:
        for table in _read(folder, name, counts):
            names = _names(table.schema.names, columns, name)
            wrong: dict[int, str] = {}
            found = {role: _numbers(table[column], role, wrong) for role, column in names.items() if role in NUMBERS}
            if "time" in names:
                found["time"] = _times(table[names["time"]], times_in, wrong, f"{name}, row {first}")
            uid, user = _uids(table[names["uid"]], wrong, named="time" in names)
            _refuse_no_place(found, wrong)
            good = np.ones(table.num_rows, bool)
            good[list(wrong)] = False
            counts.bad += [(name, first + row, reason) for row, reason in sorted(wrong.items())]
            first += table.num_rows
            counts.rows += int(good.sum())
            arrays = {"uid": pa.array(uid)} | ({} if user is None else {"user": user}) | found
            yield pa.table(arrays).filter(pa.array(good))
    except (pa.ArrowException, UnicodeDecodeError, EOFError) as error:
        raise DataError(f"{folder.url}/{name} cannot be read: {' '.join(str(error).split())[:300]}") from None


def _read(folder: Folder, name: str, counts: Counts) -> Iterator[pa.Table]:
    if name.endswith(".parquet"):
        with folder.fs.open(folder.path(name), "rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(BLOCK_ROWS):
                yield pa.Table.from_batches([batch])
        return

    def note(row: Any) -> str:
        counts.bad.append(
            (name, (row.number or 2) - 2, f"{row.actual_columns} values in place of {row.expected_columns}")
        )
        return "skip"

    with folder.fs.open(folder.path(name), "rb", compression="infer") as file:
        header = file.readline().decode("utf-8-sig").strip()
        separator = max(",;\t|", key=header.count)
        names = [column.strip().strip('"') for column in header.split(separator)]
        reader = pa.csv.open_csv(
            file,
            read_options=pa.csv.ReadOptions(column_names=names, block_size=BLOCK_BYTES),
            parse_options=pa.csv.ParseOptions(delimiter=separator, invalid_row_handler=note),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
        for batch in reader:
            yield pa.Table.from_batches([batch])


NUMBERS = ("day", "slot", "x", "y", "latitude", "longitude")


def _names(there: list[str], columns: dict[str, str] | None, file: str) -> dict[str, str]:
    """What uid and the other columns of records, or of points, are called in a file."""
    lower = {name.lower(): name for name in reversed(there)}
    if set(RECORD_COLUMNS) <= set(there):
        return dict(zip(("uid", *RECORD_LISTS), RECORD_COLUMNS, strict=True))
    given = columns or {}
    found = {
        "uid" if role == "user" else role: given.get(role) or next((lower[n] for n in known if n in lower), None)
        for role, known in NAMES.items()
    }
    if missing := [role for role, column in found.items() if column not in there]:
        raise DataError(
            f"{file} has the columns {', '.join(there)[:200]}: records are {', '.join(RECORD_COLUMNS)}; of points"
            f" there is none for {', '.join(missing)} (--{missing[0].replace('uid', 'user')}_column)"
        )
    return {role: str(column) for role, column in found.items()}


def _numbers(column: pa.ChunkedArray, role: str, wrong: dict[int, str]) -> pa.Array:
    """Numbers of a column: whole ones, of which x and y may be missing, or degrees."""
    whole = pa.int64() if role == "uid" else pa.int32()
    kind = pa.float64() if role in POINT_LISTS else whole
    try:
        values = column.cast(kind)
    except pa.ArrowInvalid:
        numbers = pd.to_numeric(column.to_pandas(), errors="coerce").to_numpy(float)
        lost = np.isnan(numbers) & ~pc.is_null(column).to_numpy()
        if kind == whole:
            lost |= (np.abs(numbers) > 2**31 - 1) | ((numbers != np.floor(numbers)) & ~np.isnan(numbers))
        for row in np.flatnonzero(lost):
            wrong.setdefault(int(row), f"{role} is {str(column[int(row)])[:40]!r}, which is no number of its kind")
        values = pa.array(np.where(lost, 0, numbers), kind, from_pandas=True)
    if role not in ("x", "y"):
        for row in np.flatnonzero(pc.is_null(values, nan_is_null=True).to_numpy(zero_copy_only=False)):
            wrong.setdefault(int(row), f"{role} is missing")
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _times(column: pa.ChunkedArray, times_in: str | None, wrong: dict[int, str], where: str) -> pa.Array:
    """Instants in UTC; numbers are unix times, each of the unit that its size tells."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        with contextlib.suppress(pa.ArrowInvalid):
            column = column.cast(pa.float64())
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        number = column.cast(pa.float64(), safe=False).to_numpy()
        micro = np.zeros(len(number))
        for size in UNITS.values():
            of_unit = (number >= SECONDS[0] * size) & (number < SECONDS[1] * size)
            micro[of_unit] = number[of_unit] * (1e6 / size)
        for row in np.flatnonzero(micro == 0):
            wrong.setdefault(int(row), f"the time {str(column[int(row)])[:40]} is no unix time")
        return pa.array(np.round(micro).astype(np.int64)).cast(pa.timestamp("us", "UTC"))
    times = parse_times(column.to_pandas())
    for place, reason in times.wrong.items():
        wrong.setdefault(place, reason)
    stamps = pa.array(times.microseconds).cast(pa.timestamp("us"))
    good = np.ones(len(stamps), bool)
    good[list(times.wrong)] = False
    if not times.aware[good].all():
        if times_in is None:
            raise DataError(f"{where}: times have no zone; say which (--times_in UTC, or the zone of the place)")
        zoned = pc.assume_timezone(stamps, times_in, ambiguous="earliest", nonexistent="latest")
        return pc.if_else(
            pa.array(times.aware), stamps.cast(pa.timestamp("us", "UTC")), zoned.cast(pa.timestamp("us", "UTC"))
        )
    return stamps.cast(pa.timestamp("us", "UTC"))


def _uids(column: pa.ChunkedArray, wrong: dict[int, str], named: bool) -> tuple[np.ndarray, pa.Array | None]:
    """A number [n] for each row's person; and what the person is called, if people may be `named` by text."""
    if not named:
        numbers = _numbers(column, "uid", wrong)
        column = pa.chunked_array([numbers])
    coded = column.combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks()
    code = coded.indices.fill_null(0).to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(pc.is_null(column).to_numpy()):
        wrong.setdefault(int(row), "the person is missing")
    names = coded.dictionary
    if pa.types.is_integer(names.type):
        numbers = names.to_numpy(zero_copy_only=False).astype(np.int64)
        if not len(numbers):
            return np.zeros(len(code), np.int64), None
        for row in np.flatnonzero(numbers[code] < 0):
            wrong.setdefault(int(row), "the uid is negative")
        return numbers[code], None
    text = np.array(names.cast(pa.string()).to_pylist(), object)
    if not len(text):
        return np.zeros(len(code), np.int64), None
    numbers = (pd.util.hash_array(text, categorize=False) >> np.uint64(64 - HASH_BITS)).astype(np.int64)
    plain = pc.match_substring_regex(names.cast(pa.string()), r"^(0|[1-9][0-9]{0,17})$").to_numpy(zero_copy_only=False)
    numbers[plain] = text[plain].astype(np.int64)
    return numbers[code], pa.array(text, pa.string()).take(pa.array(code))


def _refuse_no_place(found: dict[str, pa.Array], wrong: dict[int, str]) -> None:
    if "latitude" in found:
        latitude, longitude = (found[name].to_numpy(zero_copy_only=False) for name in ("latitude", "longitude"))
        for row in np.flatnonzero(~((np.abs(latitude) <= 90) & (np.abs(longitude) <= 180))):
            wrong.setdefault(
                int(row), f"latitude {latitude[row]:g}, longitude {longitude[row]:g} is no place on the earth"
            )


def _dealt(table: pa.Table, files: int) -> Iterator[tuple[int, pa.Table]]:
    """The rows of each file of the output; the rows of a file stay in their order."""
    number = file_of(table["uid"].to_numpy(), files)
    order = np.argsort(number, kind="stable")
    bounds = np.searchsorted(number[order], np.arange(files + 1))
    ordered = table.take(pa.array(order))
    for n in np.flatnonzero(np.diff(bounds)):
        yield int(n), ordered.slice(bounds[n], bounds[n + 1] - bounds[n])


def file_of(uid: np.ndarray, files: int) -> np.ndarray:
    """Into which of the files [n] people go: the mixing function of splitmix64 (Steele and others, 2014)."""
    with np.errstate(over="ignore"):
        mixed = uid.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return (mixed % np.uint64(files)).astype(np.int64)


def _one_row_a_person(table: pa.Table) -> pa.Table:
    """Rows of records or points -> rows of people with lists, by uid, each in order of time."""
    uid = table["uid"].to_numpy()
    if "time" in table.column_names:
        order = _by_person(uid, table["time"].cast(pa.int64()).to_numpy())
    else:
        day, slot = (table[name].to_numpy().astype(np.int64) for name in ("day", "slot"))
        order = _by_person(uid, (day << 32) + slot)
    table, uid = table.take(pa.array(order)), uid[order]
    starts = np.flatnonzero(np.diff(uid, prepend=uid[:1] - 1))
    offsets = pa.array(np.append(starts, len(uid)), pa.int32())
    first = pa.array(starts)
    arrays: dict[str, Any] = {"uid": table["uid"].take(first)}
    for name in table.column_names[1:]:
        values = table[name].combine_chunks()
        if name == "user":
            arrays[name] = values.take(first)
            if not values.equals(arrays[name].take(pa.array(np.repeat(np.arange(len(starts)), np.diff(offsets))))):
                raise DataError("two people have names with one hash: give them numbers")
        else:
            arrays[name] = pa.ListArray.from_arrays(offsets, values)
    return pa.table(arrays)


def _by_person(uid: np.ndarray, time: np.ndarray) -> np.ndarray:
    """The order [n] by person, then by time; rows alike in both stay in theirs."""
    person, people = pd.factorize(uid, sort=True)
    first, last = (int(time.min()), int(time.max())) if len(time) else (0, 0)
    if len(people) * (last - first + 1) < 2**63:  # one number for both is sorted twice as fast
        return np.argsort(person * (last - first + 1) + (time - first), kind="stable")
    return np.lexsort((time, person))


def _write_bad(folder: Folder, counts: Counts, max_bad: int) -> None:
    if not counts.bad:
        return
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["file", "row", "reason"])
    writer.writerows(counts.bad)
    with folder.open_aside(BAD) as file:
        file.write(text.getvalue().encode())
    if len(counts.bad) > max_bad:
        name, row, reason = counts.bad[0]
        raise DataError(
            f"{len(counts.bad)} rows cannot be read, more than --max_bad {max_bad}: first {name}, row {row}: {reason}."
            f" All that were found are in {folder.url}/{BAD}"
        )
