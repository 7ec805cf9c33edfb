"""Reading a city's file: every edition's names, and every refusal with its line."""

import gzip
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest

from stmoe_hf.data.editions import EDITIONS, find_file
from stmoe_hf.data.errors import DataError
from stmoe_hf.data.opening import LONGEST_LINE
from stmoe_hf.data.readers import stream_records
from stmoe_hf.model.spacetime import Calendar, Grid

from ..helpers import people

GOOD = ["3,0,5,1,1", "3,0,6,200,1", "3,74,47,1,200", "7,2,0,999,999"]


def write(path, lines, header="uid,d,t,x,y", end="\n", encoding="utf-8"):
    text = end.join([header, *lines]) + end
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wb") as file:
        file.write(text.encode(encoding))
    return path


def read(path, grid=None):
    """uid, day, slot and cell of a file, in its order."""
    blocks = list(stream_records(path, grid or Grid(), Calendar()))
    return Table(*(np.concatenate([getattr(b, name) for b in blocks]) for name in Table._fields))


class Table(NamedTuple):
    uid: np.ndarray
    day: np.ndarray
    slot: np.ndarray
    cell: np.ndarray


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
        ("3,0,7,,1", "line 6: only one of x missing and y 1 is masked"),
        (",0,7,1,1", "line 6: uid is missing"),
        ("-3,0,7,1,1", "line 6: uid is -3"),
        ("+3,0,7,1,1", "line 6: uid is '\\+3'"),
        ("99999999999999999999,0,7,1,1", "line 6: uid is 99999999999999999999, which is too large"),
        ("9,75,7,1,1", r"line 6: d is 75 \(uid 9\); the days are 0..74"),
        ("9,0,48,1,1", r"line 6: t is 48 \(uid 9\); the slots are 0..47"),
        ("9,0,7,0,1", r"line 6: x is 0 \(uid 9\); the grid has 1..200"),
        ("9,0,7,1,201", r"line 6: y is 201 \(uid 9\); the grid has 1..200"),
        ("9,0,7,999,1", "line 6: only one of x 999 and y 1 is masked"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_a_wrong_line_is_named(tmp_path, name, line, text):
    path = write(tmp_path / name, [*GOOD, line, "9,1,1,1,1"])
    with pytest.raises(DataError, match=text) as raised:
        read(path)
    assert str(path) in str(raised.value)


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
    content, cut = whole.read_bytes(), tmp_path / "cut.csv.gz"
    for length in (3, 30, len(content) // 2, len(content) - 9, len(content) - 1):
        cut.write_bytes(content[:length])
        with pytest.raises(DataError, match="no whole gzip file"):
            read(cut)
    for place in range(20, len(content), len(content) // 40):
        flipped = bytearray(content)
        flipped[place] ^= 4
        cut.write_bytes(flipped)
        with pytest.raises(DataError):
            read(cut)
    cut.write_bytes(gzip.compress(b"uid,d,t,x,y\n1,0,5,1,1\n") + gzip.compress(b"2,0,5,1,1\n"))
    assert read(cut).uid.tolist() == [1, 2]  # gzip files one after another are one
    (tmp_path / "long.csv").write_text("uid,d,t,x,y\n1,0,5,1,1\n" + "1" * 2 * LONGEST_LINE)
    with pytest.raises(DataError, match="line 3 is longer than 1,048,576 characters"):
        read(tmp_path / "long.csv")
    (tmp_path / "latin.csv").write_bytes(b"uid,d,t,x,y\n1,0,5,1,\xe9\n")
    (tmp_path / "utf16.csv").write_bytes("uid,d,t,x,y\n1,0,5,1,1\n".encode("utf-16"))
    for name in ("latin.csv", "utf16.csv"):
        with pytest.raises(DataError, match="not a text file in UTF-8"):
            read(tmp_path / name)
    (tmp_path / "open_quote.csv").write_text('uid,d,t,x,y,note\n1,0,5,1,1,"' + "1,0,5,1,1\n" * 2**20)
    with pytest.raises(DataError, match=r"line 2: .*1,0,5,1,1,"):
        read(tmp_path / "open_quote.csv")
    plain = tmp_path / "plain.csv.gz"
    plain.write_text("uid,d,t,x,y\n1,0,5,1,1\n")
    with pytest.raises(DataError, match="no whole gzip file"):
        read(plain)


def test_a_file_that_is_one_line_is_refused_in_bounded_memory(tmp_path):
    """200 MB without a line break cost less than 60 MB, in plain and in compressed form."""
    code = """
import resource, sys
from stmoe_hf.data.errors import DataError
from stmoe_hf.data.readers import stream_records
from stmoe_hf.model.spacetime import Calendar, Grid

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)

before = peak()
for path in sys.argv[1:]:
    try:
        list(stream_records(path, Grid(), Calendar()))
    except DataError as error:
        print(error)
print(peak() - before)
"""
    paths = [tmp_path / "a.csv", tmp_path / "a.csv.gz"]
    for path in paths:
        with gzip.open(path, "wb", compresslevel=1) if path.suffix == ".gz" else open(path, "wb") as file:
            file.write(b"uid,d,t,x,y\n1,0,5,1,1\n")
            for _ in range(25):
                file.write(b"1" * (8 << 20))
    done = subprocess.run([sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, check=True)
    *refused, megabytes = done.stdout.splitlines()
    assert refused == [f"{path}, line 3 is longer than 1,048,576 characters" for path in paths]
    assert float(megabytes) < 60


def test_blank_lines_count_as_lines(tmp_path):
    path = write(tmp_path / "a.csv", ["1,0,5,1,1", "", "", "1,0,6,1,1", "1,80,5,1,1"])
    with pytest.raises(DataError, match="line 6: d is 80"):
        read(path)


def test_a_missing_file_names_the_folder_and_every_accepted_name(tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        find_file("B", tmp_path)
    assert str(tmp_path) in str(raised.value)
    for name in (
        "cityB_challengedata.csv.gz",
        "cityB-dataset.csv",
        "cityB-dataset.parquet",
        "cityB-dataset/",
        "city_B_challengedata.csv",
    ):
        assert name in str(raised.value)
    with pytest.raises(DataError, match="there is no city 'Z'"):
        find_file("Z", tmp_path)


def test_parquet_is_read_as_csv_is(tmp_path):
    table = people(masked=2)
    table.to_csv(tmp_path / "a.csv", index=False)
    table.to_parquet(tmp_path / "a.parquet")
    for ours, theirs in zip(read(tmp_path / "a.csv"), read(tmp_path / "a.parquet"), strict=True):
        assert np.array_equal(ours, theirs)
    table.astype({"x": float, "y": "str"}).to_parquet(tmp_path / "other_types.parquet")
    assert np.array_equal(read(tmp_path / "other_types.parquet").cell, read(tmp_path / "a.csv").cell)
    table.assign(x=table["x"] + 0.5 * (table.index == 7)).to_parquet(tmp_path / "half.parquet")
    with pytest.raises(DataError, match=r"half.parquet, row 8: x is [0-9]+\.5, which is no whole number"):
        read(tmp_path / "half.parquet")
    table.assign(d=80).to_parquet(tmp_path / "day.parquet")
    with pytest.raises(DataError, match="row 1: d is 80"):
        read(tmp_path / "day.parquet")
    (tmp_path / "no.parquet").write_text("no")
    with pytest.raises(DataError, match="cannot be read"):
        read(tmp_path / "no.parquet")


def test_a_line_is_exact_beyond_the_first_block(tmp_path, monkeypatch):
    monkeypatch.setattr("stmoe_hf.data.readers.BLOCK_BYTES", 1000)
    lines = [f"{u},0,5,1,1" for u in range(2000)]
    lines[1500] = "1500,0,5,1,201"
    with pytest.raises(DataError, match="line 1502: y is 201"):
        read(write(tmp_path / "a.csv.gz", lines))


def test_other_grids_have_their_own_ranges(tmp_path):
    path = write(tmp_path / "a.csv", ["1,0,5,999,1200"])
    assert read(path, Grid(1000, 1500)).cell.tolist() == [1199 * 1000 + 998]
    with pytest.raises(DataError, match=r"the grid has 1\.\.1100"):
        read(path, Grid(1000, 1100))


@pytest.mark.parametrize("edition", EDITIONS)
def test_every_edition_is_found_by_its_files_names(tmp_path, edition):
    for city, names in EDITIONS[edition].files.items():
        for name in names:
            for suffix in (".csv.gz", ".csv", ".parquet", ""):
                path = tmp_path / (name + suffix)
                path.touch() if suffix else path.mkdir()
                assert find_file(city, tmp_path)[0] == path
                assert find_file(city, tmp_path)[1].name == edition
                path.unlink() if suffix else path.rmdir()


def test_the_calendar_of_2019_and_of_2025():
    y2024, y2025 = EDITIONS["humob2024"].calendar, EDITIONS["humob2025"].calendar
    assert [int(y2024.weekday(d)) for d in (0, 6, 7)] == [6, 5, 6]
    assert [d for d in range(10) if y2024.is_day_off(d)] == [0, 1, 6, 7, 8]
    assert int(y2025.weekday(1)) == 5
    assert (y2025.first_day, y2025.last_day) == (1, 75)
