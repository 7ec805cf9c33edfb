"""Points of interest from OpenStreetMap: points with tags -> the table x, y, category, POI_count of a city's grid.

Read are csv and parquet with latitude, longitude and either `key` and `value` of a tag or a column for each key
(amenity, shop, ...), as Overpass writes csv, and GeoJSON (one collection, or a feature a line), as osmium exports it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet

from ..model.spacetime import Grid
from ..model.tables import find_columns, shown
from .errors import DataError
from .geography import Place
from .opening import TEXT_SUFFIXES, is_parquet, read_header, rows_by_line, told
from .points import NAMES

ANY = "*"
# Key -> value -> group; `*` is any other value but `no`. What is named nowhere, as a bench or a tree, is not counted.
TAGS = {
    "amenity": {
        **dict.fromkeys(("restaurant", "cafe", "fast_food", "food_court", "bar", "pub", "biergarten"), "food"),
        **dict.fromkeys(("ice_cream",), "food"),
        **dict.fromkeys(("marketplace",), "shopping"),
        **dict.fromkeys(("cinema", "theatre", "nightclub", "casino", "arts_centre", "karaoke_box"), "leisure"),
        **dict.fromkeys(("gambling", "public_bath", "events_venue"), "leisure"),
        **dict.fromkeys(("parking", "bus_station", "ferry_terminal", "taxi", "bicycle_parking"), "transport"),
        **dict.fromkeys(("fuel", "charging_station"), "transport"),
        **dict.fromkeys(("hospital", "clinic", "doctors", "dentist", "pharmacy", "veterinary"), "health"),
        **dict.fromkeys(("nursing_home", "social_facility"), "health"),
        **dict.fromkeys(("school", "kindergarten", "college", "university", "childcare"), "school"),
        **dict.fromkeys(("driving_school", "language_school", "music_school", "prep_school"), "school"),
        **dict.fromkeys(("bank", "post_office", "bureau_de_change", "car_wash", "car_rental"), "service"),
        **dict.fromkeys(("townhall", "courthouse", "police", "fire_station", "embassy", "library"), "public"),
        **dict.fromkeys(("community_centre", "place_of_worship", "social_centre", "grave_yard"), "public"),
    },
    "shop": {
        **dict.fromkeys(("hairdresser", "beauty", "laundry", "dry_cleaning", "massage", "car_repair"), "service"),
        "estate_agent": "office",
        ANY: "shopping",
    },
    "tourism": {
        **dict.fromkeys(("hotel", "hostel", "motel", "guest_house", "apartment", "chalet"), "hotel"),
        **dict.fromkeys(("attraction", "museum", "gallery", "zoo", "aquarium", "theme_park"), "leisure"),
    },
    "leisure": dict.fromkeys(
        (
            *("park", "sports_centre", "sports_hall", "stadium", "pitch", "golf_course", "swimming_pool", "track"),
            *("water_park", "fitness_centre", "playground", "ice_rink", "bowling_alley", "amusement_arcade", "marina"),
        ),
        "leisure",
    ),
    "healthcare": {ANY: "health"},
    "office": {ANY: "office"},
    "craft": {ANY: "industry"},
    "industrial": {ANY: "industry"},
    "man_made": {"works": "industry", "wastewater_plant": "industry", "water_works": "industry"},
    "power": {"plant": "industry", "substation": "industry"},
    "landuse": {"industrial": "industry", "cemetery": "public"},
    "railway": dict.fromkeys(("station", "halt", "tram_stop"), "transport"),
    "highway": {"bus_stop": "transport"},
    "aeroway": {"terminal": "transport"},
}
GEOJSON = (".geojson", ".json", ".geojsonseq", ".geojsonl")


def group_of_tags(tags: dict[str, Any]) -> str | None:
    """The group of a point with these tags: by the first key of `TAGS` that names one; None if none does."""
    for key, values in TAGS.items():
        value = tags.get(key)
        for one in value.split(";") if isinstance(value, str) else ():
            one = one.strip()
            if one and one != "no" and (group := values.get(one, values.get(ANY))) is not None:
                return group
    return None


def count_tagged_points(path: str | Path, place: Place, grid: Grid) -> tuple[pd.DataFrame, dict[str, int]]:
    """The table of a file of points on a grid.

    Args:
        path: the file.
        place: where the middle of the grid lies.
        grid: of the city.

    Returns:
        Columns x, y, category (the name of a group) and POI_count, in this order; and how many points were `counted`,
        are `of no group` and lie `outside` the grid.

    Raises:
        DataError: naming file and line: a column is missing, or a latitude or longitude is none; or nothing lies in
            the grid. FileNotFoundError: there is no file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    points, nothing = [], 0
    for where, latitude, longitude, tags in _rows(path):
        group = group_of_tags(tags)
        if group is None:
            nothing += 1
            continue
        degrees = _degrees(latitude, 90), _degrees(longitude, 180)
        if None in degrees:
            raise DataError(f"{where}: latitude {shown(latitude)}, longitude {shown(longitude)} is no point")
        points.append((*degrees, group))
    table = pd.DataFrame(points, columns=["latitude", "longitude", "category"])
    table["x"], table["y"] = place.to_xy(table["latitude"], table["longitude"], grid)
    inside = table["x"].between(1, grid.width) & table["y"].between(1, grid.height)
    found = {"counted": int(inside.sum()), "of no group": nothing, "outside": int((~inside).sum())}
    if not found["counted"]:
        raise DataError(
            f"{path}: no point of a known kind lies in the grid ({nothing} of no group, {found['outside']} outside)"
        )
    counts = table[inside].groupby(["x", "y", "category"]).size().rename("POI_count").reset_index()
    return counts, found


