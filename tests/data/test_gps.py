"""From GPS points to records and back: cells, slots, grids, every source, and every refusal."""

import datetime
import json
import math
import zoneinfo

import numpy as np
import pandas as pd
import pytest
from transformers import AutoModel

from stmoe_hf.__main__ import main
from stmoe_hf.data.city import find_city, open_city
from stmoe_hf.data.description import Description, describe
from stmoe_hf.data.errors import DataError
from stmoe_hf.data.geography import Place, locate
from stmoe_hf.data.gps import points_to_city
from stmoe_hf.data.points import read_points
from stmoe_hf.hub.publish import card
from stmoe_hf.metrics import score
from stmoe_hf.model.spacetime import Calendar, Grid
from stmoe_hf.training.command_line import parse_arguments
from stmoe_hf.training.run import run

from ..helpers import SIZES, people

KYOTO = Place(35.01, 135.77, "Asia/Tokyo", "2026-02-01")
GRID = Grid(60, 40, 0.25)
BOUNDS = (34.9, 135.6, 35.1, 135.9)


def points(*rows, columns=("uid", "lat", "lng", "datetime")):
    return pd.DataFrame(rows, columns=list(columns))


def at(uid, minute, lat=35.0, lng=135.75, zone="Z"):
    """A point `minute` minutes after the midnight that begins February 1st in UTC."""
    time = datetime.datetime(2026, 2, 1) + datetime.timedelta(minutes=minute)
    return uid, lat, lng, time.isoformat() + zone


DAYS_APART = [at(1, 0), at(1, 3 * 1440)]  # a city needs days


def convert(*rows, **options):
    return points_to_city(points(*rows), **{"timezone": "UTC", "bounds": BOUNDS} | options)


def test_cells_are_as_large_as_they_say():
    latitude, longitude = KYOTO.to_latlon(np.array([1, 2, 60, 1]), np.array([1, 1, 40, 2]), GRID)
    # By the haversine formula on a sphere of the same mean radius, to half a percent.
    lat, lon = np.radians(latitude), np.radians(longitude)
    for i, j, km in ((0, 1, 0.25), (0, 3, 0.25), (0, 2, 0.25 * math.hypot(59, 39))):
        a = np.sin((lat[i] - lat[j]) / 2) ** 2
        a += np.cos(lat[i]) * np.cos(lat[j]) * np.sin((lon[i] - lon[j]) / 2) ** 2
        assert 2 * 6371.0 * math.asin(math.sqrt(a)) == pytest.approx(km, rel=5e-3)
    assert latitude[3] > latitude[0] and longitude[1] > longitude[0]  # y goes north, x goes east


def test_every_cell_goes_to_the_earth_and_back():
    x, y = GRID.xy(np.arange(GRID.num_cells))
    for place in (
        KYOTO,
        Place(-33.9, 179.99, "Pacific/Auckland", "2026-02-01"),
        Place(60.2, 24.9, "UTC", "2026-02-01"),
    ):
        back = place.to_xy(*place.to_latlon(x, y, GRID), GRID)
        assert np.array_equal(back[0], x) and np.array_equal(back[1], y)


def test_a_slot_has_the_cell_with_the_most_points_and_of_equals_the_first():
    one, other = (35.0, 135.75), (35.02, 135.75)
    rows = [at(1, 1, *one), at(1, 2, *other), at(1, 3, *other), at(1, 29, *one), at(1, 28, *other)]  # 2 : 3
    rows += [at(1, 31, *other), at(1, 40, *one), at(1, 41, *one), at(1, 59, *other)]  # 2 : 2, the other first
    city = convert(*rows, at(1, 3 * 1440, *one))
    grid, place = city.description.grid, city.description.place
    assert city.records[["d", "t"]].to_numpy().tolist() == [[0, 0], [0, 1], [3, 0]]
    expected = [place.to_xy(*where, grid) for where in (other, other, one)]
    assert city.records[["x", "y"]].to_numpy().tolist() == [[int(x), int(y)] for x, y in expected]
    shuffled = points(*rows, at(1, 3 * 1440, *one)).sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(points_to_city(shuffled, timezone="UTC", bounds=BOUNDS).records, city.records)


