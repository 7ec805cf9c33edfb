"""Files for maps (GeoJSON, GeoParquet, csv): a point a record, a line a person and day, an area with its counts."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from ..model.spacetime import Calendar, Grid
from .errors import DataError
from .files import open_aside
from .geography import Place, locate

SUFFIXES = (".geojson", ".json", ".parquet", ".csv", ".csv.gz")
FORECAST_COLOUR, TRUTH_COLOUR = "#2f6fb0", "#d9772b"
COORDINATE_DIGITS = 6  # a tenth of a metre
WKB_TYPES = {"Point": 1, "LineString": 2, "Polygon": 3, "MultiPolygon": 6}
LITTLE_ENDIAN = b"\x01"
Geometry = dict[str, Any]
CELL_CORNERS = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5))


def refuse_suffix(path: Path) -> None:
    """Raise DataError if a file of this name is of no kind that can be written."""
    if not path.name.endswith(SUFFIXES):
        raise DataError(f"--output {path} must end in {', '.join(SUFFIXES)}")


def write_table(
    path: Path, table: pd.DataFrame, geometry: list[Geometry] | None = None, style: pd.DataFrame | None = None
) -> None:
    """Write a table of places, the kind of file told by its name.

    Args:
        path: .geojson or .json (RFC 7946), .parquet (GeoParquet 1.1), .csv or .csv.gz (without shapes).
        table: a row a feature; times as ISO text.
        geometry: a GeoJSON geometry a row, in degrees; None where the place is not known: then no GeoJSON.
        style: columns of the simplestyle specification (stroke, fill, ...), for GeoJSON.

    Raises:
        DataError: another kind of file, or a GeoJSON without shapes.
    """
    refuse_suffix(path)
    if path.name.endswith((".geojson", ".json")):
        if geometry is None:
            raise DataError(f"{path}: no city.json says where the city lies; write a .csv or .parquet file of x and y")
        with open_aside(path) as file:
            json.dump(feature_collection(table, geometry, style), file)
    elif path.suffix == ".parquet":
        arrow = pa.Table.from_pandas(table, preserve_index=False)
        with open_aside(path, "wb") as file:
            pa.parquet.write_table(arrow if geometry is None else with_shapes(arrow, geometry), file)
    else:
        with open_aside(path) as file:
            table.to_csv(file, index=False)


def feature_collection(
    table: pd.DataFrame, geometry: list[Geometry], style: pd.DataFrame | None = None
) -> dict[str, Any]:
    """A GeoJSON FeatureCollection with the columns, and the style, as properties; what is missing is null."""
    styled = (
        table if style is None else pd.concat([table.reset_index(drop=True), style.reset_index(drop=True)], axis=1)
    )
    properties = styled.astype(object).where(styled.notna(), None).to_dict("records")  # type: ignore[call-overload]
    features = [
        {"type": "Feature", "geometry": shape, "properties": values}
        for shape, values in zip(geometry, properties, strict=True)
    ]
    return {"type": "FeatureCollection", "features": features}


def with_shapes(table: pa.Table, geometry: list[Geometry]) -> pa.Table:
    """The table with a column `geometry` in well-known binary and the metadata of GeoParquet 1.1 (degrees, CRS84)."""
    points = np.concatenate([_points(shape) for shape in geometry]) if geometry else np.zeros((1, 2))
    column = {
        "encoding": "WKB",
        "geometry_types": sorted({shape["type"] for shape in geometry}),
        "bbox": [*points.min(0).tolist(), *points.max(0).tolist()],
    }
    about = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    table = table.append_column("geometry", pa.array([wkb(shape) for shape in geometry], pa.binary()))
    return table.replace_schema_metadata({**(table.schema.metadata or {}), b"geo": json.dumps(about).encode()})


def wkb(geometry: Geometry) -> bytes:
    """A GeoJSON Point, LineString, Polygon or MultiPolygon as well-known binary (OGC 06-103r4)."""
    kind, coordinates = geometry["type"], geometry["coordinates"]
    head = LITTLE_ENDIAN + struct.pack("<I", WKB_TYPES[kind])
    if kind == "Point":
        return head + _doubles([coordinates])
    if kind == "LineString":
        return head + struct.pack("<I", len(coordinates)) + _doubles(coordinates)
    if kind == "Polygon":
        rings = [struct.pack("<I", len(ring)) + _doubles(ring) for ring in coordinates]
        return head + struct.pack("<I", len(rings)) + b"".join(rings)
    parts = [wkb({"type": "Polygon", "coordinates": polygon}) for polygon in coordinates]
    return head + struct.pack("<I", len(parts)) + b"".join(parts)


def _doubles(points: Any) -> bytes:
    return np.asarray(points, "<f8")[:, :2].tobytes()


def _points(geometry: Geometry) -> np.ndarray:
    """[n, 2] all points of a geometry."""
    coordinates = geometry["coordinates"]
    depth = {"Point": 0, "LineString": 1, "Polygon": 2, "MultiPolygon": 3}[geometry["type"]]
    parts = [coordinates]
    for _ in range(depth):
        parts = [inner for outer in parts for inner in outer]
    return np.array([part[:2] for part in parts], float)


def located_texts(records: pd.DataFrame, place: Place, grid: Grid, calendar: Calendar) -> pd.DataFrame:
    """`locate`, with times as ISO text with the offset from UTC."""
    table = locate(records, place, grid, calendar)
    return table.assign(time=[time.isoformat() for time in table["time"]])


def point_features(
    records: pd.DataFrame, place: Place, grid: Grid, calendar: Calendar, outlines: bool = False
) -> tuple[pd.DataFrame, list[Geometry]]:
    """A feature a record, with all its columns: the middle of its cell, or (`outlines`) the cell."""
    table = located_texts(records, place, grid, calendar)
    if outlines:
        shapes = cell_outlines(table["x"].to_numpy(), table["y"].to_numpy(), place, grid)
    else:
        middles = table[["longitude", "latitude"]].to_numpy().round(COORDINATE_DIGITS).tolist()
        shapes = [{"type": "Point", "coordinates": middle} for middle in middles]
    return table.drop(columns=["latitude", "longitude"]), shapes


def cell_outlines(x: np.ndarray, y: np.ndarray, place: Place, grid: Grid) -> list[Geometry]:
    """The polygons of cells."""
    corners = [place.to_latlon(x + dx, y + dy, grid) for dx, dy in CELL_CORNERS]
    rings = np.array([[longitude, latitude] for latitude, longitude in corners]).transpose(2, 0, 1)
    return [{"type": "Polygon", "coordinates": [ring]} for ring in rings.round(COORDINATE_DIGITS).tolist()]


def line_features(
    records: pd.DataFrame, place: Place, grid: Grid, calendar: Calendar
) -> tuple[pd.DataFrame, list[Geometry]]:
    """A line a person and day through the cells in time order; a point where the day has a single record.

    Returns:
        A row a line: uid (and user, kind), d, records, begin and end (ISO with offset), times (one a point, by
        blanks), and the means of probability and error_km where the records have them.
    """
    by = [name for name in ("kind", "uid", "user", "d") if name in records.columns]
    table = located_texts(records, place, grid, calendar).sort_values([*by, "t"])
    groups = table.groupby(by, sort=False, dropna=False)
    told: dict[str, tuple[str, str | Callable[[pd.Series], str]]] = {
        "records": ("t", "size"),
        "begin": ("time", "first"),
        "end": ("time", "last"),
        "times": ("time", " ".join),
    }
    told |= {name: (name, "mean") for name in ("probability", "error_km") if name in table}
    lines = groups.agg(**told).reset_index()  # type: ignore[call-overload]
    shapes = []
    for _, part in groups:
        points = part[["longitude", "latitude"]].to_numpy().round(COORDINATE_DIGITS).tolist()
        single = len(points) == 1
        shapes.append({"type": "Point" if single else "LineString", "coordinates": points[0] if single else points})
    return lines, shapes


def cell_features(records: pd.DataFrame, place: Place, grid: Grid) -> tuple[pd.DataFrame, list[Geometry]]:
    """A polygon a cell that has a record: x, y, records, people (how many different ones), and mean error_km."""
    told = {"records": ("t", "size"), "people": ("uid", "nunique")}
    told |= {name: (name, "mean") for name in ("probability", "error_km") if name in records}
    by = [name for name in ("kind", "x", "y") if name in records.columns]
    cells = records.groupby(by, as_index=False).agg(**told)  # type: ignore[call-overload]
    return cells, cell_outlines(cells["x"].to_numpy(), cells["y"].to_numpy(), place, grid)


def line_style(table: pd.DataFrame) -> pd.DataFrame:
    """Forecast blue, truth orange, as in the report."""
    true = table["kind"].eq("truth") if "kind" in table else pd.Series(False, index=table.index)
    colour = np.where(true, TRUTH_COLOUR, FORECAST_COLOUR)
    return pd.DataFrame({"stroke": colour, "stroke-width": 2, "stroke-opacity": 0.7, "marker-color": colour})


def area_style(value: pd.Series) -> pd.DataFrame:
    """The more, the more opaque."""
    share = np.sqrt(value / value.max()) if len(value) else value
    opacity = np.round(0.1 + 0.7 * share, 3)
    return pd.DataFrame(
        {"fill": FORECAST_COLOUR, "fill-opacity": opacity, "stroke": FORECAST_COLOUR, "stroke-width": 0.5}
    )
