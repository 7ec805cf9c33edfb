"""Forecasts: what is said of a slot depends on the person alone; days that no file has; refusals in one line."""

import logging

import numpy as np
import pandas as pd
import pytest

from stmoe_hf import MobilityProcessor
from stmoe_hf.__main__ import main
from stmoe_hf.data.errors import DataError
from stmoe_hf.data.sources import open_source
from stmoe_hf.data.tables import table_writer
from stmoe_hf.model.spacetime import Grid
from stmoe_hf.prediction.forecast import forecast

from ..helpers import people, portable_model, small_model


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """The folder of a small portable network."""
    folder = tmp_path_factory.mktemp("portable")
    portable_model(temperature=0.8).save_pretrained(folder)
    MobilityProcessor(40, 30, num_days=40).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def records() -> pd.DataFrame:
    return people(users=4, days=20)


@pytest.fixture(scope="module")
def points() -> pd.DataFrame:
    """Two people of Berlin in the fortnight before the clocks change, one point in most half-hours of the day."""
    random = np.random.default_rng(0)
    parts = []
    for user, home in (("anna", 13.40), ("007", 13.45)):
        time = pd.date_range("2026-03-14 06:00", "2026-03-27 21:30", freq="30min", tz="Europe/Berlin")
        time = time[(time.hour >= 6) & (random.random(len(time)) < 0.6)]
        work = (time.hour >= 9) & (time.hour < 17) & (time.day_of_week < 5)
        longitude = np.where(work, 13.38, home) + random.normal(0, 0.001, len(time))
        parts.append(pd.DataFrame({"user": user, "lat": 52.52, "lng": longitude, "datetime": time}))
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize("decoder", ["day", "mode", "balanced"])
def test_what_is_said_of_a_slot_depends_on_nothing_else_that_is_asked(model, records, decoder):
    keys = ["uid", "d", "t"]
    everything = forecast(records, days=5, decoder=decoder, model=model).set_index(keys)
    some = forecast(records, days=3, slots=[3, 20, 21], decoder=decoder, model=model).set_index(keys)
    alone = forecast(records[records["uid"] == 2], days=2, slots=[20], decoder=decoder, model=model, batch_size=1)
    assert len(everything) == 4 * 5 * 48
    assert len(some) == 4 * 3 * 3
    for part in (some, alone.set_index(keys)):
        same = everything.loc[part.index]
        assert (same[["x", "y"]] == part[["x", "y"]]).all(axis=None)
        np.testing.assert_allclose(same["probability"], part["probability"], atol=1e-5)


def test_days_begin_after_each_persons_last_one_or_where_everybody_is_asked(model, records):
    shorter = records[(records["uid"] > 0) | (records["d"] < 12)]
    last = shorter.groupby("uid")["d"].max()
    own = forecast(shorter, days=2, slots=[0], model=model)
    assert (own.groupby("uid")["d"].min() == last + 1).all()
    common = forecast(shorter, days=2, slots=[0], from_date="15", model=model)
    assert common["d"].unique().tolist() == [15, 16]
    known_until_then = forecast(shorter[shorter["d"] < 15], days=2, slots=[0], from_date="15", model=model)
    pd.testing.assert_frame_equal(common, known_until_then)


def test_several_cells_come_by_probability_and_samples_as_whole_days(model, records):
    several = forecast(records, days=1, top_k=3, model=model)
    wide = several.pivot(index=["uid", "d", "t"], columns="rank", values="probability")
    assert (wide[1] >= wide[2]).all()
    assert (wide[2] >= wide[3]).all()
    assert (wide.sum(axis=1) <= 1 + 1e-5).all()
    drawn = forecast(records, days=2, samples=5, model=model)
    assert drawn.groupby(["uid", "d", "t"])["sample"].agg(list).map(lambda s: s == list(range(5))).all()
    visited = set(map(tuple, records[["uid", "x", "y"]].to_numpy()))
    known = np.mean([tuple(place) in visited for place in drawn[["uid", "x", "y"]].to_numpy()])
    assert 0.7 < known < 1  # a few go to cells that the person was never in
    pd.testing.assert_frame_equal(drawn, forecast(records, days=2, samples=5, model=model))


def test_points_come_back_as_places_and_times_of_the_days_to_come(model, points):
    week = forecast(points, days=3, timezone="Europe/Berlin", model=model)
    assert set(week["user"]) == {"anna", "007"}
    assert week["time"].min() == pd.Timestamp("2026-03-28", tz="Europe/Berlin")
    assert week["time"].max() == pd.Timestamp("2026-03-30 23:30", tz="Europe/Berlin")
    assert str(week["time"].dt.tz) == "Europe/Berlin"
    assert week["latitude"].between(52.4, 52.6).all()
    assert week["longitude"].between(13.3, 13.5).all()
    dated = forecast(points, days=1, from_date="2026-04-05", timezone="Europe/Berlin", model=model)
    assert dated["time"].dt.date.astype(str).unique().tolist() == ["2026-04-05"]


