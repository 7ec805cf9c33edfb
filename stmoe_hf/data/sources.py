"""What people have, as a city: tables and files of records or of GPS points, a folder with a `city.json`, a `City`."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from ..model.records import RECORD_COLUMNS
from ..model.spacetime import Grid
from ..model.tables import find_columns, record_columns, to_table
from .city import City, open_city
from .description import Description, describe
from .editions import get_edition
from .errors import DataError
from .gps import GpsCity, points_to_city
from .opening import is_parquet, partition, parts_of_folder, read_header
from .points import read_points, table_points
from .readers import SUFFIXES
from .tracks import READERS

logger = logging.getLogger(__name__)
OF_RECORDS = ("city", "data_dir", "edition", "cache_dir", "grid", "progress")


@contextlib.contextmanager
def open_source(data: Any = None, **source: Any) -> Iterator[City]:
    """A city of whatever people have; what it needs on disk is gone when the context ends.

    Args:
        data: a `City`; a table of records (uid, d, t, x, y) or of GPS points; a `GpsCity`; the path of a file or
            folder of records or of points; None for `city` and `data_dir`.
        source: of records `city`, `data_dir`, `edition` (humob2024 if not said), `cache_dir`, `grid` (of a table;
            200 x 200 cells of 500 m if not said); of points `timezone` and the other arguments of `points_to_city`;
            of both `poi`, a file of points of interest.

    Raises:
        DataError: with what is wrong, where, and what to do. FileNotFoundError.
    """
    poi = source.pop("poi", None)
    with _opened(data, source) as city:
        yield city if poi is None else city.with_poi(poi)


@contextlib.contextmanager
def _opened(data: Any, source: dict[str, Any]) -> Iterator[City]:
    """The city, without points of interest."""
    if isinstance(data, City):
        yield data
        return
    if data is not None and not isinstance(data, str | Path | GpsCity):
        data = as_table(data)
    with tempfile.TemporaryDirectory(prefix="stmoe_hf-") as folder:
        if isinstance(data, (str, Path)) and not holds_points(data):
            yield _open_files(data, source)
        elif data is None:
            yield _open_files(None, source)
        elif isinstance(data, GpsCity):
            yield _open_points(data, Path(folder))
        elif isinstance(data, (str, Path)) or len(find_columns(data.columns, RECORD_COLUMNS)) < len(RECORD_COLUMNS):
            yield _open_points(_points(data, source), Path(folder))
        else:
            yield _open_table(data, source, Path(folder))


def _open_files(path: str | Path | None, source: dict[str, Any]) -> City:
    if path is not None and not Path(path).exists():  # said before what is asked of files that there are
        raise FileNotFoundError(f"there is no file or folder {path}")
    _refuse_unknown(source, set(OF_RECORDS) - {"grid"}, "files of records")
    return open_city(source.pop("city", None), source.pop("data_dir", None), path=path, **source)


def _points(data: Any, source: dict[str, Any]) -> GpsCity:
    if "timezone" not in source:
        raise DataError("these are GPS points: say whose clock gives days and slots, such as timezone Asia/Tokyo")
    columns, header = source.pop("columns", None), source.pop("header", None)
    points = read_points(data, columns, header) if isinstance(data, (str, Path)) else table_points(data, columns)
    try:
        city = points_to_city(points, **source)
    except TypeError as error:
        raise DataError(f"of points: {error}") from None
    for line in city.said:
        logger.warning("%s", line)
    return city


def _open_points(city: GpsCity, folder: Path) -> City:
    return open_city(path=city.write(folder / "city"), cache_dir=folder / "cache")


def _open_table(table: Any, source: dict[str, Any], folder: Path) -> City:
    """A table of records, by way of a file: so every rule of files holds for it too."""
    _refuse_unknown(source, set(OF_RECORDS) - {"data_dir"}, "a table of records")
    edition = get_edition(source.get("edition") or "humob2024")
    try:
        table = record_columns(table, missing_cells=True)
    except ValueError as error:
        raise DataError(str(error)) from None
    last = table["d"].max()
    calendar = edition.calendar
    if len(table) and calendar.last_day < last < 100_000:  # a table may go on where the edition ends
        calendar = replace(calendar, num_days=int(last) - calendar.first_day + 1)
    folder.mkdir(exist_ok=True)
    table.to_parquet(folder / "records.parquet", index=False)
    cut_day = max(calendar.first_day + 1, calendar.last_day - 14)
    name = source.get("city") or "table"
    Description(name, "records.parquet", source.get("grid") or Grid(), calendar, cut_day).write(folder)
    return open_city(path=folder, cache_dir=folder / "cache")


def _refuse_unknown(source: dict[str, Any], known: set[str], what: str) -> None:
    if unknown := [name for name in source if name not in known]:
        raise DataError(f"of {what} there is no {', '.join(unknown)}; there are {', '.join(sorted(known))}")


def as_table(data: Any) -> pd.DataFrame:
    """A table of records or of points as a DataFrame, whatever it is; DataError if it is none."""
    try:
        return to_table(data)
    except ValueError as error:
        raise DataError(str(error)) from None


def holds_points(path: str | Path) -> bool:
    """Whether a file or folder holds GPS points rather than records, by what its columns are called."""
    path = Path(path)
    if describe(path) is not None or not path.exists():
        return False
    if path.is_dir():
        if next(path.rglob("*.plt"), None) is not None:
            return True
        parts = parts_of_folder(path, (*SUFFIXES, *READERS))
        return bool(parts) and holds_points(parts[0])
    if path.suffix.lower() in READERS:
        return True
    try:
        if is_parquet(path):
            names = pa.parquet.read_schema(path).names
        else:
            names = read_header(path, lambda found: len(find_columns(found, RECORD_COLUMNS))).names
    except (pa.ArrowException, OSError, DataError):
        return False  # its reader says what is wrong
    return len(find_columns([*names, *partition(path)], ("d", "t"))) < 2
