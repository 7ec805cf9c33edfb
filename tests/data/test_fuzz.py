"""Files that nobody thought of: whatever is in them is read, or refused in one line; never a traceback, never a guess.

Some 20 seconds in all; for longer runs: FUZZ_EXAMPLES=100000 python -m pytest tests/data/test_fuzz.py
"""

import gzip
import os

import numpy as np
import pandas as pd
import pytest

from stmoe_hf.data.gps import points_to_city
from stmoe_hf.data.points import read_points
from stmoe_hf.data.readers import stream_records
from stmoe_hf.data.submission import read_table, validate_submission
from stmoe_hf.data.times import parse_times
from stmoe_hf.metrics import score
from stmoe_hf.model.spacetime import Calendar, Grid
from stmoe_hf.model.tables import whole

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
fuzz = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
HEADER = "uid,d,t,x,y"
# Values that were once taken wrongly, near them, and anything else.
ODD = [
    "",
    " ",
    "0x10",
    "+3",
    "1_0",
    "\uff11",
    "\u0661",
    "1e2",
    "1.0",
    "1.",
    "1.5",
    "-0",
    "007",
    "nan",
    "None",
    "True",
    '"',
    '"1"',
    "'1'",
    "999",
    "1" * 30,
    "1,5",
    "\0",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775809",
]
odd = st.sampled_from(ODD)
value = st.one_of(st.integers(-2, 210).map(str), odd, st.text(max_size=5))
row = st.lists(value, min_size=4, max_size=6).map(",".join)
good_row = st.tuples(
    st.integers(0, 9), st.integers(0, 74), st.integers(0, 47), st.integers(1, 200), st.integers(1, 200)
).map(lambda numbers: ",".join(map(str, numbers)))
end = st.sampled_from(["\n", "\r\n", "\r", "\n\n"])


@st.composite
def files(draw, header, rows):
    """The bytes of a text file: mostly right rows, some odd, then perhaps some bytes changed or packed."""
    lines = [
        draw(st.sampled_from([header, header, header.upper(), header.replace(",", ";"), draw(st.text(max_size=9))]))
    ]
    lines += draw(st.lists(rows, max_size=8))
    content = draw(end).join(lines).encode("utf-8", "surrogatepass")
    content = bytearray(content)
    for _ in range(draw(st.integers(0, 2)) * draw(st.booleans())):
        if content:
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        content = bytearray(gzip.compress(bytes(content), mtime=0))
        if draw(st.booleans()):
            content[draw(st.integers(0, len(content) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(content)


def tried(call, *arguments, **options):
    """What a call gives; None if it refuses in one short line."""
    try:
        return call(*arguments, **options)
    except (ValueError, OSError) as error:
        assert type(error).__module__.startswith(("stmoe_hf", "builtins")), type(error)
        assert not isinstance(error, UnicodeError), error
        assert len(str(error)) < 900, str(error)
        return None


def plainly(content):
    """The rows of a file as Python reads them; None if one is not five plain whole numbers."""
    text = content.decode("utf-8-sig")
    rows = [line.split(",") for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line][1:]
    if any(len(fields) != 5 or not all(field.isascii() and field.isdigit() for field in fields) for fields in rows):
        return None
    return [[int(field) for field in fields] for fields in rows]


@fuzz
@hypothesis.given(files(HEADER, st.one_of(good_row, good_row, row)), st.sampled_from(["a.csv", "a.csv.gz", "a"]))
def test_a_file_of_records_is_read_or_refused_and_all_readers_agree(tmp_path_factory, content, name):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    blocks = tried(lambda: list(stream_records(path, Grid(), Calendar())))
    table = tried(read_table, path)
    if blocks is not None:
        assert table is not None and sum(map(len, blocks)) == len(table)
    if table is not None:
        assert len(table)
        scored = tried(score, table, table, "humob2024")
        assert scored is None or scored.accuracy == 1
        if content.startswith(HEADER.encode()) and (rows := plainly(content)) is not None:
            assert table.to_numpy().tolist() == rows
    asked = pd.DataFrame({"uid": [1], "d": [60], "t": [5]})
    problems = tried(validate_submission, path, asked, Grid(), Calendar())
    if problems == []:
        assert table.to_numpy()[:, :3].tolist() == [[1, 60, 5]]


degrees = st.one_of(st.floats(-95, 95).map(repr), st.sampled_from(["35.01", "35,01", "unknown", "nan", "inf", "1_0"]))
times = st.one_of(
    st.datetimes().map(lambda time: time.isoformat() + "Z"),
    st.datetimes().map(str),
    st.integers(0, 2**62).map(str),
    st.sampled_from(
        ["2026-02-01T00:00:00-05", "unknown", "2024-02-30", "Sat May 12 03:22:06 +0000 2012", "1769940000"]
    ),
    st.text(max_size=8),
)
fix = st.tuples(st.sampled_from(["1", "ann", "007", ""]), degrees, degrees, times).map(",".join)


@fuzz
@hypothesis.given(files("uid,lat,lng,datetime", fix), st.booleans(), st.sampled_from([None, "person"]))
def test_points_become_a_city_or_are_refused(tmp_path_factory, content, skip_bad, align):
    path = tmp_path_factory.getbasetemp() / "points.csv"
    path.write_bytes(content)
    points = tried(read_points, path)
    if points is None:
        return
    options = {"skip_bad": skip_bad, "align": align, "outliers": "drop", "times_in": "UTC"}
    city = tried(points_to_city, points, timezone="Europe/Berlin", **options)
    if city is not None:
        grid, calendar = city.description.grid, city.description.calendar
        assert len(city.records) and grid.num_cells <= 1_000_000
        assert city.records["x"].between(1, grid.width).all() and city.records["y"].between(1, grid.height).all()
        assert city.records["d"].between(0, calendar.last_day).all()
        assert not city.records.duplicated(["uid", "d", "t"]).any()
        left_out = ("bad", "outliers in time", "outside the grid")
        assert len(city.bad) == sum(city.counts[name] for name in left_out)


@fuzz
@hypothesis.given(
    st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), odd))
)
def test_whole_numbers_are_exact_or_refused(values):
    number, missing, wrong = whole(values)
    assert not (missing & wrong).any()
    for value, found, lost, refused in zip(values, number.tolist(), missing, wrong, strict=True):
        if not (lost or refused):
            assert not isinstance(value, bool) and float(value) == float(found)
            assert isinstance(value, float) or int(str(value).partition(".")[0]) == found


@fuzz
@hypothesis.given(st.lists(times, min_size=1))
def test_times_are_read_or_named(values):
    found = tried(parse_times, pd.Series(values, dtype=object))
    if found is not None:
        read = np.setdiff1d(np.arange(len(values)), list(found.wrong))
        years = found.microseconds[read].astype("datetime64[us]").astype("datetime64[Y]").astype(int) + 1970
        assert ((years >= 1899) & (years <= 2200)).all()
