"""Points of files that are no tables: GeoLife's .plt, GPX, Google's Timeline in JSON, and what geopandas reads."""

from __future__ import annotations

import datetime
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv

from .errors import DataError
from .opening import Header, told
from .points import NAMES, BadRow, Points, Source, four_columns, read_rows

_PLT_COLUMNS = ["latitude", "longitude", "zero", "altitude", "days", "date", "clock"]
_PLT_HEADER = 6  # lines
_DEGREES = re.compile(r"(?:geo:)?\s*(-?[0-9.]+)\s*°?\s*,\s*(-?[0-9.]+)\s*°?", re.ASCII)


def read_plt(file: Path, columns: dict[str, str] | None = None) -> Points:
    """GeoLife: the user is the folder above `Trajectory`, else the folder the file lies in; times are UTC."""
    above = file.parent
    user = above.parent.name if above.name == "Trajectory" else above.name
    skipped: np.ndarray = np.zeros(0, np.int64)
    bad: list[BadRow] = []
    try:
        table = _plt_plainly(file)
    except pa.ArrowInvalid:  # something is wrong: each value by itself
        include = ["latitude", "longitude", "date", "clock"]
        table, skipped, bad = read_rows(file, Header(_PLT_COLUMNS, ",", _PLT_HEADER), include)
        table["time"] = table["date"] + "T" + table["clock"] + "Z"
    table = table.assign(user=user)[list(NAMES)]
    return Points(table, [Source(0, file, _PLT_HEADER, skipped)], bad=bad)


def _plt_plainly(file: Path) -> pd.DataFrame:
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
    if any(column.null_count for column in table.columns):
        raise pa.ArrowInvalid("a value is missing")
    days, seconds = (table[name].cast(pa.int32()).to_numpy().astype(np.int64) for name in ("date", "clock"))
    time = pd.DatetimeIndex((days * 86400 + seconds).astype("datetime64[s]")).tz_localize("UTC")
    return pd.DataFrame({name: table[name].to_numpy() for name in ("latitude", "longitude")}).assign(time=time)


def read_gpx(file: Path, columns: dict[str, str] | None = None) -> Points:
    """The points of the tracks of a GPX file; the user is the file's name."""
    rows = []
    try:
        with told(file):
            for _, element in ElementTree.iterparse(file):
                if element.tag.rpartition("}")[2] == "trkpt":
                    time = next((child.text for child in element if child.tag.rpartition("}")[2] == "time"), None)
                    rows.append((element.get("lat"), element.get("lon"), time))
                    element.clear()
    except ElementTree.ParseError as error:
        raise DataError(f"{file} is no whole GPX file: {error}") from None
    return _of_rows(file, rows, "it holds no points of a track (trkpt)")


def read_timeline(file: Path, columns: dict[str, str] | None = None) -> Points:
    """Google's Timeline: Records.json, and Timeline.json of Android and of iOS; the user is the file's name.

    A `.json` file of another kind is read as GeoJSON, by geopandas.
    """
    try:
        with told(file):
            content = json.loads(file.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{file} is no JSON: {error}") from None
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        return read_geometries(file, columns)
    if isinstance(content, dict) and "timelineObjects" in content:
        raise DataError(f"{file} has places visited, without their points: give Records.json of the same export")
    try:
        rows = list(_timeline_rows(content))
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{file} is no export of Google's Timeline that is known: {error}") from None
    return _of_rows(file, rows, "it is no export of Google's Timeline (Records.json, Timeline.json), or is empty")


def _timeline_rows(content: Any) -> Iterator[tuple[Any, Any, Any]]:
    """(latitude, longitude, time) of each point."""
    if isinstance(content, dict):
        for point in content.get("locations", []):
            time = point.get("timestamp")
            if time is None and "timestampMs" in point:
                time = _iso(int(point["timestampMs"]) / 1000)
            degrees = (point.get("latitudeE7"), point.get("longitudeE7"))
            yield *(None if value is None else value / 1e7 for value in degrees), time
        for signal in content.get("rawSignals", []):
            position = signal.get("position")
            if position:
                yield *_degrees(position.get("LatLng")), position.get("timestamp")
    for segment in content.get("semanticSegments", []) if isinstance(content, dict) else content:
        start = segment.get("startTime")
        for point in segment.get("timelinePath", []):
            time = point.get("time")
            if time is None and start is not None:
                minutes = float(point.get("durationMinutesOffsetFromStartTime", 0))
                begun = datetime.datetime.fromisoformat(start.replace("Z", "+00:00"))
                time = (begun + datetime.timedelta(minutes=minutes)).isoformat()
            yield *_degrees(point.get("point")), time


def _iso(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat()


def _degrees(text: Any) -> tuple[Any, Any]:
    found = _DEGREES.fullmatch(text or "")
    return (found[1], found[2]) if found is not None else (text, text)


def _of_rows(file: Path, rows: list[tuple[Any, Any, Any]], nothing: str) -> Points:
    if not rows:
        raise DataError(f"{file}: {nothing}")
    table = pd.DataFrame(rows, columns=["latitude", "longitude", "time"]).assign(user=file.name.split(".")[0])
    return Points(table[list(NAMES)], [Source(0, file, unit="point")])


def read_geometries(file: Path, columns: dict[str, str] | None = None) -> Points:
    """What geopandas reads: GeoPackage, GeoJSON, shape files, GeoParquet in a projection."""
    try:
        import geopandas
    except ImportError:
        raise DataError(f"{file} is read by geopandas, which is not installed: pip install geopandas") from None
    try:
        read = geopandas.read_parquet if file.suffix in (".parquet", ".geoparquet") else geopandas.read_file
        found = read(file)
    except Exception as error:  # of whichever library geopandas reads it with
        raise DataError(f"{file} cannot be read: {' '.join(str(error).split())[:300]}") from None
    try:
        table, wrong = four_columns(found, columns)
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    return Points(table, [Source(0, file, unit="row")], wrong)


# Ending -> reader of (file, names of columns).
READERS: dict[str, Callable[[Path, dict[str, str] | None], Points]] = {
    ".plt": read_plt,
    ".gpx": read_gpx,
    ".json": read_timeline,
    ".geojson": read_geometries,
    ".gpkg": read_geometries,
    ".shp": read_geometries,
    ".fgb": read_geometries,
    ".gml": read_geometries,
}
