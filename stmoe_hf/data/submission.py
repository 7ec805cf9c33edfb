"""Submissions: reading a file of predicted records, and checking it as the organisers do."""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from ..model.records import KEY_COLUMNS, RECORD_COLUMNS, find_masked
from ..model.spacetime import Calendar, Grid
from .errors import DataError

KEYS = list(KEY_COLUMNS)


@dataclass(frozen=True)
class Problem:
    """One kind of mistake: its first line (None where a record is missing), what it is, and how often it occurs."""

    line: int | None
    text: str
    count: int

    def __str__(self) -> str:
        where = "" if self.line is None else f"line {self.line}: "
        return f"{where}{self.text}" + (f" ({self.count} in all)" if self.count > 1 else "")


def read_table(path: str | Path) -> pd.DataFrame:
    """The columns uid, d, t, x, y of a csv, csv.gz or parquet file, as they are.

    Raises:
        FileNotFoundError: there is no such file. DataError: it cannot be read, or lacks a column.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, encoding="utf-8-sig")
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    missing = [name for name in RECORD_COLUMNS if name not in table.columns]
    if missing:
        raise DataError(f"{path} has the columns {','.join(map(str, table.columns))}; it lacks {','.join(missing)}")
    return table[list(RECORD_COLUMNS)]


def validate_submission(path: str | Path, asked: pd.DataFrame, grid: Grid, calendar: Calendar) -> list[Problem]:
    """What is wrong with a submission: columns, numbers, ranges, users, and every asked-for slot exactly once.

    Args:
        path: csv or csv.gz.
        asked: columns uid, d, t of the records that are asked for.
        grid, calendar: of the city.

    Returns:
        The problems, one of each kind with its first line; none if the submission is right.

    Raises:
        FileNotFoundError: there is no such file. DataError: it is no text file or no whole gzip file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    table, lines, problems = _read_strictly(path)
    if table is None:
        return problems
    uid, d, t, x, y = (table[name].to_numpy() for name in RECORD_COLUMNS)

    def note(wrong: np.ndarray, text: str) -> None:
        rows = np.flatnonzero(wrong)
        if len(rows):
            row = int(rows[0])
            values = {name: int(table[name].iloc[row]) for name in RECORD_COLUMNS}
            problems.append(Problem(int(lines[row]), text.format(**values), len(rows)))

    asked_users = np.unique(asked["uid"])
    unknown = ~np.isin(uid, asked_users)
    days = f"{calendar.first_day}..{calendar.last_day}"
    wrong_day = (d < calendar.first_day) | (d > calendar.last_day)
    wrong_slot = (t < 0) | (t >= calendar.num_slots)
    masked, half = find_masked(x, y, grid)
    masked |= half
    note(unknown, "uid {uid} is not asked for")
    note(wrong_day, f"d is {{d}}; the days are {days}")
    note(wrong_slot, f"t is {{t}}; the slots are 0..{calendar.num_slots - 1}")
    note(masked, "x {x}, y {y} is masked: a cell is asked for")
    note(~masked & ((x < 1) | (x > grid.width)), f"x is {{x}}; the grid has 1..{grid.width}")
    note(~masked & ((y < 1) | (y > grid.height)), f"y is {{y}}; the grid has 1..{grid.height}")
    note(table.duplicated(KEYS).to_numpy(), "uid {uid}, day {d}, slot {t} was predicted before")
    both = table[KEYS].drop_duplicates().merge(asked[KEYS], how="outer", indicator="side")
    extra = pd.MultiIndex.from_frame(both.loc[both["side"] == "left_only", KEYS])
    in_range = ~(unknown | wrong_day | wrong_slot)
    if len(extra):
        note(
            pd.MultiIndex.from_frame(table[KEYS]).isin(extra) & in_range,
            "uid {uid}, day {d}, slot {t} is not asked for",
        )
    lost_users = np.setdiff1d(asked_users, uid)
    if len(lost_users):
        problems.append(Problem(None, f"uid {lost_users[0]} is missing", len(lost_users)))
    lost = both[(both["side"] == "right_only") & ~both["uid"].isin(lost_users)]
    if len(lost):
        first = lost.iloc[0]
        problems.append(
            Problem(None, f"uid {first['uid']}, day {first['d']}, slot {first['t']} is missing", len(lost))
        )
    return problems


def _read_strictly(path: Path) -> tuple[pd.DataFrame | None, np.ndarray, list[Problem]]:
    """The rows that can be read, their lines, and what is wrong with the others."""
    try:
        with pa.OSFile(str(path)) as raw:
            stream = pa.CompressedInputStream(raw, "gzip") if path.suffix == ".gz" else raw
            options = pa.csv.ConvertOptions(column_types=dict.fromkeys(RECORD_COLUMNS, pa.int64()), null_values=[])
            # An empty line would put all later ones under a wrong number: such a file is read line by line.
            parse = pa.csv.ParseOptions(ignore_empty_lines=False)
            table = pa.csv.read_csv(stream, parse_options=parse, convert_options=options)
        if tuple(table.column_names) == RECORD_COLUMNS and table.num_rows:
            return table.to_pandas(), np.arange(2, table.num_rows + 2), []
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError):
        pass  # read again line by line, to say which line
    opened: Any = gzip.open if path.suffix == ".gz" else open
    rows: list[list[int]] = []
    lines: list[int] = []
    found: dict[str, list[Any]] = {}  # kind of problem -> first line, text, count
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if tuple(header) != RECORD_COLUMNS:
                return None, np.empty(0), [Problem(1, f"the columns are {','.join(header)!r}, not uid,d,t,x,y", 1)]
            for row in reader:
                if not row:
                    continue
                if len(row) != len(RECORD_COLUMNS):
                    text = f"{len(row)} values in place of {len(RECORD_COLUMNS)}"
                    found.setdefault("columns", [reader.line_num, text, 0])[2] += 1
                    continue
                try:
                    rows.append([int(value) for value in row])
                    lines.append(reader.line_num)
                except ValueError:
                    name, value = next((n, v) for n, v in zip(RECORD_COLUMNS, row, strict=True) if not _is_integer(v))
                    text = f"{name} is {value!r}, which is no whole number"
                    found.setdefault("number", [reader.line_num, text, 0])[2] += 1
    except (EOFError, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is no whole gzip file: {error}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not a text file in UTF-8") from None
    problems = [Problem(line, text, count) for line, text, count in found.values()]
    if not rows:
        return None, np.empty(0), [*problems, Problem(None, "the file holds no record", 1)]
    return pd.DataFrame(rows, columns=list(RECORD_COLUMNS)), np.array(lines), problems


def _is_integer(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True
