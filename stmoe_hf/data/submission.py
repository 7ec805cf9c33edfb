"""Submissions: reading a file of predicted records, and checking it as the organisers do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..model.records import KEY_COLUMNS, RECORD_COLUMNS, find_masked
from ..model.spacetime import Calendar, Grid
from ..model.tables import find_columns, shown, whole
from .description import describe
from .errors import DataError
from .opening import is_parquet, read_header, rows_by_line
from .readers import no_whole, part_files, read_plainly, stream_blocks

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
    blocks = [block for part in part_files(path) for block in stream_blocks(part)]
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
    if is_parquet(path):
        raise DataError(f"{path} is parquet; a submission is csv or csv.gz")
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
    """The rows that can be read, their lines, and what is wrong with the others.

    A submission is stricter than a file of records, since the organisers' own reader is: plain csv, perhaps gzip, with
    the five columns in their order, and whole numbers without a point.
    """
    header = read_header(path, lambda names: len(find_columns(names, RECORD_COLUMNS)))
    if tuple(header.names) != RECORD_COLUMNS or header.separator != ",":
        written = header.separator.join(header.names)
        return None, np.empty(0), [Problem(header.lines, f"the columns are {shown(written)}, not uid,d,t,x,y", 1)]
    plain = read_plainly(path, header)
    if plain is not None:
        return plain, np.arange(header.lines + 1, header.lines + 1 + len(plain)), []
    rows: list[list[str]] = []
    lines: list[int] = []
    found: dict[str, list[Any]] = {}  # kind of problem -> first line, text, count

    def note(kind: str, line: int, text: str, count: int = 1) -> None:
        first = found.setdefault(kind, [line, text, 0])
        first[2] += count
        if line < first[0]:
            first[:2] = line, text

    for line, fields in rows_by_line(path, header):
        if len(fields) == len(RECORD_COLUMNS):
            rows.append(fields)
            lines.append(line)
        else:
            note("columns", line, f"{len(fields)} values in place of {len(RECORD_COLUMNS)}")
    good = np.ones(len(rows), bool)
    numbers = {}
    for name, values in zip(RECORD_COLUMNS, zip(*rows, strict=True), strict=False):
        numbers[name], missing, wrong = whole(values)
        pointed = np.array(["." in value for value in values]) & ~wrong
        for kind, which in (("missing", missing), ("number", wrong), ("point", pointed)):
            if which.any():
                row = int(np.argmax(which))
                text = {"missing": "missing", "number": no_whole(values[row])}.get(
                    kind, f"{shown(values[row])}; a submission has whole numbers without a point"
                )
                note(kind, lines[row], f"{name} is {text}", int(which.sum()))
            good &= ~which
    problems = [Problem(line, text, count) for line, text, count in found.values()]
    if not good.any():
        return None, np.empty(0), [*problems, Problem(None, "the file holds no record", 1)]
    return pd.DataFrame({name: v[good] for name, v in numbers.items()}), np.array(lines)[good], problems