def test_modal_cells_are_those_of_a_plain_count():
    random = np.random.default_rng(0)
    place = random.choice([35.0, 35.01, 35.02], 3000)
    minutes = random.choice(7 * 1440, 3000, replace=False)
    table = points(
        *(at(int(u), int(m), lat) for u, m, lat in zip(random.integers(0, 4, 3000), minutes, place, strict=True))
    )
    city = points_to_city(table, timezone="UTC", bounds=BOUNDS, slot_minutes=60)
    table["slot"] = pd.to_datetime(table["datetime"]).dt.floor("60min")
    table = table.sort_values("datetime")
    located = locate(city.records, city.description.place, city.description.grid, city.description.calendar)
    assert len(city.records) == table.groupby(["uid", "slot"]).ngroups
    found = located.set_index(["uid", "time"])["latitude"]
    for (uid, slot), group in table.groupby(["uid", "slot"]):
        counts = group["lat"].value_counts()
        best = next(lat for lat in group["lat"] if counts[lat] == counts.max())
        assert abs(found[uid, slot] - best) < 0.003


def test_days_and_slots_are_those_of_the_local_clock():
    rows = [at(1, 0), at(1, 14 * 60 + 59), at(1, 15 * 60), at(1, 5 * 1440)]
    city = convert(*rows, timezone="Asia/Tokyo")
    assert city.records[["d", "t"]].to_numpy().tolist() == [[0, 18], [0, 47], [1, 0], [5, 18]]
    calendar = city.description.calendar
    assert (calendar.num_days, calendar.num_slots, calendar.first_weekday) == (6, 48, 6)  # a Sunday
    same = convert(*(at(1, m + 540, zone="+09:00") for m in (0, 899, 900, 7200)), timezone="Asia/Tokyo")
    pd.testing.assert_frame_equal(same.records, city.records)
    clock = city.description.place.clock(city.records["d"], city.records["t"], calendar)
    assert clock[1].isoformat() == "2026-02-01T23:30:00+09:00"


def test_a_clock_change_is_kept():
    """Berlin, 2026-03-29 02:00 -> 03:00: 00:45 UTC is 01:45, 01:15 UTC is 03:15."""
    rows = [
        (1, 52.5, 13.4, f"2026-03-{day}T{clock}:00Z") for day, clock in ((28, "12:00"), (29, "00:45"), (29, "01:15"))
    ]
    city = points_to_city(points(*rows), timezone="Europe/Berlin")
    assert city.records[["d", "t"]].to_numpy().tolist() == [[0, 26], [1, 3], [1, 6]]
    place, calendar = city.description.place, city.description.calendar
    assert [t.hour for t in place.clock([1, 1], [4, 6], calendar)] == [3, 3]  # slot 4, 02:00, does not exist


def test_points_outside_the_grid_and_the_days_are_counted():
    rows = [at(1, 0), at(1, 10, lat=36.0), at(2, 0, lng=100.0), at(1, 3 * 1440), at(1, 9 * 1440)]
    city = convert(*rows, first_date="2026-02-01", num_days=5)
    assert city.counts["outside the grid"] == 2 and city.counts["outside the days"] == 1
    assert city.counts["users"] == 1 and city.counts["users left out"] == 1
    assert city.users["uid"].tolist() == [1]
    assert len(city.records) == 2
    with pytest.raises(
        DataError, match=r"none of the 1 points lies in the grid; latitude and longitude look exchanged"
    ):
        convert(at(1, 0, lat=48.2, lng=16.4), bounds=(16.0, 48.0, 17.0, 49.0))


def test_a_fitted_grid_holds_every_point_and_a_given_one_has_its_size():
    random = np.random.default_rng(0)
    rows = [at(1, int(m), *place) for m, place in enumerate(random.uniform((34.9, 135.6), (35.1, 135.9), (500, 2)))]
    rows.append(at(1, 2 * 1440))
    fitted = points_to_city(points(*rows), timezone="UTC", cell_km=0.25)
    assert fitted.counts["outside the grid"] == 0
    grid = fitted.description.grid
    assert abs(grid.height * 0.25 - 0.2 * 110.9) < 0.5 and abs(grid.width * 0.25 - 0.3 * 91.3) < 0.5
    sized = points_to_city(points(*rows), timezone="UTC", cell_km=0.25, grid_size=(60, 40))
    assert sized.description.grid == GRID
    assert 0 < sized.counts["outside the grid"] < 500
    like = points_to_city(points(*rows), timezone="UTC", like=fitted.description)
    assert like.description.grid == grid and like.description.calendar == fitted.description.calendar
    pd.testing.assert_frame_equal(like.records, fitted.records)
    with pytest.raises(DataError, match="more than 1,000,000: give narrower bounds"):
        points_to_city(points(*rows), timezone="UTC", bounds=(-60, 100, 40, 140))
    # Across the 180th meridian.
    pacific = points_to_city(points(at(1, 0, -17, 179.99), at(1, 2000, -17, -179.99)), timezone="UTC")
    assert pacific.description.grid.width < 10


