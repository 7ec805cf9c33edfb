"""GPS points of any source as four columns: user, latitude, longitude, time, whatever they are called there.

`read_points(path)` reads csv and parquet files and folders of them; other kinds of files are read by `tracks.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from ..model.tables import shown, to_table
from .errors import DataError
from .geometry import latitude_longitude
from .opening import (
    LONGEST_LINE,
    SEPARATORS,
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

# What a column may be called, here, in scikit-mobility, in trackintel and elsewhere; the first that is there is taken.
NAMES = {
    "user": ("uid", "user_id", "user", "userid", "user id"),
    "latitude": ("lat", "latitude"),
    "longitude": ("lng", "lon", "longitude", "long"),
    "time": ("datetime", "tracked_at", "timestamp", "time", "utctime", "utc time"),
}
GEOMETRIES = ("geom", "geometry", "wkt", "wkb_geometry")  # points, or their text POINT (longitude latitude)
NO_TEXT = "\ufffd"  # what stands for bytes that are no text
BLOCK_BYTES = 32 << 20
NUMBER = r"\s*[-+]?(?:[0-9]+(?:[.,][0-9]*)?|[.,][0-9]+)(?:[eE][-+]?[0-9]+)?\s*"


@dataclass(frozen=True)
class Source:
    """Where some points come from: their first row, the file, and what of it is no point.

    `header` lines come before the first row; `skipped` are the rows of the file that could not be read as rows, in
    rising order; `unit` is what a place in the file is called: a line, a row or a point.
    """

    first: int
    path: Path
    header: int = 1
    skipped: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    unit: str = "line"

    def places(self, rows: Any) -> list[int]:
        """The lines, rows or points (from 1) of rows of the file, from 0 and in rising order."""
        if self.unit == "line":
            return lines_of(self.path, list(map(int, rows)), self.header)
        return [int(row) + 1 for row in rows]

    def in_file(self, rows: np.ndarray) -> np.ndarray:
        """The rows of the file of points, by their numbers from this source's first."""
        before = self.skipped - np.arange(len(self.skipped))
        return rows + np.searchsorted(before, rows, side="right")


@dataclass(frozen=True)
class BadRow:
    """A row that is no point: its file and line (None if it comes from a table; then `line` is its row from 0)."""

    file: str | None
    line: int
    reason: str
    unit: str = "line"

    def __str__(self) -> str:
        return (
            f"row {self.line}: {self.reason}"
            if self.file is None
            else f"{self.file}, {self.unit} {self.line}: {self.reason}"
        )


@dataclass(frozen=True)
class Points:
    """Points [n]: `table` has the columns user, latitude, longitude, time, as they were read.

    Attributes:
        sources: of which file each point is; none if they come from a table.
        wrong: row -> what is wrong with its geometry.
        bad: rows of the files that could not be read as rows.
        said: what a person should know of how the files were read.
    """

    table: pd.DataFrame
    sources: list[Source] = field(default_factory=list)
    wrong: dict[int, str] = field(default_factory=dict)
    bad: list[BadRow] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def bad_rows(self, reasons: dict[int, str]) -> list[BadRow]:
        """Where points are, by their rows, each with what is wrong with it."""
        if not self.sources:
            return [BadRow(None, row, reasons[row]) for row in sorted(reasons)]
        rows = np.array(sorted(reasons), np.int64)
        found = []
        starts = np.array([source.first for source in self.sources])
        for number in np.unique(np.searchsorted(starts, rows, side="right") - 1):
            source = self.sources[number]
            until = starts[number + 1] if number + 1 < len(starts) else len(self.table)
            some = rows[(rows >= source.first) & (rows < until)]
            places = source.places(source.in_file(some - source.first))
            found += [
                BadRow(str(source.path), place, reasons[int(row)], source.unit)
                for row, place in zip(some, places, strict=True)
            ]
        return found

    def where(self, row: int) -> str:
        """File and line of a point; its row, from 0, if it does not come from a file."""
        return str(self.bad_rows({row: ""})[0]).removesuffix(": ")


def table_points(table: Any, columns: dict[str, str] | None = None) -> Points:
    """The points of any table that `tables.to_table` takes; columns as in `NAMES`, or as said."""
    found, wrong = four_columns(to_table(table, None), columns)
    return Points(found, wrong=wrong)


