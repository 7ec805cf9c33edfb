"""Readers of GPS points: csv, parquet, scikit-mobility's and trackintel's tables, GeoLife's .plt files.

`read_points(path)` gives the columns user, latitude, longitude, time, whatever they are called there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from .errors import DataError
from .readers import SUFFIXES, where

# What a column may be called, here, in scikit-mobility, in trackintel and elsewhere; the first that is there is taken.
NAMES = {
    "user": ("uid", "user_id", "user"),
    "latitude": ("lat", "latitude"),
    "longitude": ("lng", "lon", "longitude", "long"),
    "time": ("datetime", "tracked_at", "timestamp", "time"),
}
GEOMETRIES = ("geom", "geometry")  # of trackintel: points, or their text POINT (longitude latitude)
_POINT = re.compile(r"POINT\s*(?:Z\s*)?\(\s*([-+0-9.eE]+)\s+([-+0-9.eE]+)")
_PLT_COLUMNS = ["latitude", "longitude", "zero", "altitude", "days", "date", "clock"]
_PLT_HEADER = 6  # lines


@dataclass(frozen=True)
class Points:
    """Points [n]: `table` has the columns user, latitude, longitude, time; `files` the first row of each file."""

    table: pd.DataFrame
    files: list[tuple[int, Path]]

    def where(self, row: int) -> str:
        """File and line of a point; its row, from 0, if it does not come from a file."""
        if not self.files:
            return f"row {row}"
        first, path = next(found for found in reversed(self.files) if found[0] <= row)
        if path.suffix == ".plt":
            return f"{path}, line {row - first + _PLT_HEADER + 1}"
        return where(path, row - first)


def read_points(path: str | Path, columns: dict[str, str] | None = None) -> Points:
    """The points of a csv, csv.gz or parquet file, of a folder of such files, or of a GeoLife folder of .plt files.

    Args:
        path: file or folder. The user of a .plt file is the folder above `Trajectory`, else the folder it lies in;
            its times are UTC.
        columns: what the columns user, latitude, longitude, time are called, where not as in `NAMES`.

    Raises:
        DataError: naming the file that cannot be read, or the columns that it lacks. FileNotFoundError.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.rglob("*.plt")) or sorted(
            part for part in path.iterdir() if part.name.endswith(SUFFIXES) and not part.name.startswith(".")
        )
        if not files:
            raise DataError(f"the folder {path} holds no points ({', '.join((*SUFFIXES, '.plt'))})")
    elif path.is_file():
        files = [path]
    else:
        raise FileNotFoundError(f"there is no file or folder {path}")
    tables, starts, rows = [], [], 0
    for file in files:
        try:
            table = _read_plt(file) if file.suffix == ".plt" else _read_table(file, columns)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file} cannot be read: {error}") from None
        except DataError as error:
            raise DataError(f"{file}: {error}") from None
        tables.append(table)
        starts.append((rows, file))
        rows += len(table)
    if not rows:
        raise DataError(f"{path} holds no point")
    return Points(pd.concat([t for t in tables if len(t)], ignore_index=True), starts)


def _read_table(file: Path, columns: dict[str, str] | None) -> pd.DataFrame:
    if file.suffix == ".parquet":
        return four_columns(pa.parquet.read_table(file).to_pandas(), columns)
    with pa.csv.open_csv(file) as opened:
        header = opened.schema.names
    user = _name("user", header, columns)
    # As text: 007 and 7 are two people.
    types = {} if user is None else {user: pa.dictionary(pa.int32(), pa.string())}
    options = pa.csv.ConvertOptions(column_types=types, strings_can_be_null=True)
    return four_columns(pa.csv.read_csv(file, convert_options=options).to_pandas(), columns)


def _read_plt(file: Path) -> pd.DataFrame:
    above = file.parent
    user = above.parent.name if above.name == "Trajectory" else above.name
    kinds = {"latitude": pa.float64(), "longitude": pa.float64(), "date": pa.date32(), "clock": pa.time32("s")}
    try:
        table = pa.csv.read_csv(
            file,
            read_options=pa.csv.ReadOptions(skip_rows=_PLT_HEADER, column_names=_PLT_COLUMNS, use_threads=False),
            convert_options=pa.csv.ConvertOptions(column_types=kinds, include_columns=list(kinds)),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" not in str(error):
            raise
        return pd.DataFrame(columns=list(NAMES))
    days, seconds = (table[name].cast(pa.int32()).to_numpy().astype(np.int64) for name in ("date", "clock"))
    time = (days * 86400 + seconds).astype("datetime64[s]")
    return pd.DataFrame(
        {
            "user": user,
            "latitude": table["latitude"].to_numpy(),
            "longitude": table["longitude"].to_numpy(),
            "time": pd.DatetimeIndex(time).tz_localize("UTC"),
        }
    )


def _name(role: str, found: Any, columns: dict[str, str] | None) -> str | None:
    """What the column for user, latitude, longitude or time is called in a table."""
    if columns and role in columns:
        return columns[role] if columns[role] in found else None
    lower = {str(name).lower(): name for name in reversed(list(found))}
    return next((lower[name] for name in NAMES[role] if name in lower), None)


def four_columns(table: pd.DataFrame, columns: dict[str, str] | None) -> pd.DataFrame:
    """The columns user, latitude, longitude, time under these names."""
    unknown = set(columns or ()) - set(NAMES)
    if unknown:
        raise DataError(f"there is no column {', '.join(sorted(unknown))} to be named; there are {', '.join(NAMES)}")
    names = {role: _name(role, table.columns, columns) for role in NAMES}
    result = {role: table[name] for role, name in names.items() if name is not None}
    geometry = next((name for name in GEOMETRIES if name in table.columns), None)
    if geometry is not None and not {"latitude", "longitude"} & set(result):
        result["latitude"], result["longitude"] = _latitude_longitude(table[geometry])
    missing = [role for role in NAMES if role not in result]
    if missing:
        known = "; ".join(f"{role} ({', '.join(NAMES[role])})" for role in missing)
        raise DataError(f"the columns are {', '.join(map(str, table.columns))}; there is none for {known}")
    return pd.DataFrame({role: result[role] for role in NAMES}).reset_index(drop=True)


def _latitude_longitude(geometry: pd.Series) -> tuple[Any, Any]:
    """Of points of geopandas, or of their text (WKT)."""
    crs = getattr(geometry, "crs", None)
    if crs is not None and crs != "EPSG:4326":
        geometry = geometry.to_crs("EPSG:4326")
    if hasattr(geometry, "x"):
        return geometry.y, geometry.x
    found = geometry.astype(str).str.extract(_POINT)
    wrong = found[0].isna()
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"row {row}: the geometry {str(geometry.iloc[row])[:80]!r} is no POINT (longitude latitude)")
    return found[1].astype(float), found[0].astype(float)