def test_names_of_people_are_numbered_and_kept():
    numbers = convert(at(7, 0), at(5_000_000_000, 5), at(7, 3000))
    assert numbers.records["uid"].tolist() == [7, 7, 5_000_000_000]
    named = convert(at("zoe", 0), at("ann", 5), at("zoe", 3000))
    assert named.records["uid"].tolist() == [0, 1, 1]
    assert named.users.to_dict("list") == {"uid": [0, 1], "user": ["ann", "zoe"]}
    zeros = convert(at("007", 0), at("7", 5), at("7", 3000))
    assert zeros.users["user"].tolist() == ["007", "7"] and len(zeros.records) == 3


def test_one_stamp_twice_counts_once():
    rows = [at(1, 5, lat=35.0), at(1, 5, lat=35.05), at(1, 5, lat=35.05), at(2, 5), at(1, 3000)]
    city = convert(*rows)
    assert city.counts["same stamp"] == 2
    place, grid = city.description.place, city.description.grid
    assert city.records["y"].iloc[0] == place.to_xy(35.0, 135.75, grid)[1]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (at(1, 9, lat=135.7, lng=35.0), r"row 2: latitude 135.7, longitude 35 .* look exchanged.*\(1 such points"),
        (at(1, 9, lat=400.2), "row 2: latitude 400.2, longitude 135.75 is no place on the earth"),
        (at(1, 9, lat=float("nan")), "row 2: latitude nan"),
        (at(1, 9, zone=""), r"some times have a zone \(row 0\) and some have none \(row 2\)"),
        ((1, 35.0, 135.7, "yesterday at nineZ"), "row 2: the time 'yesterday at nineZ' is no ISO 8601 time"),
        ((1, 35.0, 135.7, None), "row 2: the user or the time is missing"),
    ],
)
def test_a_wrong_point_is_named(row, text):
    with pytest.raises(DataError, match=text):
        convert(*DAYS_APART, row, bounds=None)


def test_wrong_points_can_be_skipped_and_are_counted():
    city = convert(*DAYS_APART, at(1, 9, lat=400.2), (1, 35.0, 135.7, None), skip_bad=True)
    assert city.counts["bad"] == 2 and len(city.records) == 2


def test_times_without_a_zone_are_refused_until_it_is_said():
    rows = [at(1, 0, zone=""), at(1, 3000, zone="")]
    with pytest.raises(
        DataError, match=r"row 0: the time 2026-02-01 00:00:00 has no zone.*times_in UTC, or Asia/Tokyo"
    ):
        convert(*rows, timezone="Asia/Tokyo")
    assert convert(*rows, timezone="Asia/Tokyo", times_in="UTC").records["t"].tolist() == [18, 22]
    assert convert(*rows, timezone="Asia/Tokyo", times_in="Asia/Tokyo").records["t"].tolist() == [0, 4]
    naive = points(*rows).assign(datetime=lambda t: pd.to_datetime(t["datetime"]))
    assert points_to_city(naive, timezone="Asia/Tokyo", times_in="UTC").records["t"].tolist() == [18, 22]
    with pytest.raises(DataError, match="the times are numbers"):
        points_to_city(naive.assign(datetime=[1, 2]), timezone="UTC")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"timezone": "Asia/Kyoto"}, "there is no time zone 'Asia/Kyoto'"),
        ({"slot_minutes": 7}, "whole number of slots"),
        ({"bounds": BOUNDS, "grid_size": (9, 9)}, "at most one of"),
        ({"bounds": (35.1, 135.6, 34.9, 135.9)}, "no south, west, north, east"),
        ({"first_date": "2026-13-01"}, "no date"),
        ({"first_date": "2027-01-01"}, "no point in the grid lies in"),
        ({"num_days": 1}, "a history and a horizon need two"),
    ],
)
def test_impossible_settings_are_refused(options, text):
    with pytest.raises(DataError, match=text):
        convert(*DAYS_APART, **options)


