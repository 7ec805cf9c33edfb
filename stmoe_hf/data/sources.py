"""What people have, as a city: tables and files of records or of GPS points, a folder with a `city.json`, a `City`."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ..model.records import RECORD_COLUMNS
from ..model.spacetime import Grid
from .city import City, open_city
from .description import Description, describe
from .editions import get_edition
from .errors import DataError
from .gps import GpsCity, points_to_city
from .points import read_points

OF_RECORDS = ("city", "data_dir", "edition", "cache_dir", "grid", "progress")


@contextlib.contextmanager
def open_source(data: Any = None, **source: Any) -> Iterator[City]:
    """A city of whatever people have; what it needs on disk is gone when the context ends.

    Args:
        data: a `City`; a table of records (uid, d, t, x, y) or of GPS points; a `GpsCity`; the path of a file or
            folder of records or of points; None for `city` and `data_dir`.
        source: of records `city`, `data_dir`, `edition` (humob2024 if not said), `cache_dir`, `grid` (of a table;
            200 x 200 cells of 500 m if not said); of points `timezone` and the other arguments of `points_to_city`.

    Raises:
        DataError: with what is wrong, where, and what to do. FileNotFoundError.
    """
    if isinstance(data, City):
        yield data
        return
    with tempfile.TemporaryDirectory(prefix="stmoe_hf-") as folder:
        if isinstance(data, (str, Path)) and not holds_points(data):
            yield _open_files(data, source)
        elif data is None:
            yield _open_files(None, source)
        elif isinstance(data, GpsCity):
            yield _open_points(data, Path(folder))
        elif isinstance(data, (str, Path)) or not _has_record_columns(data):
            yield _open_points(_points(data, source), Path(folder))
        else:
            yield _open_table(data, source, Path(folder))


def _open_files(path: str | Path | None, source: dict[str, Any]) -> City:
    _refuse_unknown(source, set(OF_RECORDS) - {"grid"}, "files of records")
    return open_city(source.pop("city", None), source.pop("data_dir", None), path=path, **source)


def _points(data: Any, source: dict[str, Any]) -> GpsCity:
    if "timezone" not in source:
        raise DataError("these are GPS points: say whose clock gives days and slots, such as timezone Asia/Tokyo")
    columns = source.pop("columns", None)
    points = read_points(data, columns) if isinstance(data, (str, Path)) else data
    try:
        return points_to_city(points, **source)
    except TypeError as error:
        raise DataError(f"of points: {error}") from None


def _open_points(city: GpsCity, folder: Path) -> City:
    return open_city(path=city.write(folder / "city"), cache_dir=folder / "cache")


def _open_table(table: Any, source: dict[str, Any], folder: Path) -> City:
    """A table of records, by way of a file: so every rule of files holds for it too."""
    _refuse_unknown(source, set(OF_RECORDS) - {"data_dir"}, "a table of records")
    edition = get_edition(source.get("edition") or "humob2024")
    table = pd.DataFrame(table)[list(RECORD_COLUMNS)]
    last = pd.to_numeric(table["d"], errors="coerce").max()
    calendar = edition.calendar
    if last == last and calendar.last_day < last < 100_000:  # a table may go on where the edition ends
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


def _has_record_columns(table: Any) -> bool:
    columns: Any = getattr(table, "columns", None)
    if columns is None:
        columns = getattr(table, "column_names", table if isinstance(table, dict) else ())
    return set(RECORD_COLUMNS) <= {str(name) for name in columns}


def holds_points(path: str | Path) -> bool:
    """Whether a file or folder holds GPS points rather than records, by what its columns are called."""
    path = Path(path)
    if describe(path) is not None or not path.exists():
        return False
    if path.is_dir():
        if next(path.rglob("*.plt"), None) is not None:
            return True
        parts = sorted(part for part in path.iterdir() if part.suffix in (".csv", ".gz", ".parquet"))
        return bool(parts) and holds_points(parts[0])
    try:
        if path.suffix == ".parquet":
            names = pa.parquet.read_schema(path).names
        else:
            with pa.csv.open_csv(path) as opened:
                names = opened.schema.names
    except (pa.ArrowException, OSError):
        return False  # its reader says what is wrong
    return not {name.strip().lower() for name in names} >= {"d", "t"}
