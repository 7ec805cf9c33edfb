"""Points as they come: every kind of file and of time, bad rows as one list, stray times and areas."""

import datetime
import gzip
import json
import re
import struct
import sys

import pandas as pd
import pytest

from stmoe_hf.__main__ import main
from stmoe_hf.data.errors import DataError
from stmoe_hf.data.gps import BadPoints, points_to_city
from stmoe_hf.data.points import read_points
from stmoe_hf.data.times import parse_times

BOUNDS = (34.9, 135.6, 35.1, 135.9)
LATITUDE, LONGITUDE = 35.0, 135.75


def stamp(minute, day=0):
    return (datetime.datetime(2026, 2, 1) + datetime.timedelta(days=day, minutes=minute)).isoformat()


def rows(count=6, end="Z"):
    """Rows uid,lat,lng,datetime of one person, one a day."""
    return [f"1,{LATITUDE},{LONGITUDE},{stamp(600, day)}{end}" for day in range(count)]


def write(path, lines, header="uid,lat,lng,datetime"):
    text = "\n".join([header, *lines] if header else lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def city(path, columns=None, header=None, **options):
    return points_to_city(read_points(path, columns, header), **{"timezone": "UTC", "bounds": BOUNDS} | options)


EXPECTED = [[1, day, 20] for day in range(6)]


def keys(found):
    return found.records[["uid", "d", "t"]].to_numpy().tolist()


BAD = {
    "1,unknown,135.75,2026-02-01T00:00:00Z": "latitude is 'unknown', which is no number",
    "uid,lat,lng,datetime": "latitude is 'lat', which is no number",
    "1,35.0,1_0,2026-02-01T00:00:00Z": "longitude is '1_0', which is no number",
    "1,\uff13\uff15,135.75,2026-02-01T00:00:00Z": "which is no number",
    "1,35.0,135.75,unknown": "the time 'unknown' is no ISO 8601 time",
    "1,35.0,135.75,2024-02-30T00:00:00Z": "the time '2024-02-30T00:00:00Z' is no ISO 8601 time",
    "1,35.0,135.75,1812-01-01T00:00:00Z": "the time lies outside the years 1900 to 2200",
    "1,35.0,135.75,-0005-01-01T00:00:00Z": "the time ",  # pandas 2 takes such years for no time at all
    "1,35.0,135.75,": "the user or the time is missing",
    ",35.0,135.75,2026-02-01T00:00:00Z": "the user or the time is missing",
    "1,95.0,135.75,2026-02-01T00:00:00Z": "latitude 95, longitude 135.75 is no place on the earth",
    "1,35.0": "2 values in place of 4: '1,35.0'",
    "1,35.0,135.75,2026-02-01T00:00:00Z,x": "5 values in place of 4",
    "1,,,2026-02-01T00:00:00Z": "latitude nan, longitude nan is no place",
}


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("line", BAD)
def test_a_bad_row_is_named_by_line_or_skipped_and_the_others_stay(tmp_path, line, name):
    path = write(tmp_path / name, ["", *rows()[:3], line, *rows()[3:]])
    with pytest.raises(BadPoints, match=r"skip_bad leaves them out") as raised:
        city(path)
    assert f"{path}, line 6: " in str(raised.value) and BAD[line] in str(raised.value)
    found = city(path, skip_bad=True)
    assert keys(found) == EXPECTED and found.counts["bad"] == 1 and found.counts["points"] == 7
    (bad,) = found.bad
    assert (bad.file, bad.line) == (str(path), 6) and BAD[line] in bad.reason


def test_bad_rows_of_all_files_are_one_list_that_is_written(tmp_path, capsys):
    (tmp_path / "points").mkdir()
    lines = list(BAD)
    one = write(tmp_path / "points" / "1.csv", [*rows(), *lines[:7]])
    two = write(tmp_path / "points" / "2.csv", [*lines[7:], *rows(3), "short"])
    options = ["--points", str(tmp_path / "points"), "--timezone", "UTC", "--bounds", *map(str, BOUNDS)]
    options += ["--bad_rows", str(tmp_path / "bad.csv")]
    assert main(["gps", *options, "--output_dir", str(tmp_path / "city")]) == 1
    refused = pd.read_csv(tmp_path / "bad.csv")
    assert main(["gps", *options, "--output_dir", str(tmp_path / "city"), "--skip_bad"]) == 0
    written = pd.read_csv(tmp_path / "bad.csv")
    assert written.equals(refused)
    expected = [(str(one), line) for line in range(8, 15)] + [(str(two), line) for line in [*range(2, 9), 12]]
    assert list(zip(written["file"], written["line"], strict=True)) == expected
    for found, reason in zip(written["reason"][: len(BAD)], BAD.values(), strict=True):
        assert reason in found
    assert "bad 15" in capsys.readouterr().out


TIMES = {
    "2026-02-01T10:00:00-05": "2026-02-01T15:00",
    "2026-02-01 10:00:00 -0400": "2026-02-01T14:00",
    "2026-02-01T10:00:00+05:30": "2026-02-01T04:30",
    "2026-02-01 10:00:00 UTC": "2026-02-01T10:00",
    "Sun Feb 01 03:22:06 +0000 2026": "2026-02-01T03:22",
    "Sun, 01 Feb 2026 03:22:06 +0000": "2026-02-01T03:22",
    "2026/02/01 10:00:00 +0900": "2026-02-01T01:00",
    "2026-02-01T10:00:00.123456Z": "2026-02-01T10:00",
    "1769940000": "2026-02-01T10:00",
    "1769940000000": "2026-02-01T10:00",
    "1769940000.5": "2026-02-01T10:00",
    "1769940000000000000": "2026-02-01T10:00",
}


@pytest.mark.parametrize("text", TIMES)
def test_times_of_every_kind_are_read_alike_in_csv_and_parquet(tmp_path, text):
    last = text.replace("Sun Feb 01", "Fri Feb 06").replace("Sun, 01", "Fri, 06").replace("02-01", "02-06")
    last = last.replace("02/01", "02/06").replace("1769940", "1770372")
    table = pd.DataFrame({"uid": 1, "lat": LATITUDE, "lng": LONGITUDE, "datetime": [text, last]})
    table.to_csv(tmp_path / "a.csv", index=False)
    table.to_parquet(tmp_path / "a.parquet")
    expected = pd.Timestamp(TIMES[text])
    for path in (tmp_path / "a.csv", tmp_path / "a.parquet"):
        found = city(path, slot_minutes=1)
        assert found.records["t"].tolist() == [expected.hour * 60 + expected.minute] * 2
        assert found.description.place.first_date == "2026-02-01"
        assert text.startswith("1769") == any("taken for unix" in line for line in found.said)


def test_numbers_are_unix_times_by_their_size_and_others_are_refused():
    for number, unit in ((1.7e9, "seconds"), (1.7e12, "milliseconds"), (1.7e15, "microseconds")):
        assert f"unix {unit}" in parse_times(pd.Series([number, number + 1, 0])).said
    for number in (5.0, 45321.5, 1e22):
        with pytest.raises(DataError, match="which are no unix times"):
            parse_times(pd.Series([number, number]))


def test_days_and_months_that_cannot_be_told_apart_need_a_time_format(tmp_path):
    lines = [f"1;35,0;135,75;{day:02}.02.2026 10:00" for day in (1, 6)]
    path = write(tmp_path / "a.csv", lines, "uid;lat;lng;datetime")  # semicolons with decimal commas
    with pytest.raises(DataError, match=r"line 2: the time '01.02.2026 10:00' is .*; give the time_format"):
        city(path, times_in="UTC")
    assert keys(city(path, times_in="UTC", time_format="%d.%m.%Y %H:%M")) == [[1, 0, 20], [1, 5, 20]]
    with pytest.raises(DataError, match="is not of the form %Y"):
        city(path, times_in="UTC", time_format="%Y")
    with pytest.raises(DataError, match="time_format '%Q' cannot be used"):
        city(path, times_in="UTC", time_format="%Q")


def point(longitude, latitude, order="<", kind=1, extra=b""):
    return (
        (b"\x01" if order == "<" else b"\x00")
        + struct.pack(f"{order}I", kind)
        + extra
        + struct.pack(f"{order}dd", longitude, latitude)
    )


GEOMETRIES = {
    "text": f"POINT ({LONGITUDE} {LATITUDE})",
    "text with a height": f"POINT Z ({LONGITUDE} {LATITUDE} 12)",
    "binary": point(LONGITUDE, LATITUDE),
    "big-endian": point(LONGITUDE, LATITUDE, ">"),
    "with a reference": point(LONGITUDE, LATITUDE, kind=0x20000001, extra=struct.pack("<I", 4326)),
    "hexadecimal": point(LONGITUDE, LATITUDE).hex(),
}


@pytest.mark.parametrize("kind", GEOMETRIES)
@pytest.mark.parametrize(
    "other",
    ["", "POINT EMPTY", "LINESTRING (0 0, 1 1)", b"\x01", b"", point(1, 2, kind=2), point(float("nan"), 0.0), None],
)
def test_points_are_read_in_every_writing_and_what_is_no_point_is_skipped(tmp_path, kind, other):
    values = [*[GEOMETRIES[kind]] * 6, other]
    if len({type(value) for value in values} - {type(None)}) > 1:
        values[-1] = other.hex() if isinstance(other, bytes) else other.encode()
    times = [stamp(600, day) + "Z" for day in [*range(6), 3]]
    table = pd.DataFrame({"user_id": 1, "geometry": values, "tracked_at": times})
    table.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(BadPoints, match=r"a.parquet, row 7: "):
        city(tmp_path / "a.parquet")
    found = city(tmp_path / "a.parquet", skip_bad=True)
    assert keys(found) == EXPECTED and found.counts["bad"] == 1


def test_geopandas_reads_what_it_knows(tmp_path):
    geopandas = pytest.importorskip("geopandas")
    shapely = pytest.importorskip("shapely")
    times = [stamp(600, day) + "Z" for day in range(6)]
    points = [*[shapely.Point(LONGITUDE, LATITUDE)] * 6]
    frame = geopandas.GeoDataFrame({"user_id": ["1"] * 6, "tracked_at": times}, geometry=points, crs="EPSG:4326")
    frame.to_file(tmp_path / "a.gpkg")
    frame.to_parquet(tmp_path / "b.parquet")
    frame.to_crs("EPSG:3857").to_parquet(tmp_path / "c.parquet")
    frame.to_crs("EPSG:3857").to_file(tmp_path / "d.gpkg")
    frame.to_file(tmp_path / "e.geojson")
    for name in ("a.gpkg", "b.parquet", "c.parquet", "d.gpkg", "e.geojson"):
        assert keys(city(tmp_path / name)) == EXPECTED, name
    assert keys(points_to_city(frame, timezone="UTC", bounds=BOUNDS)) == EXPECTED
    empty = frame.geometry.tolist()
    empty[2] = shapely.Point()
    found = points_to_city(frame.set_geometry(empty, crs=4326), timezone="UTC", bounds=BOUNDS, skip_bad=True)
    assert found.counts["bad"] == 1


def test_without_geopandas_its_files_are_refused_by_name_and_the_others_are_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "geopandas", None)
    (tmp_path / "a.gpkg").write_bytes(b"SQLite format 3\0")
    (tmp_path / "b.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    for name in ("a.gpkg", "b.geojson"):
        options = ["--points", str(tmp_path / name), "--timezone", "UTC", "--output_dir", str(tmp_path / "city")]
        assert main(["gps", *options]) == 1 and not (tmp_path / "city").exists()
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith("error: ") and name in said and said.endswith("not installed: pip install geopandas")
    assert keys(city(write(tmp_path / "c.csv", rows()))) == EXPECTED


def test_files_without_a_header_are_told_and_read_by_position(tmp_path):
    lines = [f"x\t1\tcaf\u00e9\t{LATITUDE}\t{LONGITUDE}\tSun Feb {day:02} 10:00:00 +0000 2026" for day in range(1, 7)]
    path = write(tmp_path / "checkins.txt", lines, None)
    with pytest.raises(DataError, match=r"line 1: the file has no header: .*Name its 6 columns by position"):
        read_points(path)
    assert keys(city(path, header=["-", "uid", "-", "lat", "lng", "datetime"])) == EXPECTED
    path.write_bytes(path.read_bytes().replace("\u00e9".encode(), b"\xe9"))  # another encoding where nothing is read
    assert keys(city(path, header=["-", "uid", "-", "lat", "lng", "datetime"])) == EXPECTED
    with pytest.raises(DataError, match="line 1 has 6 columns; 2 are named"):
        read_points(path, header=["uid", "lat"])


def test_gpx_and_google_timeline_are_read(tmp_path):
    times = [stamp(600, day) + "Z" for day in range(6)]
    tracks = "".join(f'<trkpt lat="{LATITUDE}" lon="{LONGITUDE}"><time>{time}</time></trkpt>' for time in times)
    start = '<gpx xmlns="http://www.topografix.com/GPX/1/1"><trk><trkseg>'
    degrees = f"{LATITUDE}\u00b0, {LONGITUDE}\u00b0"
    e7 = {"latitudeE7": round(LATITUDE * 1e7), "longitudeE7": round(LONGITUDE * 1e7)}
    milliseconds = [str(int(pd.Timestamp(time).timestamp() * 1000)) for time in times]
    ios = {"point": f"geo:{LATITUDE},{LONGITUDE}", "durationMinutesOffsetFromStartTime": "30"}
    files = {
        "1.gpx": f"{start}{tracks}</trkseg></trk></gpx>",
        "1.records.json": {"locations": [e7 | {"timestamp": time} for time in times]},
        "1.old.json": {"locations": [e7 | {"timestampMs": time} for time in milliseconds]},
        "1.android.json": {"semanticSegments": [{"timelinePath": [{"point": degrees, "time": t} for t in times]}]},
        "1.raw.json": {"rawSignals": [{"position": {"LatLng": degrees, "timestamp": time}} for time in times]},
        "1.ios.json": [{"startTime": stamp(570, day) + "Z", "timelinePath": [ios]} for day in range(6)],
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        assert keys(city(tmp_path / name)) == EXPECTED, name
    for name, content, said in (
        ("a.gpx", start, "no whole GPX file"),
        ("b.gpx", "<gpx></gpx>", "it holds no points of a track"),
        ("c.json", "{", "is no JSON"),
        ("d.json", '{"timelineObjects": []}', "give Records.json of the same export"),
        ("e.json", '[{"startTime": 3, "timelinePath": [{}]}]', "no export of Google's Timeline that is known"),
        ("f.json", "3", "no export of Google's Timeline"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=said):
            read_points(tmp_path / name)


@pytest.mark.parametrize("date", ["1970-01-01", "2004-05-06", "2043-01-01", "1999-12-31"])
def test_a_stray_time_is_named_and_dropped_on_request(tmp_path, date):
    lines = [f"1,{LATITUDE},{LONGITUDE},{stamp(30 * i)}Z" for i in range(960)]
    lines.insert(500, f"1,{LATITUDE},{LONGITUDE},{date}T00:00:00Z")
    path = write(tmp_path / "a.csv", lines)
    with pytest.raises(BadPoints, match=rf"1 points are years away .*line 502: the date is {date} \(outliers drop"):
        city(path)
    found = city(path, outliers="drop")
    assert found.description.calendar.num_days == 20 and found.counts["outliers in time"] == 1
    assert [bad.line for bad in found.bad] == [502] and "they are left out" in found.said[0]
    assert city(path, first_date="2026-02-01", num_days=20).counts["outside the days"] == 1
    kept = city(path, first_date=min(date, "2026-02-01"), outliers="keep", num_days=30_000)
    assert kept.description.calendar.num_days == 30_000


def test_a_calendar_of_decades_is_never_made_unasked():
    table = pd.DataFrame({"uid": [1, 2], "lat": 35.0, "lng": 135.7, "datetime": ["1990-01-01T00Z", "2026-01-01T00Z"]})
    with pytest.raises(DataError, match="the points span 13,150 days, from 1990-01-01 to 2026-01-01: give first_date"):
        points_to_city(table, timezone="UTC", bounds=BOUNDS)


def test_a_grid_is_fitted_to_where_most_points_are_and_the_rest_is_named():
    times = [stamp(30 * i) + "Z" for i in range(961)]
    table = pd.DataFrame({"uid": 1, "lat": LATITUDE, "lng": LONGITUDE, "datetime": times})
    table.loc[::7, ["lat", "lng"]] = [35.1, 135.9]
    stray = table.copy()
    stray.loc[960, "lat"] = -60.0
    found = points_to_city(stray, timezone="UTC")
    assert max(found.description.grid.width, found.description.grid.height) < 40
    assert found.counts["outside the grid"] == 1
    assert "1 points lie outside of the grid, which is fitted" in found.said[0]
    assert "row 960: latitude -60, longitude" in found.said[0] and [bad.line for bad in found.bad] == [960]
    traveller = table.copy()
    traveller.loc[600:, ["lat", "lng"]] = [48.85, 2.35]
    found = points_to_city(traveller, timezone="UTC")
    assert found.description.grid.width < 40 and found.counts["outside the grid"] == 361
    neighbours = table.copy()
    neighbours.loc[600:, ["lat", "lng"]] = [35.7, 139.7]  # of two cities 370 km apart both stay
    found = points_to_city(neighbours, timezone="UTC")
    assert found.counts["outside the grid"] == 0 and found.description.grid.width > 600


def test_a_few_points_that_make_a_grid_large_are_named_by_line_and_dropped_on_request(tmp_path):
    lines = [f"1,{LATITUDE + i % 9 / 100},{LONGITUDE},{stamp(30 * i)}Z" for i in range(960)]
    lines[299] = f"1,{LATITUDE + 1.3},{LONGITUDE},{stamp(30 * 299)}Z"  # 145 km away
    path = write(tmp_path / "a.csv", lines)
    whole = city(path, bounds=None)
    assert whole.description.grid.height > 250 and not whole.bad and whole.counts["outside the grid"] == 0
    assert re.search(r"1 points far .* x 2\d\d cells .*csv, line 301: latitude 36.3.*outliers drop", whole.said[0])
    found = city(path, bounds=None, outliers="drop")
    assert found.description.grid.height < 60 and found.counts["outside the grid"] == 1
    assert [bad.line for bad in found.bad] == [301] and "line 301" in found.said[0]


def test_latitude_and_longitude_that_are_exchanged_are_noticed_by_the_time_zone():
    table = pd.DataFrame({"uid": 1, "lat": 13.4, "lng": 52.5, "datetime": [stamp(0) + "Z", stamp(0, 3) + "Z"]})
    with pytest.raises(DataError, match=r"far from Europe/Berlin; exchanged they would lie there"):
        points_to_city(table, timezone="Europe/Berlin")
    right = table.rename(columns={"lat": "lng", "lng": "lat"})
    assert len(points_to_city(right, timezone="Europe/Berlin").records) == 2
    assert len(points_to_city(table, timezone="Asia/Aden").records) == 2
    assert len(points_to_city(table, timezone="Europe/Berlin", bounds=(13, 52, 14, 53)).records) == 2


ZONES = {"Asia/Pekin": "Asia/", "Berlin": "Europe/Berlin", "europe/berlin": "Europe/Berlin", "": ""}


@pytest.mark.parametrize("wrong", ZONES)
def test_a_time_zone_that_does_not_exist_is_refused_with_near_names(wrong):
    table = pd.DataFrame({"uid": 1, "lat": 35.0, "lng": 135.7, "datetime": ["2026-01-01T00Z"]})
    for options in ({"timezone": wrong}, {"timezone": "UTC", "times_in": wrong}):
        with pytest.raises(DataError, match=f"there is no time zone '{wrong}'; give a name such as {ZONES[wrong]}"):
            points_to_city(table, **options)


def test_points_of_every_kind_of_table_are_taken():
    polars = pytest.importorskip("polars")
    table = pd.DataFrame([row.split(",") for row in rows(end="+09:00")], columns=["uid", "lat", "lng", "datetime"])
    expected = points_to_city(table, timezone="Asia/Tokyo", bounds=BOUNDS)
    zoned = table.assign(datetime=pd.to_datetime(table["datetime"]))
    for kind in (
        zoned, polars.from_pandas(zoned), table.to_dict("records"), table.to_dict("list"), [table[:3], table[3:]],
        (row for row in table.to_dict("records")), zoned.astype({"lat": float, "lng": float}),
    ):  # fmt: skip
        found = points_to_city(kind, timezone="Asia/Tokyo", bounds=BOUNDS)
        pd.testing.assert_frame_equal(found.records, expected.records)
    with pytest.raises(DataError, match="this is no table but int"):
        points_to_city(3, timezone="UTC")