def test_people_of_whom_little_is_known_get_a_wide_forecast_and_a_warning(model, records, caplog):
    masked = records[records["uid"] == 3].assign(x=999, y=999)
    one = records[records["uid"] == 2].tail(1)
    table = pd.concat([records[records["uid"] == 0], one, masked])
    with caplog.at_level(logging.WARNING):
        told = forecast(table, days=1, decoder="mode", model=model).groupby("uid")["probability"].mean()
    assert "1 people, first uid 3, have no known record" in caplog.text
    assert "1 people, first uid 2, were seen for less than 7 days" in caplog.text
    assert told[3] == pytest.approx(1 / 40_000)
    assert np.isfinite(told).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"days": 0}, "days is 0; it must be at least 1"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_k": 40_001}, "top_k is 40001; the grid has 40000 cells"),
        ({"slots": [48]}, "slots must be some of 0..47"),
        ({"slots": []}, "slots must be some of 0..47"),
        ({"decoder": "best"}, "decoder is 'best'"),
        ({"decoder": "day", "top_k": 2}, "the day decoder plans one day"),
        ({"samples": 3, "top_k": 2}, "samples are whole drawn days"),
        ({"from_date": "2026-03-01"}, "these records have no dates"),
        ({"from_date": "0"}, "nothing is known before it"),
        ({"timezone": "Asia/Tokyo"}, "of a table of records there is no timezone"),
        ({"model": "runs/nothing"}, "there is no model at runs/nothing"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused_in_words(model, records, options, words):
    with pytest.raises(ValueError, match=words):
        forecast(records, **({"model": model} | options))


def test_a_model_with_a_table_of_cells_is_refused_on_another_grid(records, tmp_path):
    small_model().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="grid_width is 200 in the data and 12 in the model"):
        forecast(records, model=str(tmp_path))


def test_a_broken_network_is_named_with_the_person(records, tmp_path):
    broken = portable_model()
    broken.gate.bias.data.fill_(float("nan"))
    broken.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"uid \d|nan|finite"):
        forecast(records, days=1, model=str(tmp_path))


def test_points_need_a_time_zone(points, model):
    with pytest.raises(DataError, match="say whose clock"):
        forecast(points, model=model)


def test_a_table_on_another_grid_says_so(model):
    small = pd.DataFrame({"uid": 1, "d": range(10), "t": 20, "x": 3, "y": 4})
    told = forecast(small, days=1, grid=Grid(10, 8, 1.0), model=model)
    assert told["x"].between(1, 10).all()
    assert told["y"].between(1, 8).all()


def test_a_source_is_told_by_what_it_holds(records, points, tmp_path):
    records.to_csv(tmp_path / "trips.csv", index=False)
    points.to_parquet(tmp_path / "points.parquet")
    with open_source(tmp_path / "trips.csv", cache_dir=tmp_path / "cache") as city:
        assert len(city) == 4
        assert city.place is None
    with open_source(tmp_path / "points.parquet", timezone="Europe/Berlin") as city:
        assert len(city) == 2
        assert city.place is not None
        with open_source(city) as same:
            assert same is city
    # That there is no such file is said first, whatever else was said of it.
    with (
        pytest.raises(FileNotFoundError, match=r"no file or folder .*other\.csv"),
        open_source(tmp_path / "other.csv", timezone="Europe/Berlin"),
    ):
        pass


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_the_command_writes_what_the_function_gives(model, records, tmp_path, suffix):
    records.to_csv(tmp_path / "trips.csv", index=False)
    output = tmp_path / f"week{suffix}"
    options = ["--data_path", str(tmp_path / "trips.csv"), "--cache_dir", str(tmp_path / "cache"), "--model", model]
    assert main(["forecast", *options, "--days", "2", "--slots", "3,20-22", "--output", str(output)]) == 0
    written = (pd.read_parquet if suffix == ".parquet" else pd.read_csv)(output)
    expected = forecast(records, days=2, slots=[3, 20, 21, 22], model=model)
    pd.testing.assert_frame_equal(written, expected, check_dtype=False, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--output", "week.txt"], "must end in"),
        (["--output", "nowhere/week.csv"], "does not exist"),
        (["--output", "week.csv", "--slots", "a-b"], "must be numbers and ranges"),
        (["--output", "week.csv", "--timezone", "Asia/Tokyo"], "is said of points"),
        (["--output", "week.csv", "--points", "p.csv"], "say where the past is"),
    ],
    ids=str,
)
def test_a_wrong_command_line_is_one_line(options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    people(users=1, days=5).to_csv("trips.csv", index=False)
    assert main(["forecast", "--data_path", "trips.csv", *options]) == 1
    assert words in capsys.readouterr().err
    assert not list(tmp_path.glob("week*"))


def test_a_table_is_written_whole_or_not_at_all(records, tmp_path):
    for name in ("a.csv", "a.csv.gz", "a.parquet"):
        with pytest.raises(RuntimeError), table_writer(tmp_path / name) as write:
            write(records)
            raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_a_history_longer_than_any_that_was_trained_on_is_taken_whole(records, tmp_path):
    portable_model(max_seq_length=50).save_pretrained(tmp_path)
    told = forecast(records[records["uid"] == 1], days=1, model=str(tmp_path))
    assert len(told) == 48
