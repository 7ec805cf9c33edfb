"""Points written as geometries: well-known text, well-known binary (also in hexadecimal), or objects with x and y."""

from __future__ import annotations

import re
import struct
from typing import Any

import numpy as np
import pandas as pd

from ..model.tables import shown

_POINT = re.compile(
    r"\s*(?:SRID=4326;)?\s*POINT\s*(?:ZM?|M)?\s*\(\s*([-+0-9.eE]+)\s+([-+0-9.eE]+)(?:\s+[-+0-9.eE]+)*\s*\)\s*", re.I
)
_HEX = re.compile(r"(?:[0-9a-fA-F]{2}){21,}")
_EWKB_SRID, _EWKB_Z, _EWKB_M = 0x20000000, 0x80000000, 0x40000000
LONGITUDE_LATITUDE = (0, 4326)  # spatial references that need no projection; 0 says nothing


def latitude_longitude(geometry: pd.Series) -> tuple[np.ndarray, np.ndarray, dict[int, str]]:
    """Latitude and longitude [n] of points, nan where there is none; and by row, what is wrong there.

    Args:
        geometry: of geopandas (in any projection), shapely, text (WKT), bytes (WKB, EWKB) or their hexadecimal text.
    """
    crs = getattr(geometry, "crs", None)
    if crs is not None and crs != "EPSG:4326":
        geometry = geometry.to_crs("EPSG:4326")  # type: ignore[operator]
    latitude, longitude = (np.full(len(geometry), np.nan) for _ in range(2))
    wrong: dict[int, str] = {}
    plain = _plain_binary(geometry)
    if plain is not None:
        return plain[:, 1], plain[:, 0], wrong
    for row, value in enumerate(geometry):
        point = _point(value)
        if point is None:
            wrong[row] = f"the geometry {shown(_named(value))} is no POINT (longitude latitude)"
        else:
            longitude[row], latitude[row] = point
    return latitude, longitude, wrong


def _plain_binary(geometry: pd.Series) -> np.ndarray | None:
    """x and y [n, 2] of plain little-endian points in binary; None if there is any other."""
    if not len(geometry) or not isinstance(geometry.iloc[0], bytes):
        return None
    if any(not isinstance(value, bytes) or len(value) != 21 for value in geometry):
        return None
    raw = np.frombuffer(b"".join(geometry), np.uint8).reshape(-1, 21)
    if (raw[:, :5] != np.array([1, 1, 0, 0, 0], np.uint8)).any():
        return None
    return np.ascontiguousarray(raw[:, 5:]).view("<f8")


def _point(value: Any) -> tuple[float, float] | None:
    """x and y of one geometry; None if it is no point."""
    try:
        if isinstance(value, str):
            found = _POINT.fullmatch(value)
            if found is not None:
                return float(found[1]), float(found[2])
            return _of_binary(bytes.fromhex(value)) if _HEX.fullmatch(value.strip()) else None
        if isinstance(value, bytes | bytearray | memoryview):
            return _of_binary(bytes(value))
        return float(value.x), float(value.y)
    except (ValueError, IndexError, struct.error, AttributeError, TypeError):
        return None
    except Exception as error:  # of shapely, for an empty point
        if "GEOS" in type(error).__name__:
            return None
        raise


def _of_binary(value: bytes) -> tuple[float, float]:
    order = "<" if value[0] == 1 else ">"
    (kind,) = struct.unpack_from(order + "I", value, 1)
    offset = 5
    if kind & _EWKB_SRID:
        (reference,) = struct.unpack_from(order + "I", value, 5)
        if reference not in LONGITUDE_LATITUDE:
            raise ValueError
        offset = 9
    if (kind & ~(_EWKB_SRID | _EWKB_Z | _EWKB_M)) % 1000 != 1:
        raise ValueError
    x, y = struct.unpack_from(order + "dd", value, offset)
    return x, y


def _named(value: Any) -> Any:
    return value if isinstance(value, str | bytes) else getattr(value, "wkt", value)