@pytest.mark.parametrize(
    "columns",
    [
        ("uid", "lat", "lng", "datetime"),
        ("user_id", "lat", "lon", "tracked_at"),
        ("User", "Latitude", "Longitude", "Time"),
    ],
)
def test_the_columns_of_scikit_mobility_and_trackintel_are_known(columns):
    expected = convert(*DAYS_APART).records
    found = points_to_city(points(*DAYS_APART, columns=columns), timezone="UTC", bounds=BOUNDS)
    pd.testing.assert_frame_equal(found.records, expected)


def test_missing_columns_are_named_and_others_can_be_given():
    table = points(*DAYS_APART, columns=("who", "lat", "lng", "datetime"))
    with pytest.raises(DataError, match=r"the columns are who, lat, lng, datetime; there is none for user \(uid"):
        points_to_city(table, timezone="UTC")
    city = points_to_city(table, timezone="UTC", bounds=BOUNDS, columns={"user": "who"})
    pd.testing.assert_frame_equal(city.records, convert(*DAYS_APART).records)


def test_a_csv_file_of_trackintel_has_its_points_as_text(tmp_path):
    rows = [(uid, time, f"POINT ({lng} {lat})") for uid, lat, lng, time in DAYS_APART]
    points(*rows, columns=("user_id", "tracked_at", "geom")).to_csv(tmp_path / "positionfixes.csv")
    city = points_to_city(read_points(tmp_path / "positionfixes.csv"), timezone="UTC", bounds=BOUNDS)
    pd.testing.assert_frame_equal(city.records, convert(*DAYS_APART).records)
    points((1, "2026-02-01T00:00Z", "LINESTRING (0 0, 1 1)"), columns=("user_id", "tracked_at", "geom")).to_csv(
        tmp_path / "wrong.csv"
    )
    with pytest.raises(DataError, match=r"wrong.csv, line 2: the geometry 'LINESTRING .* is no POINT"):
        points_to_city(read_points(tmp_path / "wrong.csv"), timezone="UTC")


