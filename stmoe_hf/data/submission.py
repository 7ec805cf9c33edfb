"""Submissions: reading a file of predicted records, what a city asks for, and checking the one against the other."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..model.records import KEY_COLUMNS, RECORD_COLUMNS, find_masked
from ..model.spacetime import Calendar, Grid
from ..model.tables import find_columns, shown, to_table, whole
from .description import describe
from .editions import find_file, get_edition
from .errors import DataError
from .opening import is_parquet, read_header, rows_by_line
from .readers import no_whole, part_files, read_plainly, stream_blocks, stream_parts, stream_records

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
    """The records uid, d, t, x, y of a csv or parquet file, or of a folder of parts, as whole numbers.

    x and y are floats with nan where one is missing. Where a `city.json` lies beside the file, `attrs["grid"]` says
    what the records' grid is: width, height and cell_km.

    Raises:
        FileNotFoundError: there is no such file. DataError: naming file and line, it cannot be read, lacks a column or
            has a value that is no whole number.
    """
    blocks = list(stream_parts(part_files(path), stream_blocks))
    columns = {name: np.concatenate([block.values[name] for block in blocks]) for name in RECORD_COLUMNS}
    for name in ("x", "y"):
        missing = np.concatenate([getattr(block, f"empty_{name}") for block in blocks])
        if missing.any():
            columns[name] = np.where(missing, np.nan, columns[name])
    table = pd.DataFrame(columns)
    described = describe(path)
    if described is not None:
        table.attrs["grid"] = asdict(described[1].grid)
    return table


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
    for block in stream_parts(part_files(path), stream_records, grid, rules.calendar):
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


def _read_strictly(prediction: Any) -> tuple[pd.DataFrame | None, np.ndarray, list[Problem]]:
    """The rows that can be read, their lines, and what is wrong with the others.

    A file is read more strictly than one of records, since the organisers' own reader is strict: plain csv, perhaps
    gzip, with the five columns in their order, and whole numbers without a point. The lines of a table are those of
    the file that it would be.
    """
    if isinstance(prediction, str | os.PathLike):
        return _read_file(Path(prediction))
    try:
        table = to_table(prediction)
    except ValueError as error:
        raise DataError(str(error)) from None
    if tuple(table.columns) != RECORD_COLUMNS:
        written = ",".join(map(str, table.columns))
        return None, np.empty(0), [Problem(1, f"the columns are {shown(written)}, not uid,d,t,x,y", 1)]
    columns = {name: table[name] for name in RECORD_COLUMNS}
    return _whole_rows(columns, np.arange(2, len(table) + 2), [])


def _read_file(path: Path) -> tuple[pd.DataFrame | None, np.ndarray, list[Problem]]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if is_parquet(path):
        raise DataError(f"{path} is parquet; a submission is csv or csv.gz")
    header = read_header(path, lambda names: len(find_columns(names, RECORD_COLUMNS)))
    if tuple(header.names) != RECORD_COLUMNS or header.separator != ",":
        written = header.separator.join(header.names)
        return None, np.empty(0), [Problem(header.lines, f"the columns are {shown(written)}, not uid,d,t,x,y", 1)]
    plain = read_plainly(path, header)
    if plain is not None:
        return plain, np.arange(header.lines + 1, header.lines + 1 + len(plain)), []
    rows: list[list[str]] = []
    lines: list[int] = []
    others: list[tuple[int, int]] = []  # line and number of values
    for line, fields in rows_by_line(path, header):
        if len(fields) == len(RECORD_COLUMNS):
            rows.append(fields)
            lines.append(line)
        else:
            others.append((line, len(fields)))
    problems = []
    if others:
        line, count = others[0]
        problems.append(Problem(line, f"{count} values in place of {len(RECORD_COLUMNS)}", len(others)))
    columns = {name: pd.Series([row[i] for row in rows], dtype=object) for i, name in enumerate(RECORD_COLUMNS)}
    return _whole_rows(columns, np.array(lines), problems)


def _whole_rows(
    columns: dict[str, pd.Series], lines: np.ndarray, problems: list[Problem]
) -> tuple[pd.DataFrame | None, np.ndarray, list[Problem]]:
    """The rows of whole numbers, their lines, and the problems with those of the others: one of each kind."""
    good = np.ones(len(lines), bool)
    numbers: dict[str, np.ndarray] = {}
    found: dict[str, list[tuple[int, str, int]]] = {}  # kind of problem -> line, text, count of each column
    for name, values in columns.items():
        numbers[name], missing, wrong = whole(values)
        pointed = np.array([isinstance(value, str) and "." in value for value in values], bool) & ~wrong
        for kind, which in (("missing", missing), ("number", wrong), ("point", pointed)):
            if which.any():
                row = int(np.argmax(which))
                text = {"missing": "missing", "number": no_whole(values.iloc[row])}.get(
                    kind, f"{shown(values.iloc[row])}; a submission has whole numbers without a point"
                )
                found.setdefault(kind, []).append((int(lines[row]), f"{name} is {text}", int(which.sum())))
            good &= ~which
    for of_kind in found.values():
        line, text, _ = min(of_kind)
        problems.append(Problem(line, text, sum(count for _, _, count in of_kind)))
    if not good.any():
        return None, np.empty(0), [*problems, Problem(None, "the file holds no record", 1)]
    return pd.DataFrame({name: values[good] for name, values in numbers.items()}), lines[good], problems
