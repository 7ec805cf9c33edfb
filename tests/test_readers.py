"""Reading a city's file: every edition's names, and every refusal with its line."""

import gzip
import logging

import numpy as np
import pytest

from stmoe_hf.data.city import open_city
from stmoe_hf.data.editions import EDITIONS, find_file
from stmoe_hf.data.errors import DataError
from stmoe_hf.data.readers import read_records
from stmoe_hf.spacetime import Calendar, Grid

from .people import people, write_city

GOOD = ["3,0,5,1,1", "3,0,6,200,1", "3,74,47,1,200", "7,2,0,999,999"]


def write(path, lines, header="uid,d,t,x,y", end="\n", encoding="utf-8"):
    text = end.join([header, *lines]) + end
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wb") as file:
        file.write(text.encode(encoding))
    return path


def read(path):
    return read_records(path, Grid(), Calendar())


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_records_are_read(tmp_path, name, end):
    records = read(write(tmp_path / name, GOOD, end=end))
    assert records.uid.tolist() == [3, 3, 3, 7]
    assert records.day.tolist() == [0, 0, 74, 2]
    assert records.slot.tolist() == [5, 6, 47, 0]
    assert records.cell.tolist() == [0, 199, 199 * 200, 40000]


def test_columns_may_stand_in_any_order_with_others_between_them(tmp_path):
    path = write(tmp_path / "a.csv", ["9,1,2,3,0,5"], header="note,x,y,uid,d,t")
    assert read(path).cell.tolist() == [200]