def read_points(
    path: str | Path, columns: dict[str, str] | None = None, header: Sequence[str] | None = None
) -> Points:
    """The points of a file, or of a folder of files.

    Args:
        path: csv (also packed, or separated by tabs or semicolons), parquet and GeoParquet; GPX, Google's Timeline in
            JSON; GeoPackage and others with geopandas; a GeoLife folder of .plt files.
        columns: what the columns user, latitude, longitude, time are called, where not as in `NAMES`.
        header: the names of the columns of text files that have no header, in their order.

    Raises:
        DataError: naming the file that cannot be read, or the columns that it lacks. FileNotFoundError.
    """
    from . import tracks  # which stands on this module

    path = Path(path)
    suffixes = (*TEXT_SUFFIXES, ".parquet", ".geoparquet", *tracks.READERS)
    if path.is_dir():
        files = sorted(path.rglob("*.plt")) or parts_of_folder(path, suffixes)
        if not files:
            raise DataError(f"the folder {path} holds no points (.csv, .csv.gz, .parquet, .plt, .gpx and others)")
    elif path.is_file():
        files = [path]
    else:
        raise FileNotFoundError(f"there is no file or folder {path}")
    tables: list[pd.DataFrame] = []
    sources: list[Source] = []
    wrong: dict[int, str] = {}
    bad: list[BadRow] = []
    said: dict[str, None] = {}
    rows = 0
    for file in files:
        try:
            if file.suffix.lower() in tracks.READERS:
                part = tracks.READERS[file.suffix.lower()](file, columns)
            elif is_parquet(file):
                part = _read_parquet(file, columns)
            else:
                part = _read_text(file, columns, header)
        except (pa.ArrowException, UnicodeDecodeError) as error:
            raise DataError(f"{file} cannot be read: {error}") from None
        (source,) = part.sources
        sources.append(Source(rows, file, source.header, source.skipped, source.unit))
        wrong |= {rows + row: text for row, text in part.wrong.items()}
        bad += part.bad
        said |= dict.fromkeys(part.said)
        tables.append(part.table)
        rows += len(part.table)
    if not rows:
        raise DataError(f"{path} holds no point" + (f" (first {bad[0]})" if bad else ""))
    return Points(pd.concat([t for t in tables if len(t)], ignore_index=True), sources, wrong, bad, list(said))


def _read_parquet(file: Path, columns: dict[str, str] | None) -> Points:
    with told(file):
        schema = pa.parquet.read_schema(file)
        wanted = [name for name in _wanted(schema.names, columns).values() if name is not None]
        about = json.loads((schema.metadata or {}).get(b"geo", b"{}"))
        for name, column in about.get("columns", {}).items():
            if name in wanted and _is_projected(column.get("crs")):
                from .tracks import read_geometries

                return read_geometries(file, columns)
        table = pa.parquet.read_table(file, columns=wanted).to_pandas()
    found, wrong = _four_columns_of(file, table, columns)
    return Points(found, [Source(0, file, unit="row")], wrong)


def _is_projected(crs: Any) -> bool:
    """Whether the coordinates of GeoParquet are other than longitude and latitude."""
    code = str((crs or {}).get("id", {}).get("code", "CRS84")) if isinstance(crs, dict) or not crs else str(crs)
    return code not in ("4326", "CRS84", "4979", "EPSG:4326", "OGC:CRS84")


def _read_text(file: Path, columns: dict[str, str] | None, names: Sequence[str] | None) -> Points:
    if names is None:
        header = read_header(file, lambda found: sum(name is not None for name in _wanted(found, columns).values()))
        wanted = _wanted(header.names, columns)
        if not any(wanted.values()):
            _refuse_no_header(file, header)
    else:
        header = _given_header(file, names)
        wanted = _wanted(header.names, columns)
    include = list(dict.fromkeys(name for name in wanted.values() if name is not None))
    table, skipped, bad = read_rows(file, header, include)
    found, wrong = _four_columns_of(file, table, columns)
    return Points(found, [Source(0, file, header.lines, skipped)], wrong, bad)


def _refuse_no_header(file: Path, header: Header) -> None:
    """Of a file whose first line names no column that is known: is it a row already?"""
    numbers = pd.Series(header.names, dtype="str").str.fullmatch(NUMBER).to_numpy(bool, na_value=False)
    if numbers.sum() >= 2:
        text = shown(header.separator.join(header.names))
        raise DataError(
            f"{file}, line {header.lines}: the file has no header: {text}. Name its {len(header.names)} columns by"
            " position, with - for the others, such as uid,lat,lng,-,datetime (--columns, or header=)"
        )


def _given_header(file: Path, names: Sequence[str]) -> Header:
    """The header of a file that has none: the separator is the one that gives as many columns as names."""
    first = read_header(file)
    names = [f"column {i}" if name in ("-", "") else name for i, name in enumerate(names)]
    counts = {}
    for separator in SEPARATORS:
        for _, row in rows_of(file, Header([], separator, 0), 1, _first_line(file)):
            counts[separator] = len(row)
    for separator, count in counts.items():
        if count == len(names):
            return Header(names, separator, first.lines - 1)
    raise DataError(f"{file}, line 1 has {max(counts.values(), default=0)} columns; {len(names)} are named")


def _first_line(file: Path) -> bytes:
    for _, data, _ in stream_text(file, 0, 1 << 16):
        line = data.lstrip(b"\r\n").splitlines()
        if line:
            return line[0].decode("utf-8", "replace").encode()
    return b""


