"""Submissions: reading a file of predicted records, what a city asks for, and checking the one against the other."""

from __future__ import annotations

import csv
import gzip
import io
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from ..model.records import KEY_COLUMNS, RECORD_COLUMNS, find_masked
from ..model.spacetime import Calendar, Grid
from .description import describe
from .editions import find_file, get_edition
from .errors import DataError
from .readers import part_files, stream_records

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


@dataclass(frozen=True)
class AskedFor:
    """What a city asks for.

    Attributes:
        path: of its records.
        keys: columns uid, d, t of the records that are asked for.
        what: which these are, in words.
        grid, calendar: of the city.
    """

    path: Path
    keys: pd.DataFrame
    what: str
    grid: Grid
    calendar: Calendar


def find_asked_for(path: str | Path, city: str | None = None, edition: str | None = None) -> AskedFor:
    """The masked records of a city; if none is masked, all from the cut day on.

    Args:
        path: the city's file or folder.
        city, edition: which city's file in the folder, of which edition; not needed where there is a `city.json`.

    Raises:
        DataError: city or edition are not said or not known, or a record cannot be. FileNotFoundError: no such file.
    """
    path = Path(path)
    described = describe(path / city) if city is not None and (path / city).is_dir() else describe(path)
    if described is not None:
        path, rules, grid = described[0], described[1].as_edition(), described[1].grid
    elif city is None or edition is None:
        raise DataError(f"there is no city.json in or beside {path}: say the city and the edition")
    else:
        rules, grid = get_edition(edition), Grid()
        if city not in rules.files:
            raise DataError(f"edition {rules.name} has no city {city!r}; it has {', '.join(rules.files)}")
        if path.is_dir():
            path, _ = find_file(city, path, rules.name)
    masked, late = [], []
    for part in part_files(path):
        for block in stream_records(part, grid, rules.calendar):
            keys = pd.DataFrame({"uid": block.uid, "d": block.day, "t": block.slot})
            masked.append(keys[block.cell == grid.mask_id])
            late.append(keys[block.day >= rules.cut_day])
    asked, what = pd.concat(masked), "masked records"
    if not len(asked):
        asked, what = pd.concat(late), f"records from day {rules.cut_day} on, since none is masked"
    return AskedFor(path, asked, what, grid, rules.calendar)


def validate(
    prediction: str | Path | pd.DataFrame,
    *,
    city: str | None = None,
    data_dir: str | Path | None = None,
    data_path: str | Path | None = None,
    edition: str | None = None,
) -> list[Problem]:
    """What is wrong with predicted records, by the city that asks for them; an empty list if they are right.

    Args:
        prediction: csv or csv.gz, or a table of the columns uid, d, t, x, y.
        city, data_dir, data_path, edition: which city asks; data_dir with city and edition, or data_path.

    Raises:
        ValueError, OSError: as of `find_asked_for` and `validate_submission`.
    """
    if data_path is None and data_dir is None:
        raise ValueError("say which city asks for the records: city, data_dir and edition, or data_path")
    asked = find_asked_for(data_dir if data_path is None else data_path, city, edition)  # type: ignore[arg-type]
    return validate_submission(prediction, asked.keys, asked.grid, asked.calendar)


def validate_submission(
    prediction: str | Path | pd.DataFrame, asked: pd.DataFrame, grid: Grid, calendar: Calendar
) -> list[Problem]:
    """What is wrong with a submission: columns, numbers, ranges, users, and every asked-for slot exactly once.

    Args:
        prediction: csv or csv.gz; or a table, whose lines are those that it would have as a file.
        asked: columns uid, d, t of the records that are asked for.
        grid, calendar: of the city.

    Returns:
        The problems, one of each kind with its first line; none if the submission is right.

    Raises:
        FileNotFoundError: there is no such file. DataError: it is no text file or no whole gzip file.
    """
    table, lines, problems = _read_strictly(prediction)
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


def _read_strictly(prediction: str | Path | pd.DataFrame) -> tuple[pd.DataFrame | None, np.ndarray, list[Problem]]:
    """The rows that can be read, their lines, and what is wrong with the others."""
    if isinstance(prediction, pd.DataFrame):
        if tuple(prediction.columns) == RECORD_COLUMNS and len(prediction) and _all_integers(prediction):
            return prediction.reset_index(drop=True), np.arange(2, len(prediction) + 2), []
        return _read_lines(io.StringIO(prediction.to_csv(index=False, lineterminator="\n")))
    path = Path(prediction)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
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
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
            return _read_lines(file)
    except (EOFError, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is no whole gzip file: {error}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not a text file in UTF-8") from None


def _read_lines(file: IO[str]) -> tuple[pd.DataFrame | None, np.ndarray, list[Problem]]:
    """The same, line by line."""
    rows: list[list[int]] = []
    lines: list[int] = []
    found: dict[str, list[Any]] = {}  # kind of problem -> first line, text, count
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
    problems = [Problem(line, text, count) for line, text, count in found.values()]
    if not rows:
        return None, np.empty(0), [*problems, Problem(None, "the file holds no record", 1)]
    return pd.DataFrame(rows, columns=list(RECORD_COLUMNS)), np.array(lines), problems


def _all_integers(table: pd.DataFrame) -> bool:
    return all(pd.api.types.is_integer_dtype(kind) and not table[name].hasnans for name, kind in table.dtypes.items())


def _is_integer(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True