def test_files_and_folders_of_points(tmp_path):
    rows = [*DAYS_APART, at("007", 9), at("7", 9)]
    expected = convert(*rows)
    points(*rows[:2]).to_csv(tmp_path / "1.csv", index=False)
    points(*rows[2:]).to_csv(tmp_path / "2.csv.gz", index=False)
    found = points_to_city(read_points(tmp_path), timezone="UTC", bounds=BOUNDS)
    pd.testing.assert_frame_equal(found.records, expected.records)
    assert found.users["user"].tolist() == ["007", "1", "7"]
    points(*rows[2:], at("7", 12, lat=95.0)).to_csv(tmp_path / "2.csv.gz", index=False)
    with pytest.raises(DataError, match=r"2.csv.gz, line 4: latitude 95"):
        points_to_city(read_points(tmp_path), timezone="UTC")
    (tmp_path / "2.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match=r"2.csv.gz is no whole gzip file"):
        read_points(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_points(tmp_path / "3.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no points"):
        read_points(tmp_path / "empty")


def test_a_geolife_folder(tmp_path):
    header = "Geolife trajectory\nWGS 84\nAltitude is in Feet\nReserved 3\n0,2,255,My Track,0,0,2,8421376\n0\n"
    for user, hour in (("000", "23"), ("001", "02")):
        folder = tmp_path / "Data" / user / "Trajectory"
        folder.mkdir(parents=True)
        lines = [f"39.98{n},116.31{n},0,492,39744.1,2008-10-{23 + n},{hour}:53:04\n" for n in range(3)]
        (folder / "20081023025304.plt").write_text(header + "".join(lines))
    (tmp_path / "Data" / "001" / "Trajectory" / "z.plt").write_text(header)
    city = points_to_city(read_points(tmp_path), timezone="Asia/Shanghai")
    assert city.users.to_dict("list") == {"uid": [0, 1], "user": ["000", "001"]}
    assert city.records[["uid", "d", "t"]].to_numpy().tolist() == [
        [0, 1, 15], [0, 2, 15], [0, 3, 15], [1, 0, 21], [1, 1, 21], [1, 2, 21],
    ]  # fmt: skip
    with open(tmp_path / "Data" / "001" / "Trajectory" / "z.plt", "a") as file:
        file.write("400.166667,116.3,0,1,1,2008-10-23,02:53:04\n")
    with pytest.raises(DataError, match=r"z.plt, line 7: latitude 400.167"):
        points_to_city(read_points(tmp_path), timezone="Asia/Shanghai")


def test_a_record_that_lies_nowhere_is_refused():
    records = pd.DataFrame({"uid": [3], "d": [1], "t": [5], "x": [60], "y": [1]})
    calendar = Calendar(num_slots=24)
    with pytest.raises(DataError, match=r"outside the grid of 60 x 40 cells or are masked, first uid 3: x 999"):
        locate(records.assign(x=999), KYOTO, GRID, calendar)
    with pytest.raises(DataError, match="lack the columns d"):
        locate(records.drop(columns="d"), KYOTO, GRID, calendar)


@pytest.fixture(scope="module")
def kyoto(tmp_path_factory):
    """A folder of a city of 60 x 40 cells of 250 m and 24 slots a day, made from points; and its records."""
    table = people(users=10, days=30)
    table = table.assign(t=table["t"] // 2, x=(table["x"] - 60) * 59 // 80 + 1, y=(table["y"] - 60) * 39 // 80 + 1)
    table = table.assign(x=table["x"].clip(1, 60), y=table["y"].clip(1, 40))
    table = table.drop_duplicates(["uid", "d", "t"], ignore_index=True)
    located = locate(table, KYOTO, GRID, Calendar(num_days=30, num_slots=24))
    folder = tmp_path_factory.mktemp("gps")
    located["uid"] = "person " + located["uid"].astype(str)
    located["time"] = located["time"].map(lambda time: time.isoformat())
    located[["uid", "latitude", "longitude", "time"]].to_csv(folder / "points.csv", index=False)
    like = Description("kyoto", "-", GRID, Calendar(0, 30, 24, 6), 25, KYOTO)
    (folder / "like").mkdir()
    like.write(folder / "like")
    options = ["--points", str(folder / "points.csv"), "--timezone", "Asia/Tokyo", "--like", str(folder / "like")]
    assert main(["gps", *options, "--horizon_days", "5", "--output_dir", str(folder / "kyoto")]) == 0
    return folder / "kyoto", table


def test_a_city_of_points_is_opened_with_its_own_grid_and_calendar(kyoto, tmp_path, capsys):
    folder, table = kyoto
    assert pd.read_parquet(folder / "records.parquet").equals(table.astype("int64"))
    city = open_city(path=folder, cache_dir=tmp_path)
    assert (city.name, city.edition.name, city.edition.cut_day) == ("kyoto", "own", 25)
    assert (city.grid, city.calendar.num_slots, city.calendar.num_days) == (GRID, 24, 30)
    assert city.place == KYOTO
    by_name = find_city("kyoto", folder.parent)
    assert by_name == find_city("kyoto", folder) == find_city(path=folder)
    assert find_city(path=folder / "records.parquet").grid == GRID
    with pytest.raises(DataError, match="leave edition humob2024 out"):
        find_city(path=folder, edition="humob2024")
    assert main(["gps", "--points", "x", "--timezone", "UTC", "--output_dir", str(folder)]) == 1
    assert "no file" in capsys.readouterr().err


def test_another_grid_goes_through_training_scores_and_back_to_the_earth(kyoto, tmp_path, capsys):
    folder, table = kyoto
    out = tmp_path / "run"
    options = ["--data_path", str(folder), "--cache_dir", str(tmp_path / "cache"), "--output_dir", str(out), *SIZES]
    results = run(
        *parse_arguments(
            [*options, "--horizon_days", "5", "--eval_fraction", "0.4", "--max_steps", "1", "--eval_users", "0"]
        )
    )
    assert (results["city"], results["edition"], results["cut_day"]) == ("kyoto", "own", 25)
    config = json.loads((out / "config.json").read_text())
    assert [config[k] for k in ("grid_width", "grid_height", "cell_km", "num_days", "num_slots")] == [
        60,
        40,
        0.25,
        30,
        24,
    ]
    predicted = pd.read_csv(out / "predictions.csv.gz")
    held_out = json.loads((out / "run.json").read_text())["held_out_uids"]
    truth = table[(table["d"] >= 25) & table["uid"].isin(held_out)]
    assert predicted[["uid", "d", "t"]].equals(truth[["uid", "d", "t"]].reset_index(drop=True))
    assert predicted["x"].between(1, 60).all() and predicted["y"].between(1, 40).all()
    # DTW in kilometres of cells of 250 m: half of what cells of 500 m would give.
    ours = score(predicted, truth, "humob2024", grid=GRID)
    assert results["test_humob2024_dtw"] == pytest.approx(ours.dtw)
    assert score(predicted, truth, "humob2024").dtw == pytest.approx(2 * ours.dtw)

    place = ["--data_path", str(folder), "--cache_dir", str(tmp_path / "cache"), "--horizon_days", "5"]
    written = tmp_path / "submission.csv.gz"
    assert main(["predict", "--model", str(out), *place, "--output", str(written), "--device", "cpu"]) == 0
    assert main(["validate", "--prediction", str(written), "--data", str(folder)]) == 0
    files = ["--prediction", str(written), "--reference", str(folder / "records.parquet")]
    capsys.readouterr()
    assert main(["score", *files, "--edition", "humob2024", "--data", str(folder)]) == 0
    known = table[table["d"] >= 25]
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["dtw"] == pytest.approx(
        score(pd.read_csv(written), known, "humob2024", grid=GRID).dtw
    )

    record = json.loads((out / "run.json").read_text())
    text = " ".join(str(card(results, record, AutoModel.from_pretrained(out), "org/kyoto")).split())
    assert "in slots of 60 minutes on a grid of 250 m cells" in text
    assert "City kyoto, data of its own grid and days: 10 users" in text

    shape = tmp_path / "predictions.geojson"
    assert main(["locate", "--records", str(written), "--data", str(folder), "--output", str(shape)]) == 0
    features = json.loads(shape.read_text())["features"]
    assert len(features) == len(known)
    longitude, latitude = np.array([f["geometry"]["coordinates"] for f in features]).T
    properties = pd.DataFrame([f["properties"] for f in features])
    x, y = KYOTO.to_xy(latitude, longitude, GRID)
    assert np.array_equal(x, properties["x"]) and np.array_equal(y, properties["y"])
    assert (properties["user"] == "person " + properties["uid"].astype(str)).all()
    first = datetime.datetime(2026, 2, 26, tzinfo=zoneinfo.ZoneInfo("Asia/Tokyo"))
    assert pd.to_datetime(properties["time"]).min() >= first


def test_what_is_wrong_in_a_city_json_is_said(kyoto, tmp_path):
    good = json.loads((kyoto[0] / "city.json").read_text())
    for change, text in (
        (
            {"grid": {"width": 60, "hight": 40}},
            r"city.json: grid: there is no hight; the keys are width, height, cell_km",
        ),
        ({"grid": 3}, "grid: this must be a mapping"),
        ({"cut_day": 30}, "cut_day 30 leaves no history or no horizon"),
        ({"place": good["place"] | {"timezone": "Kyoto"}}, "no time zone 'Kyoto'"),
        ({"colour": "red"}, "there is no colour"),
        ({"edition": "humob2024x"}, "there is no edition 'humob2024x'"),
        ({"grid": good["grid"] | {"width": "60"}}, "city.json: grid: '<' not supported"),
        ({"place": {"latitude": 35}}, "city.json: place: it lacks longitude, timezone, first_date"),
    ):
        (tmp_path / "city.json").write_text(json.dumps(good | change))
        with pytest.raises(DataError, match=text):
            describe(tmp_path)
    del good["cut_day"], good["grid"]
    (tmp_path / "city.json").write_text(json.dumps(good))
    with pytest.raises(DataError, match=r"city.json: it lacks grid, cut_day"):
        describe(tmp_path)
    (tmp_path / "city.json").write_text("3")
    with pytest.raises(DataError, match=r"city.json: this must be a mapping of name, records"):
        describe(tmp_path)
    (tmp_path / "city.json").write_text("{")
    with pytest.raises(DataError, match=r"city.json"):
        describe(tmp_path)
