"""Arrow in, Arrow out: what is said of a person depends on the person and the model, to the last bit."""

import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import stmoe_hf
from stmoe_hf.data.city_counts import count_city
from stmoe_hf.data.errors import DataError
from stmoe_hf.data.geography import Place
from stmoe_hf.model.spacetime import Calendar, Grid
from stmoe_hf.prediction.forecast import forecast
from stmoe_hf.prediction.predict import PredictionSettings
from stmoe_hf.scale.batches import PredictJob, fingerprint, forecast_batches
from stmoe_hf.scale.points import GpsJob

from ..helpers import city_of, people
from .fixtures import DAYS, job, rows

LAST_DAY = Calendar().last_day


def answers(job, batches, **options) -> pa.Table:
    return pa.Table.from_batches(job(batches, **options), schema=job.schema())


@pytest.mark.parametrize("settings", [{"decoder": "day"}, {"top_k": 3}, {"decoder": None, "samples": 2}])
def test_a_person_gets_the_same_answer_whoever_shares_the_batch(model, settings):
    table = rows(users=5)
    ours = job(model, slots=None, **({"decoder": "mode"} | settings))
    together = answers(ours, table.to_batches())
    for person in (4, 0, 2):
        alone = answers(ours, table.slice(person, 1).to_batches())
        assert together.filter(pa.compute.equal(together["uid"], person)).equals(alone)
    turned = table.take([3, 1, 4, 0, 2])
    split = answers(ours, turned.to_batches(max_chunksize=2))
    order = [("uid", "ascending"), ("d", "ascending"), ("t", "ascending")]
    order += [("sample" if settings.get("samples") else "rank", "ascending")]
    assert split.sort_by(order).equals(together.sort_by(order))
    assert pd.unique(split["uid"].to_pandas()).tolist() == [3, 1, 4, 0, 2]


def test_the_answers_are_those_of_forecast(model):
    ours = pa.Table.from_batches(forecast_batches(rows(users=3).to_batches(), model=model, days=2)).to_pandas()
    table = forecast(people(users=3, days=DAYS), model=model, days=2)
    keys = ["uid", "d", "t", "rank", "x", "y"]
    assert (ours[keys].to_numpy() == table[keys].to_numpy()).all()
    np.testing.assert_allclose(ours["probability"], table["probability"], atol=1e-6)


def test_the_counts_of_a_city_are_told_to_everybody_alike_and_are_among_the_settings(tmp_path):
    crowd = people(users=12, days=DAYS).assign(x=lambda t: t["x"] % 7 + 90, y=lambda t: t["y"] % 7 + 90)
    city, file = city_of(tmp_path, crowd), tmp_path / "counts.parquet"
    count_city(city, DAYS, min_people=3).save(file)
    table = rows(users=3)
    told = job(None, field=str(file)).pinned()
    together = answers(told, table.to_batches())
    assert together.filter(pa.compute.equal(together["uid"], 2)).equals(answers(told, table.slice(2, 1).to_batches()))
    nobody = job(None).pinned()
    assert not together["probability"].equals(answers(nobody, table.to_batches())["probability"])
    assert told.settings()["counts"] and "field" not in told.settings() and "counts" not in nobody.settings()
    count_city(city, DAYS, min_people=2).save(file)
    again = job(None, field=str(file)).pinned()  # the same file with another content, in the same process
    assert again.counts != told.counts
    assert not answers(again, table.to_batches())["probability"].equals(together["probability"])
    with pytest.raises(DataError, match=r"the counts of .* are \w{12} here and \w{12} there"):
        answers(told, table.to_batches())
    with pytest.raises(DataError, match=f"to predict day {DAYS - 5}, count fewer"):
        job(None, field=str(file), from_day=DAYS - 5).pinned()


def test_records_of_a_place_come_back_with_latitude_longitude_and_time(model):
    place = Place(48.1, 11.6, "Europe/Berlin", "2026-03-01")
    ours = job(model, place=place, grid=Grid(), calendar=Calendar())
    table = answers(ours, rows(users=1).to_batches()).to_pandas()
    day = people(users=1, days=DAYS)["d"].max() + 1
    assert str(table["time"].iloc[1]) == str(
        pd.Timestamp("2026-03-01 08:30", tz="Europe/Berlin") + pd.DateOffset(days=day)
    )
    assert table["latitude"].between(47, 49).all()


def test_what_people_are_called_goes_into_the_answer(model):
    table = rows(users=2).append_column("user", pa.array(["anna", "007"]))
    found = answers(job(model, with_user=True), table.to_batches()).to_pandas()
    assert found.drop_duplicates("uid")["user"].tolist() == ["anna", "007"]


