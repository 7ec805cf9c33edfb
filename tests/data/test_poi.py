"""Points of interest: the organisers' format, groups of categories, OpenStreetMap, and what a city's field tells."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest

from stmoe_hf import MobilityProcessor
from stmoe_hf.__main__ import main
from stmoe_hf.data.city import open_city
from stmoe_hf.data.errors import DataError
from stmoe_hf.data.field import MOST_POI_CELLS, CityField
from stmoe_hf.data.openstreetmap import TAGS, group_of_tags
from stmoe_hf.data.poi import AROUND, HUMOB, NUM_CATEGORIES, read_poi
from stmoe_hf.data.splits import split_users
from stmoe_hf.data.windows import PredictionWindows, TrainingWindows, WindowShape
from stmoe_hf.model.records import POI_COUNTS, POI_GROUPS
from stmoe_hf.model.spacetime import Grid

from ..helpers import people, write_city

GRID = Grid(20, 10)
FOOD, HOTEL = POI_GROUPS.index("food"), POI_GROUPS.index("hotel")


def written(folder, text: str, name: str = "poi.csv"):
    path = folder / name
    path.write_text(text)
    return path


def test_every_category_of_humob_belongs_to_one_group_and_every_group_has_some():
    numbers = [number for group in POI_GROUPS for number in HUMOB[group]]
    assert sorted(numbers) == list(range(1, NUM_CATEGORIES + 1))
    assert {group for values in TAGS.values() for group in values.values()} == set(POI_GROUPS)


def test_points_are_counted_by_cell_and_group_and_around_the_cell(tmp_path):
    path = tmp_path / "poi.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("x,y,category,POI_count\n1,1,4,3\n1,1,9,2\n1,1,46,1\n2,2,food,5\n20,10,85,1\n3,3,1,0\n")
    found = read_poi(path, GRID)
    first, second, beside, far = found.of(np.array([GRID.cell(*xy) for xy in ((1, 1), (2, 2), (3, 3), (9, 9))]))
    assert first[FOOD] == 5 and first[HOTEL] == 1 and first[AROUND] == 11
    assert second[FOOD] == 5 and second[AROUND] == 11
    assert beside[AROUND] == 5 and not beside[:AROUND].any()
    assert not far.any()
    # The first cell and the last of its row touch in numbers only.
    assert not found.of(np.array([GRID.cell(20, 1)])).any()
    assert found.in_cell.sum() == 12


def test_parquet_and_other_separators_and_orders_say_the_same(tmp_path):
    table = pd.DataFrame({"x": [1, 5], "y": [2, 5], "category": [46, 74], "POI_count": [1, 4]})
    table.to_parquet(tmp_path / "poi.parquet")
    table[["POI_count", "category", "y", "x"]].to_csv(tmp_path / "poi.csv", sep=";", index=False)
    one, two = (read_poi(tmp_path / name, GRID) for name in ("poi.parquet", "poi.csv"))
    assert np.array_equal(one.cells, two.cells) and np.array_equal(one.counts, two.counts)


@pytest.mark.parametrize(
    "text, said",
    [
        ("x,y,category,POI_count\n1,1,4,3\n\n21,1,4,3\n", "line 4: x is '21'; the grid has 1..20"),
        ("x,y,category,POI_count\n1,0,4,3\n", "line 2: y is '0'; the grid has 1..10"),
        ("x,y,category,POI_count\n1,1,86,3\n", "line 2: category is '86'; it must be a number 1..85 or one of food"),
        ("x,y,category,POI_count\n1,1,ramen,3\n", "line 2: category is 'ramen'"),
        ("x,y,category,POI_count\n1,1,,3\n", "line 2: category is ''"),
        ("x,y,category,POI_count\n1,1,4,-3\n", "line 2: poi_count is '-3'; it must not be negative"),
        ("x,y,category,POI_count\n1,1,4,many\n", "line 2: poi_count is 'many'; it must be a whole number"),
        ("x,y,category,POI_count\n1,1,4\n", "line 2: 3 values in place of 4"),
        ("x,y,POI_count\n1,1,4\n", "they must be x,y,category,POI_count"),
        ("x,y,category,POI_count\n1,1,4,0\n", "holds no point of interest"),
        ("", "is empty"),
    ],
)
def test_what_is_wrong_is_refused_with_file_and_line(tmp_path, text, said):
    with pytest.raises(DataError) as error:
        read_poi(written(tmp_path, text), GRID)
    assert "poi.csv" in str(error.value) and said in str(error.value)


def test_a_row_of_parquet_is_named_and_a_file_that_is_not_there(tmp_path):
    pd.DataFrame({"x": [1, 99], "y": 1, "category": 4, "POI_count": 1}).to_parquet(tmp_path / "poi.parquet")
    with pytest.raises(DataError, match=r"poi.parquet, row 2: x is 99; the grid has 1..20"):
        read_poi(tmp_path / "poi.parquet", GRID)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_poi(tmp_path / "none.csv", GRID)


# ---- What a field tells ----


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    folder = write_city(tmp_path_factory.mktemp("data"))
    return open_city("B", folder, cache_dir=folder / "cache")


@pytest.fixture(scope="module")
def poi_file(tmp_path_factory):
    random = np.random.default_rng(3)
    x, y = random.integers(1, 201, (2, 9000))
    table = pd.DataFrame({"x": x, "y": y, "category": random.integers(1, 86, 9000), "POI_count": 1})
    path = tmp_path_factory.mktemp("poi") / "poi.csv"
    table.to_csv(path, index=False)
    return path


def own_cells(city, row: int, until: int) -> np.ndarray:
    person = city.trajectory(row)
    return person.cell[person.day < until]


def test_a_field_holds_the_points_of_its_cells_and_near_cells_where_nobody_was_seen(city, poi_file):
    with_poi, history = city.with_poi(poi_file), own_cells(city, 0, 60)
    plain, found = (CityField(one, 60).of_person(0, history) for one in (city, with_poi))
    assert plain.poi is None and "field_poi" not in plain.as_inputs()
    assert (np.diff(found.cells) > 0).all() and not np.isin(found.cells, history).any()
    seen = np.isin(found.cells, plain.cells)
    assert np.array_equal(found.cells[seen], plain.cells) and np.array_equal(found.counts[seen], plain.counts)
    assert 0 < (~seen).sum() <= MOST_POI_CELLS and not found.counts[~seen].any()
    assert found.poi.shape == (len(found.cells), len(POI_COUNTS))
    assert np.array_equal(found.poi, with_poi.poi.of(found.cells))
    assert (found.poi[~seen, :AROUND].sum(1) > 0).all()
    unseen = CityField(with_poi, 60).of_person(0, history, with_poi=False)
    assert np.array_equal(unseen.cells, plain.cells) and unseen.poi is None


def test_of_nobody_else_a_field_still_tells_of_points_and_of_no_history_nothing(city, poi_file):
    counted = CityField(city.with_poi(poi_file), city.calendar.first_day)
    found = counted.of_person(0, own_cells(city, 0, 60))
    assert len(found.cells) == MOST_POI_CELLS and not found.counts.any() and found.poi.any()
    assert len(counted.of_person(0, np.zeros(0, np.int64)).cells) == 0


def test_training_windows_are_told_of_points_most_times_and_of_held_out_days_never(tmp_path, city, poi_file):
    split, processor = split_users(city, 60, 0.4, seed=3), MobilityProcessor.for_data(city.grid, city.calendar)
    table = people()
    hidden = table["uid"].isin(city.uids[split.held_out]) & (table["d"] >= 60)
    table.loc[hidden, ["x", "y"]] = np.random.default_rng(9).integers(1, 201, (hidden.sum(), 2))
    folder = tmp_path / "noise"
    folder.mkdir()
    table.to_csv(folder / "cityB_challengedata.csv.gz", index=False)
    noise = open_city("B", folder, cache_dir=folder / "cache")
    cities = [one.with_poi(poi_file) for one in (city, noise)]
    train = [TrainingWindows(c, split, WindowShape(), processor, 3, 1, None, 0.5, 0.3, True) for c in cities]
    test = [PredictionWindows(c, split.held_out, 60, WindowShape(), processor, city_field=True) for c in cities]
    told = 0
    for item in range(4 * len(train[0])):
        one, other = (windows[item] for windows in train)
        assert one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)
        told += "field_poi" in one
    assert 0.6 < told / (4 * len(train[0])) < 0.95
    for window in range(len(test[0])):
        one, other = (windows[window] for windows in test)
        names = ("inputs", "field_cells", "field_counts", "field_poi")
        assert all(np.array_equal(one[key], other[key]) for key in names)
    # Windows of both kinds make one batch.
    batch = processor.pad([test[0][0], {key: value for key, value in test[0][1].items() if key != "field_poi"}])
    assert batch["field_poi"].shape == (*batch["field_cells"].shape, len(POI_COUNTS))
    assert batch["field_poi"][0].any() and not batch["field_poi"][1].any()


# ---- OpenStreetMap ----

PLACE = {"latitude": 35.0, "longitude": 135.7, "timezone": "Asia/Tokyo", "first_date": "2026-02-01"}


@pytest.fixture
def described(tmp_path):
    folder = tmp_path / "kyoto"
    folder.mkdir()
    values = {
        "name": "kyoto",
        "records": "records.csv",
        "grid": {"width": 20, "height": 10, "cell_km": 0.5},
        "calendar": {"first_day": 0, "num_days": 30, "num_slots": 48, "first_weekday": 6},
        "cut_day": 20,
    }
    (folder / "city.json").write_text(json.dumps(values | {"place": PLACE}))
    return folder


def converted(described, file, capsys) -> dict[tuple[int, int, str], int]:
    output = described / "poi.csv"
    assert main(["poi", "--points", str(file), "--like", str(described), "--output", str(output)]) == 0
    assert "of no group 1; outside 1" in capsys.readouterr().out
    read_poi(output, GRID)
    rows = pd.read_csv(output).itertuples(index=False)
    return {(row.x, row.y, row.category): row.POI_count for row in rows}


def test_points_of_openstreetmap_become_the_same_table_from_csv_overpass_and_geojson(described, tmp_path, capsys):
    tagged = [(35.0001, 135.7001, "amenity", "cafe"), (35.0002, 135.7002, "amenity", "pub;bar")]
    tagged += [(35.0001, 135.7001, "shop", "bakery"), (35.0001, 135.7001, "amenity", "bench")]
    tagged += [(36.0, 135.7, "tourism", "hotel")]
    by_key = "lat,lon,key,value\n" + "".join(f"{a},{b},{k},{v}\n" for a, b, k, v in tagged)
    overpass = "@lat\t@lon\tamenity\tshop\ttourism\n"
    for latitude, longitude, key, value in tagged:
        cells = (value if key == name else "" for name in ("amenity", "shop", "tourism"))
        overpass += "\t".join([str(latitude), str(longitude), *cells]) + "\n"
    features = [
        {"type": "Feature", "properties": {k: v}, "geometry": {"type": "Point", "coordinates": [b, a]}}
        for a, b, k, v in tagged
    ]
    around = [[[b - 1e-4, a - 1e-4], [b + 1e-4, a + 1e-4]] for a, b, _, _ in tagged[:1]]
    features[0]["geometry"] = {"type": "Polygon", "coordinates": around}  # counted in its middle
    wanted = {(11, 6, "food"): 2, (11, 6, "shopping"): 1}
    files = {
        "key.csv": by_key,
        "overpass.csv": overpass,
        "osm.geojson": json.dumps({"type": "FeatureCollection", "features": features}),
        "osm.geojsonseq": "".join(f"\x1e{json.dumps(one)}\n" for one in features),
    }
    for name, text in files.items():
        assert converted(described, written(tmp_path, text, name), capsys) == wanted


def test_tags_name_a_group_or_none():
    assert group_of_tags({"shop": "hairdresser"}) == "service" and group_of_tags({"shop": "shoes"}) == "shopping"
    assert group_of_tags({"shop": "no"}) is None and group_of_tags({"natural": "tree"}) is None
    assert group_of_tags({"amenity": "waste_basket", "office": "lawyer"}) == "office"
    assert group_of_tags({"amenity": None, "railway": "station"}) == "transport"


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("osm.csv", "lat,lon,key,value\n35,135.7,shop,shoes\n95,135.7,shop,shoes\n", "line 3: latitude '95'"),
        ("osm.csv", "lat,lon,name\n35,135.7,Ume\n", "osm.csv has no tags: columns key and value, or some of amenity"),
        ("osm.csv", "lat,key,value\n35,shop,shoes\n", "osm.csv has no column of the longitude"),
        ("osm.csv", "lat,lon,key,value\n1,2,shop,shoes\n", "no point of a known kind lies in the grid"),
        ("osm.geojson", '{"features": [{"type": "Feature"}]}', "feature 1 is no feature of GeoJSON"),
        ("osm.geojson", "[1]", "osm.geojson is no GeoJSON"),
        ("osm.geojson", '{"features": \n', "osm.geojson, line 1 is no JSON"),
        ("osm.pbf", "", "is none of csv, parquet or GeoJSON"),
    ],
)
def test_what_is_no_extract_is_said_in_one_line(described, tmp_path, capsys, name, text, said):
    file = written(tmp_path, text, name)
    command = ["poi", "--points", str(file), "--like", str(described), "--output", str(tmp_path / "poi.csv")]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error
    assert not (tmp_path / "poi.csv").exists()


def test_a_city_without_a_place_has_no_points_of_openstreetmap(tmp_path, capsys):
    file = written(tmp_path, "lat,lon,key,value\n35,135.7,shop,shoes\n")
    assert main(["poi", "--points", str(file), "--like", str(tmp_path), "--output", str(tmp_path / "out.csv")]) == 1
    assert "there is no city.json in" in capsys.readouterr().err
