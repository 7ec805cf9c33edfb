"""Partitioning: rows in any order become rows of people, the same whatever the order and the files they came in."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from stmoe_hf.__main__ import main
from stmoe_hf.data.errors import DataError
from stmoe_hf.data.gps import points_to_city
from stmoe_hf.scale import partition as module
from stmoe_hf.scale.partition import file_of, partition

from ..helpers import people


@pytest.fixture
def points() -> pd.DataFrame:
    """Points of three people in any order."""
    random = np.random.default_rng(0)
    time = pd.Timestamp("2026-03-01", tz="UTC") + pd.to_timedelta(random.integers(0, 10 * 86400, 600), unit="s")
    user = random.choice(["anna", "007", "12"], 600)
    return pd.DataFrame(
        {"user": user, "lat": random.normal(52.5, 0.02, 600), "lng": random.normal(13.4, 0.02, 600), "datetime": time}
    )


def flat(folder, names) -> pd.DataFrame:
    table = pd.read_parquet(folder).explode(names, ignore_index=True)
    return table[["uid", *names]].astype(int).sort_values(["uid", *names[:2]], ignore_index=True)


def test_records_in_any_order_and_of_any_files_give_the_same_people(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 4096)  # so that a person is in many blocks
    records = people(masked=2)
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    records.to_csv(tmp_path / "one" / "records.csv", index=False)
    mixed = records.sample(frac=1, random_state=1)
    for number, part in enumerate(mixed.iloc[place] for place in np.array_split(np.arange(len(mixed)), 3)):
        if number:
            part.to_csv(tmp_path / "many" / f"{number}.csv.gz", index=False)
        else:
            part.to_parquet(tmp_path / "many" / "0.parquet", index=False)
    for name in ("one", "many"):
        counts = partition(str(tmp_path / name), str(tmp_path / f"{name}-out"), files=3)
        assert (counts.rows, counts.people) == (len(records), 12)
    for path in sorted((tmp_path / "one-out").glob("*.parquet")):
        table = pq.read_table(path)
        assert table.equals(pq.read_table(tmp_path / "many-out" / path.name))
        assert set(file_of(table["uid"].to_numpy(), 3)) == {int(path.stem[-1])}
    expected = records.set_axis(["uid", "day", "slot", "x", "y"], axis=1)
    assert flat(tmp_path / "one-out", ["day", "slot", "x", "y"]).equals(expected.astype(int))


@pytest.mark.parametrize("most", [40, 2**61])  # of which the second leaves no room for both in one number
def test_rows_are_put_in_order_by_person_and_time_and_keep_theirs_where_both_are_alike(most):
    random = np.random.default_rng(0)
    uid, time = random.integers(0, most, 500), random.integers(0, most, 500)
    uid[:100], time[:100] = uid[100:200], time[100:200]
    assert np.array_equal(module._by_person(uid, time), np.lexsort((time, uid)))


def test_people_lie_in_files_evenly():
    counts = np.bincount(file_of(np.arange(100_000), 64), minlength=64)
    assert counts.min() > 1400 and counts.max() < 1730


@pytest.mark.parametrize("unit", ["s", "ms", "us", "iso"])
def test_points_become_the_records_of_points_to_city(points, tmp_path, unit):
    where = {"timezone": "Europe/Berlin", "bounds": (52.4, 13.3, 52.6, 13.5)}
    days = {"first_date": "2026-03-01", "num_days": 11}
    table = points
    if unit != "iso":
        number = points["datetime"].dt.tz_localize(None).astype(f"datetime64[{unit}]").astype(np.int64)
        table = points.assign(datetime=number)
    table.to_csv(tmp_path / "points.csv", index=False)
    assert (
        main(["partition", "--input", str(tmp_path / "points.csv"), "--output", str(tmp_path / "p"), "--files", "2"])
        == 0
    )
    options = "--timezone Europe/Berlin --bounds 52.4 13.3 52.6 13.5 --first_date 2026-03-01 --num_days 11 --workers 1"
    assert main(["gps", "--input", str(tmp_path / "p"), "--output", str(tmp_path / "r"), *options.split()]) == 0
    city = points_to_city(points, **where, **days)
    names = pd.read_parquet(tmp_path / "r").set_index("uid")["user"]
    assert set(names) == {"anna", "007", "12"} and names.loc[12] == "12"
    ours = pd.read_parquet(tmp_path / "r").explode(["day", "slot", "x", "y"])
    theirs = city.records.merge(city.users, on="uid")[["user", "d", "t", "x", "y"]]
    ours = ours[["user", "day", "slot", "x", "y"]].set_axis(theirs.columns, axis=1)
    keys = ["user", "d", "t"]
    order = [part.astype(str).sort_values(keys, ignore_index=True) for part in (ours, theirs)]
    assert order[0].equals(order[1])


def test_rows_that_cannot_be_read_are_set_aside_with_their_file_row_and_reason(tmp_path):
    lines = ["uid,d,t,x,y", "1,0,3,5,5", "1,zero,3,5,5", "2,0,3,999,999", "2,0,4,,", "2,0", ",0,5,1,1", "3,1,1,7.5,1"]
    (tmp_path / "r.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="4 rows cannot be read, more than --max_bad 0"):
        partition(str(tmp_path / "r.csv"), str(tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*.parquet"))
    counts = partition(str(tmp_path / "r.csv"), str(tmp_path / "out"), max_bad=4)
    assert (counts.rows, counts.people, len(counts.bad)) == (3, 2, 4)
    bad = pd.read_csv(tmp_path / "out" / "_quarantine" / "rows.csv")
    assert bad["reason"].str.cat(sep=";").count("which is no number of its kind") == 2
    assert "uid is missing" in set(bad["reason"]) and "2 values in place of 5" in set(bad["reason"])


def test_what_cannot_be_partitioned_is_refused_in_one_line(points, tmp_path, capsys):
    points.assign(datetime=points["datetime"].dt.tz_localize(None)).to_csv(tmp_path / "p.csv", index=False)
    points.drop(columns="lat").to_csv(tmp_path / "q.csv", index=False)
    for name, text in (("p.csv", "times have no zone"), ("q.csv", "there is none for latitude")):
        assert main(["partition", "--input", str(tmp_path / name), "--output", str(tmp_path / "out")]) == 1
        assert text in capsys.readouterr().err
    assert main(["partition", "--input", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 1
    options = ["--input", str(tmp_path / "p.csv"), "--output", str(tmp_path / "out"), "--times_in", "UTC"]
    assert main(["partition", *options]) == 0
    assert main(["partition", *options]) == 1
    assert "holds parquet files already" in capsys.readouterr().err
