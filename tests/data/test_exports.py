"""Files for maps: what lies where in GeoJSON and GeoParquet, and what each feature says."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest

from stmoe_hf.__main__ import main
from stmoe_hf.data.description import Description
from stmoe_hf.data.errors import DataError
from stmoe_hf.data.exports import (
    cell_features,
    feature_collection,
    line_features,
    point_features,
    write_table,
)
from stmoe_hf.data.geography import Place
from stmoe_hf.model.spacetime import Calendar, Grid

KYOTO = Place(35.01, 135.77, "Asia/Tokyo", "2026-02-01")
GRID, CALENDAR = Grid(60, 40, 0.25), Calendar(num_days=30, num_slots=24)


def table(*rows, columns="uid d t x y"):
    return pd.DataFrame(rows, columns=columns.split())


@pytest.fixture
def city(tmp_path):
    """A folder whose city.json says where the city lies, with names of its people."""
    Description("kyoto", "records.csv", GRID, CALENDAR, 25, KYOTO).write(tmp_path)
    pd.DataFrame({"uid": [1, 2], "user": ["ann", "007"]}).to_csv(tmp_path / "users.csv", index=False)
    return tmp_path


def located(city, *options, name="out.geojson"):
    out = city / name
    assert main(["locate", "--data", str(city), "--output", str(out), *map(str, options)]) == 0
    return json.loads(out.read_text())["features"] if name.endswith("json") else out


def test_a_prediction_is_a_point_with_its_probability_and_time():
    records = table((3, 1, 5, 60, 1, 0.25), columns="uid d t x y probability")
    collection = feature_collection(*point_features(records, KYOTO, GRID, CALENDAR))
    (point,) = json.loads(json.dumps(collection))["features"]
    latitude, longitude = KYOTO.to_latlon(60, 1, GRID)
    middle = [round(float(longitude), 6), round(float(latitude), 6)]
    assert point["geometry"] == {"type": "Point", "coordinates": middle}
    assert point["properties"] == {
        "uid": 3, "d": 1, "t": 5, "x": 60, "y": 1, "probability": 0.25, "time": "2026-02-02T05:00:00+09:00",
    }  # fmt: skip


def test_the_outline_of_a_cell_is_counter_clockwise():
    _, (cell,) = point_features(table((3, 1, 5, 60, 1)), KYOTO, GRID, CALENDAR, outlines=True)
    (ring,) = cell["coordinates"]
    assert cell["type"] == "Polygon" and len(ring) == 5 and ring[0] == ring[-1]
    assert sum(a[0] * b[1] - b[0] * a[1] for a, b in itertools.pairwise(ring)) > 0  # as RFC 7946 wants it


def test_a_person_and_day_are_a_line_through_its_cells_in_time_order():
    records = table((1, 2, 9, 3, 1), (1, 2, 5, 1, 1), (1, 3, 5, 7, 7), (2, 2, 5, 1, 1), (2, 2, 6, 1, 2))
    lines, shapes = line_features(records, KYOTO, GRID, CALENDAR)
    assert lines[["uid", "d", "records"]].to_numpy().tolist() == [[1, 2, 2], [1, 3, 1], [2, 2, 2]]
    assert [shape["type"] for shape in shapes] == ["LineString", "Point", "LineString"]
    assert lines["times"][0] == "2026-02-03T05:00:00+09:00 2026-02-03T09:00:00+09:00"
    (west, _), (east, _) = shapes[0]["coordinates"]
    assert west < east  # slot 5 before slot 9


def test_a_cell_counts_its_records_and_its_people():
    cells, shapes = cell_features(
        table((1, 2, 9, 3, 1), (1, 2, 5, 3, 1), (2, 2, 5, 3, 1), (2, 2, 6, 4, 1)), KYOTO, GRID
    )
    assert cells.to_numpy().tolist() == [[3, 1, 3, 2], [4, 1, 1, 1]] and len(shapes) == 2


def test_truth_beside_a_forecast_gives_errors_and_lines_of_both(city):
    table((1, 26, 5, 1, 1), (1, 26, 6, 5, 4)).to_csv(city / "p.csv", index=False)
    table((1, 26, 5, 1, 1), (1, 26, 6, 1, 1), (1, 1, 6, 1, 1)).to_csv(city / "t.csv", index=False)
    points = located(city, "--records", city / "p.csv", "--truth", city / "t.csv")
    assert [point["properties"]["error_km"] for point in points] == [0.0, 1.25]
    assert points[0]["properties"]["user"] == "ann"
    lines = located(city, "--records", city / "p.csv", "--truth", city / "t.csv", "--shape", "lines")
    assert [(line["properties"]["kind"], line["properties"]["d"]) for line in lines] == [
        ("forecast", 26),
        ("truth", 26),
    ]
    assert lines[0]["properties"]["error_km"] == 0.625 and lines[1]["properties"]["error_km"] is None
    assert lines[0]["properties"]["stroke"] != lines[1]["properties"]["stroke"]


def test_nobody_is_named_where_that_is_asked_for(city):
    people = table(*[(uid, 26, 5, uid, 1) for uid in range(1, 41)])
    people.assign(user="ann", telephone="+81 75").to_csv(city / "p.csv", index=False)
    orders = []
    for _ in range(2):
        found = [point["properties"] for point in located(city, "--records", city / "p.csv", "--anonymous")]
        assert not any({"user", "telephone"} & one.keys() for one in found)
        assert sorted(one["uid"] for one in found) == list(range(1, 41))
        orders.append([one["x"] for one in found])  # in the order of the new numbers; x is the uid
    assert orders[0] != sorted(orders[0]) and orders[0] != orders[1]


def test_the_best_cells_of_a_forecast_make_the_lines(city):
    rows = [(1, 26, 5, 1, 1, 1, 0.7), (1, 26, 5, 2, 9, 9, 0.2), (1, 26, 6, 1, 2, 1, 0.6)]
    table(*rows, columns="uid d t rank x y probability").to_csv(city / "f.csv", index=False)
    (line,) = located(city, "--records", city / "f.csv", "--shape", "lines")
    assert line["properties"]["records"] == 2 and line["properties"]["probability"] == pytest.approx(0.65)
    assert len(located(city, "--records", city / "f.csv")) == 3  # points have them all


@pytest.mark.parametrize("shape", ["points", "outlines", "lines", "cells"])
def test_geopandas_opens_the_geoparquet(city, shape):
    geopandas = pytest.importorskip("geopandas")
    table((1, 26, 5, 1, 1), (1, 26, 6, 5, 4), (2, 26, 6, 5, 4)).to_csv(city / "p.csv", index=False)
    options = ["--records", city / "p.csv", "--shape", shape]
    frame = geopandas.read_parquet(located(city, *options, name="out.parquet"))
    same = geopandas.GeoDataFrame.from_features(located(city, *options), crs="OGC:CRS84")
    assert frame.crs == same.crs and frame.geometry.geom_equals(same.geometry).all() and len(frame)
    assert frame.drop(columns="geometry").columns.isin(same.columns).all()


def test_zones_of_several_parts_keep_them_in_geoparquet(tmp_path):
    geopandas = pytest.importorskip("geopandas")
    ring = np.array([[0, 0], [1, 0], [1, 1], [0, 0]])
    zone = {"type": "MultiPolygon", "coordinates": [[ring.tolist()], [(ring + 5).tolist()]]}
    write_table(tmp_path / "z.parquet", pd.DataFrame({"people": [12.0]}), [zone])
    found = geopandas.read_parquet(tmp_path / "z.parquet")
    assert found.geometry[0].area == 1.0 and found.total_bounds.tolist() == [0, 0, 6, 6]


def test_what_cannot_be_written_is_refused_before_anything_is_read(city, tmp_path, capsys):
    options = ["--records", str(city / "missing.csv"), "--data", str(city)]
    assert main(["locate", *options, "--output", str(tmp_path / "out.shp")]) == 1
    assert "must end in .geojson, .json, .parquet, .csv, .csv.gz" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"no city\.json says where the city lies"):
        write_table(tmp_path / "out.geojson", pd.DataFrame({"people": [12.0]}))
    table((1, 26, 5, 1, 1)).to_csv(city / "p.csv", index=False)
    table((9, 26, 5, 1, 1)).to_csv(city / "t.csv", index=False)
    files = ["--records", str(city / "p.csv"), "--truth", str(city / "t.csv")]
    assert main(["locate", "--data", str(city), "--output", str(city / "o.csv"), *files]) == 1
    assert "the truth has none of the (uid, d, t) of the records" in capsys.readouterr().err