def test_a_byte_order_mark_quotes_large_uids_and_blank_last_lines_are_no_trouble(tmp_path):
    path = write(tmp_path / "a.csv", ['"5000000000",0,5,1,1', ""], header="\ufeffuid,d,t,x,y")
    assert read(path).uid.tolist() == [5_000_000_000]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("3,0,7,1", "line 6: 4 values in place of 5"),
        ("3,0,7,1,1,1", "line 6: 6 values in place of 5"),
        ("3,0,7,1,one", "line 6: y is 'one'"),
        ("3,0,7,1.5,1", "line 6: x is '1.5'"),
        ("3,0,7,,1", "line 6: x is ''"),
        ("-3,0,7,1,1", "line 6: uid is -3"),
        ("9,75,7,1,1", r"line 6: d is 75 \(uid 9\); the days are 0..74"),
        ("9,0,48,1,1", r"line 6: t is 48 \(uid 9\); the slots are 0..47"),
        ("9,0,7,0,1", r"line 6: x is 0 \(uid 9\); the grid has 1..200"),
        ("9,0,7,1,201", r"line 6: y is 201 \(uid 9\); the grid has 1..200"),
        ("9,0,7,999,1", "line 6: only one of x 999 and y 1 is masked"),
        ("3,0,6,4,4", "lines 3 and 6: two records of uid 3 on day 0, slot 6"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_a_wrong_line_is_named(tmp_path, name, line, text):
    path = write(tmp_path / name, [*GOOD, line, "9,1,1,1,1"])
    with pytest.raises(DataError, match=text) as raised:
        read(path)
    assert str(path) in str(raised.value)


def test_an_unsorted_file_is_sorted_with_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        records = read(write(tmp_path / "a.csv", GOOD[::-1]))
    assert records.uid.tolist() == [3, 3, 3, 7]
    assert records.slot.tolist() == [5, 6, 47, 0]
    assert "it was sorted" in caplog.text


@pytest.mark.parametrize("header", ["uid,d,t,x", "user,d,t,x,y", "3,0,5,1,1"])
def test_a_wrong_or_missing_header_is_refused(tmp_path, header):
    with pytest.raises(DataError, match=r"line 1: .*they must be uid,d,t,x,y"):
        read(write(tmp_path / "a.csv", GOOD, header=header))


def test_files_that_are_empty_cut_or_no_text(tmp_path):
    (tmp_path / "empty.csv").touch()
    with pytest.raises(DataError, match="is empty"):
        read(tmp_path / "empty.csv")
    with pytest.raises(DataError, match="holds no record"):
        read(write(tmp_path / "header.csv", []))
    whole = write(tmp_path / "whole.csv.gz", [f"{u},0,5,1,1" for u in range(5000)])
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(whole.read_bytes()[:-2000])
    with pytest.raises(DataError, match="no whole gzip file"):
        read(cut)
    (tmp_path / "latin.csv").write_bytes(b"uid,d,t,x,y\n1,0,5,1,\xe9\n")
    with pytest.raises(DataError, match=r"UTF-8|y is"):
        read(tmp_path / "latin.csv")
    plain = tmp_path / "plain.csv.gz"
    plain.write_text("uid,d,t,x,y\n1,0,5,1,1\n")
    with pytest.raises(DataError, match="no whole gzip file"):
        read(plain)


def test_a_missing_file_names_the_folder_and_every_accepted_name(tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        find_file("B", tmp_path)
    assert str(tmp_path) in str(raised.value)
    for name in ("cityB_challengedata.csv.gz", "cityB-dataset.csv", "city_B_challengedata.csv"):
        assert name in str(raised.value)
    with pytest.raises(DataError, match="there is no city 'Z'"):
        find_file("Z", tmp_path)


@pytest.mark.parametrize("edition", EDITIONS)
def test_every_edition_is_found_by_its_files_names(tmp_path, edition):
    for city, names in EDITIONS[edition].files.items():
        for name in names:
            for suffix in (".csv.gz", ".csv"):
                path = tmp_path / (name + suffix)
                path.touch()
                assert find_file(city, tmp_path)[0] == path
                assert find_file(city, tmp_path)[1].name == edition
                path.unlink()


def test_a_city_is_prepared_once_and_again_when_its_file_changes(tmp_path):
    folder, cache = write_city(tmp_path / "data", masked=2), tmp_path / "cache"
    first = open_city("B", folder, cache_dir=cache)
    written = {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")}
    open_city("B", folder, cache_dir=cache)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")} == written
    write_city(folder, users=5)
    assert open_city("B", folder, cache_dir=cache).num_users == 5
    assert first.num_users == 12
    assert not list(cache.glob(".prepare-*"))


def test_a_city_holds_what_the_file_holds(tmp_path):
    table = people(masked=2)
    city = open_city("B", write_city(tmp_path / "data", masked=2), cache_dir=tmp_path / "cache")
    assert city.num_records == len(table)
    assert city.num_masked == (table["x"] == 999).sum()
    for row in range(len(city)):
        person = city.trajectory(row)
        records = table[table["uid"] == person.uid]
        assert np.array_equal(person.day, records["d"])
        assert np.array_equal(person.slot, records["t"])
        known = records["x"].to_numpy() != 999
        expected = np.where(known, (records["y"] - 1) * 200 + records["x"] - 1, 40000)
        assert np.array_equal(person.cell, expected)
    assert city.dataset.column_names == ["uid", "records", "masked", "day", "slot", "cell"]
    part = city.select(np.array([3, 1]))
    assert [part.trajectory(i).uid for i in range(2)] == [3, 1]


def test_a_refused_file_leaves_nothing_prepared(tmp_path):
    path = write(tmp_path / "cityB_challengedata.csv", [*GOOD, "9,75,7,1,1"])
    with pytest.raises(DataError):
        open_city("B", tmp_path, cache_dir=tmp_path / "cache")
    assert not [p for p in (tmp_path / "cache").iterdir() if p.is_dir()]
    write(path, GOOD)
    assert open_city("B", tmp_path, cache_dir=tmp_path / "cache").num_users == 2


def test_the_calendar_of_2019_and_of_2025():
    y2024, y2025 = EDITIONS["humob2024"].calendar, EDITIONS["humob2025"].calendar
    assert [int(y2024.weekday(d)) for d in (0, 6, 7)] == [6, 5, 6]
    assert [d for d in range(10) if y2024.is_day_off(d)] == [0, 1, 6, 7, 8]
    assert int(y2025.weekday(1)) == 5
    assert (y2025.first_day, y2025.last_day) == (1, 75)