def _degrees(value: Any, most: float) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if abs(number) <= most else None


def _rows(path: Path) -> Iterator[tuple[str, Any, Any, dict[str, Any]]]:
    """Where each point stands in a file, its latitude and longitude, and its tags."""
    if is_parquet(path):
        with told(path):
            table = pyarrow.parquet.read_table(path).to_pandas()
        names = list(map(str, table.columns))
        values: Iterator = ((f"{path}, row {row}", one) for row, one in enumerate(table.to_numpy(object), 1))
    elif path.name.endswith(GEOJSON):
        yield from _features(path)
        return
    elif path.name.endswith(TEXT_SUFFIXES):
        header = read_header(path, lambda found: len(find_columns(found, [*sum(NAMES.values(), ()), *TAGS])))
        names = [name.lstrip("@") for name in header.names]  # of Overpass: @lat, @lon
        values = ((f"{path}, line {line}", row) for line, row in rows_by_line(path, header))
    else:
        raise DataError(f"{path} is none of csv, parquet or GeoJSON ({', '.join(GEOJSON)})")
    degrees = [_column(path, names, kind) for kind in ("latitude", "longitude")]
    of_tag = find_columns(names, ("key", "value"))
    of_keys = find_columns(names, list(TAGS))
    if len(of_tag) < 2 and not of_keys:
        raise DataError(f"{path} has no tags: columns key and value, or some of {', '.join(TAGS)}")
    for where, row in values:
        if len(row) != len(names):
            raise DataError(f"{where}: {len(row)} values in place of {len(names)}")
        told_of = dict(zip(names, row, strict=True))
        tags = {key: told_of[name] for key, name in of_keys.items()}
        if len(of_tag) == 2:
            tags[str(told_of[of_tag["key"]])] = told_of[of_tag["value"]]
        yield where, *(told_of[name] for name in degrees), tags


def _column(path: Path, names: list[str], kind: str) -> str:
    found = find_columns(names, NAMES[kind])
    if not found:
        raise DataError(f"{path} has no column of the {kind}: it may be called {', '.join(NAMES[kind])}")
    return next(iter(found.values()))


def _features(path: Path) -> Iterator[tuple[str, Any, Any, dict[str, Any]]]:
    """Of GeoJSON; a line or an area counts as a point in the middle of its bounds."""
    with told(path):
        text = path.read_text(encoding="utf-8-sig")
    try:
        content = json.loads(text)
        features = content.get("features", [content])
    except json.JSONDecodeError:
        features = _by_line(path, text)
    except AttributeError:
        raise DataError(f"{path} is no GeoJSON: it holds no features") from None
    for number, feature in enumerate(features, 1):
        where = f"{path}, feature {number}"
        try:
            corners = np.array(list(_corners(feature["geometry"]["coordinates"])), float)
            longitude, latitude = (corners.min(0) + corners.max(0)) / 2
            tags = feature["properties"] or {}
        except (TypeError, KeyError, ValueError, IndexError):
            raise DataError(f"{where} is no feature of GeoJSON with coordinates and properties") from None
        yield where, latitude, longitude, tags


def _by_line(path: Path, text: str) -> Iterator[Any]:
    for number, line in enumerate(text.splitlines(), 1):
        if line := line.strip("\x1e \t"):  # of the text sequences of RFC 8142
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number} is no JSON: {error}") from None


def _corners(coordinates: Any) -> Iterator[tuple[float, float]]:
    if isinstance(coordinates[0], list):
        for part in coordinates:
            yield from _corners(part)
    else:
        yield coordinates[0], coordinates[1]