def read_rows(file: Path, header: Header, include: list[str]) -> tuple[pd.DataFrame, np.ndarray, list[BadRow]]:
    """Some columns of a csv file as text; its rows that have too few or too many fields, and where they stand."""
    tables, skipped, bad = [], [], []
    rows = 0
    names = _unique(header.names)
    for line, data, _ in stream_text(file, header.lines, BLOCK_BYTES):
        short: list[tuple[int, int, str]] = []
        table = _parse(file, data, names, header.separator, include, short)
        if short:
            places = {number: place for number, (place, _) in enumerate(rows_with_lines(data, line), 1)}
            for number, count, text in short:
                reason = f"{count} values in place of {len(names)}: {shown(text)}"
                bad.append(BadRow(str(file), places.get(number, line), reason))
                skipped.append(rows + number - 1)
        rows += table.num_rows + len(short)
        tables.append(table)
    if not tables:
        return pd.DataFrame({name: pd.Series(dtype="str") for name in include}), np.zeros(0, np.int64), []
    return pa.concat_tables(tables).to_pandas(), np.array(skipped, np.int64), bad


def rows_with_lines(data: bytes, first: int) -> list[tuple[int, bytes]]:
    return [(number, line) for number, line in enumerate(data.splitlines(), first) if line]


def _unique(names: list[str]) -> list[str]:
    """Names of which none occurs twice: the first of equal ones keeps its name."""
    return [name if names.index(name) == i else f"{name} (column {i + 1})" for i, name in enumerate(names)]


def _parse(
    file: Path, data: bytes, names: list[str], separator: str, include: list[str], short: list[tuple[int, int, str]]
) -> pa.Table:
    """Columns of some lines as text; in `short` number (from 1), fields and text of the rows that are none."""

    def note(row: Any) -> str:
        short.append((row.number, row.actual_columns, row.text))
        return "skip"

    def read(strict: bool) -> pa.Table:
        # Arrow can only tell of lines that are text; what is none becomes the sign that stands for it.
        text = data if strict else data.decode("utf-8", "replace").encode()
        size = len(text) // 4 + LONGEST_LINE if strict else len(text) + 1
        return pa.csv.read_csv(
            pa.BufferReader(text),
            read_options=pa.csv.ReadOptions(column_names=names, block_size=size, use_threads=strict),
            parse_options=pa.csv.ParseOptions(delimiter=separator, invalid_row_handler=None if strict else note),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(include, pa.string()), include_columns=include, strings_can_be_null=True
            ),
        )

    try:
        try:
            return read(True)
        except pa.ArrowInvalid:
            short.clear()
            table = read(False)
            if any(pc.any(pc.match_substring(column, NO_TEXT)).as_py() for column in table.columns):
                raise DataError(f"{file} is not a text file in UTF-8") from None
            return table
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            return pa.table({name: pa.array([], pa.string()) for name in include})
        raise DataError(f"{file} cannot be read: {error}") from None


def _wanted(found: Any, columns: dict[str, str] | None) -> dict[str, Any]:
    """Role -> what its column is called in a table, None if there is none; and `geometry`, where it is needed."""
    names = {role: _name(role, found, columns) for role in NAMES}
    if names["latitude"] is None and names["longitude"] is None:
        lower = {str(name).strip().lower(): name for name in found}
        names["geometry"] = next((lower[name] for name in GEOMETRIES if name in lower), None)
    return names


def _name(role: str, found: Any, columns: dict[str, str] | None) -> Any:
    """What the column for user, latitude, longitude or time is called in a table."""
    if columns and role in columns:
        return columns[role] if columns[role] in found else None
    lower = {str(name).strip().lower(): name for name in reversed(list(found))}
    return next((lower[name] for name in NAMES[role] if name in lower), None)


def _four_columns_of(
    file: Path, table: pd.DataFrame, columns: dict[str, str] | None
) -> tuple[pd.DataFrame, dict[int, str]]:
    """`four_columns` of a file; the user may stand in the name of a folder such as uid=7."""
    if _name("user", table.columns, columns) is None:
        name = (columns or {}).get("user", "uid")
        for key, value in partition(file).items():
            if key == name or key.lower() in NAMES["user"]:
                table = table.assign(**{name: value})
    try:
        return four_columns(table, columns)
    except DataError as error:
        raise DataError(f"{file}: {error}") from None


def four_columns(table: pd.DataFrame, columns: dict[str, str] | None) -> tuple[pd.DataFrame, dict[int, str]]:
    """The columns user, latitude, longitude, time under these names; and by row, what is wrong with its geometry."""
    unknown = set(columns or ()) - set(NAMES)
    if unknown:
        raise DataError(f"there is no column {', '.join(sorted(unknown))} to be named; there are {', '.join(NAMES)}")
    names = _wanted(table.columns, columns)
    result: dict[str, Any] = {role: table[name] for role, name in names.items() if role in NAMES and name is not None}
    wrong: dict[int, str] = {}
    if names.get("geometry") is not None:
        result["latitude"], result["longitude"], wrong = latitude_longitude(table[names["geometry"]])
    missing = [role for role in NAMES if role not in result]
    if missing:
        known = "; ".join(f"{role} ({', '.join(NAMES[role])})" for role in missing)
        raise DataError(f"the columns are {', '.join(map(str, table.columns))}; there is none for {known}")
    return pd.DataFrame({role: result[role] for role in NAMES}).reset_index(drop=True), wrong