def bad_rows() -> pa.Table:
    good = {"uid": 1, "day": [0, 1], "slot": [3, 3], "x": [5.0, 6.0], "y": [5.0, 6.0]}
    wrong = [
        ({"uid": None}, "the uid is missing"),
        ({"uid": 1}, "the person was there before"),
        ({"day": None}, "day is missing"),
        ({"day": [0]}, "different lengths"),
        ({"day": [], "slot": [], "x": [], "y": []}, "no record"),
        ({"day": [0, LAST_DAY + 1]}, f"record 1: day {LAST_DAY + 1} is no whole number of 0..{LAST_DAY}"),
        ({"slot": [48, 3]}, "record 0: slot 48"),
        ({"slot": [None, 3]}, "record 0: slot nan"),
        ({"x": [5.0, 201.0]}, "record 1, day 1, slot 3: cell (201, 6) lies outside the grid of 200 x 200"),
        ({"x": [5.0, None]}, "masked by half"),
        ({"y": [5.5, 6.0]}, "is no cell"),
        ({"day": [1, 1]}, "two records on day 1, slot 3"),
    ]
    people = [good] + [good | {"uid": 10 + i} | change for i, (change, _) in enumerate(wrong)]
    return pa.Table.from_pylist(people), [reason for _, reason in wrong]


def test_rows_that_cannot_be_read_are_named_with_their_reason_and_the_others_are_answered(model):
    table, reasons = bad_rows()
    found = []
    done = answers(job(model), table.to_batches(max_chunksize=5), quarantine=found.append)
    assert set(done["uid"].to_pylist()) == {1}
    assert sorted(bad.row for bad in found) == list(range(1, len(reasons) + 1))
    for bad in found:
        assert reasons[bad.row - 1] in bad.reason
    with pytest.raises(DataError, match="row 1, uid None: the uid is missing"):
        list(job(model)(table.to_batches()))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.drop_columns("slot"), "there is no list slot: `stmoe partition` makes such rows"),
        (lambda t: t.set_column(0, "uid", t["uid"].cast(pa.string())), "the column uid is string"),
        (lambda t: t.set_column(1, "day", pa.array([1, 2])), "the column day is int64; it must be a list"),
    ],
)
def test_other_columns_are_refused_in_one_line(model, change, text):
    with pytest.raises(DataError, match=text):
        list(job(model)(change(rows(users=2)).to_batches()))


def test_masked_records_are_predicted_as_by_predict(model, tmp_path):
    records = people(users=3, masked=2)
    records.to_csv(tmp_path / "cityB_challengedata.csv", index=False)
    lists = records.rename(columns={"d": "day", "t": "slot"}).groupby("uid").agg(list).reset_index()
    how = {"model": model, "device": "cpu"}
    ours = PredictJob(**how, prediction=PredictionSettings(decoder="mode"))
    found = answers(ours, pa.Table.from_pandas(lists, preserve_index=False).to_batches()).to_pandas()
    where = {"data_dir": tmp_path, "cache_dir": tmp_path / "cache", "device": "cpu", "batch_size": 1}
    table = stmoe_hf.predict(model, city="B", decoder="mode", **where)
    assert (found.to_numpy() == table.to_numpy()).all()
    everybody = answers(
        PredictJob(**how, prediction=PredictionSettings(decoder="mode"), cut_day=70),
        pa.Table.from_pandas(lists, preserve_index=False).to_batches(),
    )
    assert set(everybody["uid"].to_pylist()) == {0, 1, 2}


def test_a_job_can_be_sent_and_a_worker_with_other_weights_refuses(model, tmp_path):
    pinned = pickle.loads(pickle.dumps(job(model).pinned()))
    assert pinned.weights == fingerprint(model) == fingerprint(str(model))
    other = job(model, weights="0" * 64)
    with pytest.raises(DataError, match="there"):
        list(other(rows(users=1).to_batches()))


def test_points_outside_of_the_grid_and_the_days_leave_their_person_out_with_the_reason():
    place = Place(52.5, 13.4, "Europe/Berlin", "2026-03-01")
    gps = GpsJob(Grid(20, 20), Calendar(num_days=7), place)
    stamp = pd.Timestamp("2026-03-02 09:10", tz="Europe/Berlin")
    late = stamp + pd.Timedelta("30D")
    points = [
        {"uid": 4, "time": [stamp, stamp], "latitude": [52.5, 52.51], "longitude": [13.4, 13.4]},
        {"uid": 5, "time": [late], "latitude": [52.5], "longitude": [13.4]},
        {"uid": 6, "time": [stamp], "latitude": [91.0], "longitude": [13.4]},
    ]
    schema = pa.schema(
        [("uid", pa.int64()), ("time", pa.list_(pa.timestamp("us", "UTC")))]
        + [(name, pa.list_(pa.float64())) for name in ("latitude", "longitude")]
    )
    found = []
    (batch,) = gps(pa.Table.from_pylist(points, schema).to_batches(), found.append)
    assert batch.to_pylist() == [{"uid": 4, "day": [1], "slot": [18], "x": [11], "y": [11]}]
    assert sorted((bad.uid, bad.reason[:8]) for bad in found) == [(5, "no point"), (6, "point 0 ")]
