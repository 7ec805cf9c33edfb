"""A city as counts that may be given away: who many were where, of days before a day, and nothing of a person."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from stmoe_hf.__main__ import main
from stmoe_hf.data import city_counts
from stmoe_hf.data.city_counts import count_city, count_people, counts_for, read_counts, told_of
from stmoe_hf.data.errors import DataError
from stmoe_hf.data.field import LIKENESS
from stmoe_hf.data.geography import Place
from stmoe_hf.data.poi import count_points
from stmoe_hf.model.configuration_stmoe_bert import STMoEBertConfig
from stmoe_hf.model.records import FIELD_COUNTS
from stmoe_hf.model.spacetime import Calendar, Grid
from stmoe_hf.prediction.forecast import forecast
from stmoe_hf.prediction.load import find_model, load_config
from stmoe_hf.prediction.predict_city import predict

from ..helpers import city_of, people, write_city

AT_NIGHT = FIELD_COUNTS.index("at_night")


def crowded():
    """Twelve people, who all visit a square of 7 x 7 cells."""
    table = people()
    table["x"], table["y"] = table["x"] % 7 + 90, table["y"] % 7 + 90
    return table


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    return city_of(tmp_path_factory.mktemp("data"), crowded())


def test_a_number_has_so_many_people_behind_it_and_days_from_the_cut_on_have_no_say(city, tmp_path):
    found = count_city(city, 60, min_people=3)
    table = crowded()[lambda t: t["d"] < 60]
    table = table.assign(cell=city.grid.cell(table["x"], table["y"]))
    wanted = table.groupby("cell")["uid"].nunique()
    wanted = wanted[wanted >= 3]
    assert np.array_equal(found.cells, wanted.index) and np.array_equal(found.people, wanted)
    night = table[table["t"] < 12].groupby(["cell", "uid"]).size().unstack(fill_value=0)
    night = night.reindex(wanted.index, fill_value=0).to_numpy()
    third = np.sort(night, axis=1)[:, [-3]]
    assert np.array_equal(found.kinds[:, AT_NIGHT - 1], np.minimum(night, third).sum(1))
    assert (third == 0).any() and (third < night).any()  # or nothing is left out here
    changed = crowded()
    late = changed["d"] >= 60
    changed.loc[late, ["x", "y"]] = np.random.default_rng(9).integers(1, 201, (late.sum(), 2))
    noise = count_city(city_of(tmp_path, changed), 60, min_people=3)
    assert np.array_equal(noise.cells, found.cells) and np.array_equal(noise.kinds, found.kinds)


def test_no_number_is_mostly_one_persons(tmp_path):
    table = pd.DataFrame({"uid": np.repeat(np.arange(5), 40), "d": np.tile(np.arange(40), 5), "t": 4, "x": 9, "y": 9})
    table.loc[(table["uid"] > 0) & (table["d"] >= 2), "x"] = 50  # one sleeps here, the others were here twice
    one = city_of(tmp_path, table)
    nights = {least: count_city(one, 60, least).kinds[0, AT_NIGHT - 1] for least in (1, 2, 5)}
    assert nights == {1: 48, 2: 10, 5: 10}


def test_of_people_who_come_in_parts_the_counts_are_the_same(city, monkeypatch):
    whole = count_city(city, 60, min_people=3)
    monkeypatch.setattr("stmoe_hf.data.counting.PEOPLE_A_STEP", 2)
    parts = [city.select(rows) for rows in np.array_split(np.random.default_rng(1).permutation(len(city)), 3)]
    found = count_people(parts, 60, 3, city.grid, whole.told, "B")
    for name in ("cells", "people", "kinds", "num_people", "cells_a_person"):
        assert np.array_equal(getattr(found, name), getattr(whole, name))


def test_the_counts_of_another_city_or_of_days_with_other_numbers_are_refused(city, tmp_path):
    file, config = tmp_path / "counts.parquet", load_config(find_model(None))
    where = Place(35.0, 135.8, "Asia/Tokyo", "2026-02-01")
    counts = count_city(city, 60, min_people=3)
    replace(counts, told=told_of(city.calendar, where)).save(file)
    for calendar, place, text in (
        (
            city.calendar,
            replace(where, latitude=34.7),
            "another city or other days: middle of the grid 35.0, and of the",
        ),
        (city.calendar, replace(where, first_date="2026-02-08"), "date of the first day 2026-02-01"),
        (Calendar(first_day=1), None, "number of the first day 0, and of the records 1"),
        (Calendar(num_slots=24), None, "slots a day 48, and of the records 24"),
    ):
        with pytest.raises(DataError, match=text):
            counts_for(file, city.grid, config, 60, told_of(calendar, place))
    longer = told_of(Calendar(num_days=99), where)
    assert counts_for(file, city.grid, config, 60, longer) is not None
    with pytest.raises(DataError, match="number of the first day 0, and of the records 1"):
        forecast(people(users=2, days=20).assign(d=lambda t: t["d"] + 1), field=file, edition="humob2025")


def test_points_of_interest_are_told_beside_the_counts(city):
    counts, empty = count_city(city, 60, min_people=2), city.grid.cell(91, 80)
    poi = count_points(np.array([empty]), np.array([0]), np.array([7]), city.grid)
    told = counts.with_poi(poi).of_person(0, counts.cells[:10])
    alone = counts.of_person(0, counts.cells[:10])
    at = np.searchsorted(told.cells, empty)
    assert told.poi[at, 0] == 7 and not told.counts[at].any()
    assert np.array_equal(np.delete(told.cells, at), alone.cells)
    assert np.array_equal(np.delete(told.counts, at, axis=0), alone.counts)


def test_of_a_folder_of_shards_the_same_is_counted_as_of_a_file_of_records(city, tmp_path, capsys):
    table = city.to_pandas().rename(columns={"d": "day", "t": "slot"}).groupby("uid").agg(list).reset_index()
    folder = tmp_path / "people"
    folder.mkdir()
    table[:5].to_parquet(folder / "part-0.parquet")
    table[5:].to_parquet(folder / "part-1.parquet")
    count_city(city, 60, min_people=3).save(tmp_path / "records.parquet")
    command = ["field", "--input", str(folder), "--until", "60", "--min_people", "3"]
    assert main([*command, "--output", str(tmp_path / "shards.parquet")]) == 0
    assert (tmp_path / "shards.parquet").read_bytes() == (tmp_path / "records.parquet").read_bytes()
    table[:1].to_parquet(folder / "part-2.parquet")
    assert main([*command, "--output", str(tmp_path / "none.parquet")]) == 1
    assert "error: part-2.parquet: row 12, uid 0: the person was there before" in capsys.readouterr().err


def test_a_person_is_told_of_cells_that_they_do_not_know_and_of_nobody_like_them(city, monkeypatch):
    counts = count_city(city, 60, min_people=2)
    history = counts.cells[:10]
    told = counts.of_person(0, history)
    assert np.array_equal(told.cells, counts.cells[10:]) and not told.counts[:, LIKENESS].any()
    assert np.array_equal(told.counts[:, 0], counts.people[10:])
    assert len(counts.of_person(0, history[:0]).cells) == 0
    monkeypatch.setattr(city_counts, "MOST_PEOPLE", 0.5)  # as of a city of more people than a network has learned
    scaled = counts.of_person(0, history).counts
    assert scaled[:, 0].sum() == pytest.approx(0.5 * counts.cells_a_person)
    ratio = scaled[:, 0].sum() / told.counts[:, 0].sum()
    np.testing.assert_allclose(scaled, told.counts * ratio, rtol=1e-5)


def test_a_file_gives_back_what_was_counted_and_what_it_forbids_is_refused(city, tmp_path):
    counts, file = count_city(city, 60, min_people=3), tmp_path / "counts.parquet"
    counts.save(file)
    found = read_counts(file, city.grid)
    for name in ("until", "min_people", "num_people", "cells_a_person"):
        assert getattr(found, name) == getattr(counts, name)
    for name in ("cells", "people", "kinds"):
        assert np.array_equal(getattr(found, name), getattr(counts, name))
    table = pq.read_table(file)
    told = json.loads(table.schema.metadata[b"stmoe_hf"])
    pq.write_table(
        table.replace_schema_metadata({"stmoe_hf": json.dumps(told | {"min_people": 10})}), tmp_path / "bad"
    )
    with pytest.raises(DataError, match=r"bad: the cell \(\d+, \d+\) has \d people, fewer than its min_people 10"):
        read_counts(tmp_path / "bad", city.grid)
    with pytest.raises(DataError, match="count it again on this grid"):
        read_counts(file, Grid(100, 100))
    pq.write_table(table.replace_schema_metadata(None), tmp_path / "other")
    with pytest.raises(DataError, match="other is no file of a city's counts"):
        read_counts(tmp_path / "other", city.grid)
    (tmp_path / "text").write_text("x,y")
    with pytest.raises(DataError, match="text is no file of a city's counts"):
        read_counts(tmp_path / "text", city.grid)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_counts(tmp_path / "none", city.grid)
    with pytest.raises(DataError, match="to predict day 45, count fewer"):
        counts_for(file, city.grid, load_config(find_model(None)), 45)
    with pytest.raises(DataError, match="no use for a city's counts"):
        counts_for(file, city.grid, STMoEBertConfig(), 60)
    with pytest.raises(DataError, match="no cell of city B has 13 people"):
        count_city(city, 60, min_people=13)


def test_forecasts_and_predictions_are_told_of_the_counts_in_place_of_the_people(city, tmp_path):
    file = tmp_path / "counts.parquet"
    count_city(city, 60, min_people=2).save(file)
    data = crowded()[lambda t: t["d"] < 60]
    wide = {"days": 1, "from_date": "60", "top_k": 40, "slots": [20]}
    one = forecast(data[data["uid"] == 0], field=file, **wide)
    pair = forecast(data[data["uid"].isin([0, 1])], field=file, **wide)
    several = pair[pair["uid"] == 0].reset_index(drop=True)
    keys = ["d", "t", "rank", "x", "y"]
    assert one[keys].equals(several[keys])  # who else is at hand has no say
    np.testing.assert_allclose(one["probability"], several["probability"], atol=1e-6)
    nobody = forecast(data[data["uid"] == 0], **wide)
    assert not np.allclose(one["probability"], nobody["probability"], atol=1e-5)
    folder = write_city(tmp_path)
    told = predict(city="B", data_dir=folder, field=file, decoder="mode", plain=True, cache_dir=tmp_path / "cache")
    assert len(told)


def test_the_command_writes_what_forecasts_take(city, tmp_path, capsys):
    city_of(tmp_path, crowded())
    data = ["--city", "B", "--data_dir", str(tmp_path), "--cache_dir", str(tmp_path / "cache")]
    file = tmp_path / "counts.parquet"
    assert main(["field", *data, "--until", "60", "--min_people", "3", "--output", str(file)]) == 0
    assert np.array_equal(read_counts(file, city.grid).people, count_city(city, 60, 3).people)
    assert "of 12 people before day 60, each number of at least 3" in capsys.readouterr().out
    assert main(["field", *data, "--until", "2024-03-01", "--output", str(file)]) == 1
    assert "2024-03-01" in capsys.readouterr().err  # these records have no dates
    assert main(["field", *data, "--like", str(tmp_path), "--output", str(file)]) == 1
    assert "--like is said of a folder of shards: give --input" in capsys.readouterr().err
    assert main(["field", *data, "--output", str(tmp_path / "counts.csv")]) == 1
    assert "counts.csv must end in .parquet" in capsys.readouterr().err
    assert main(["field", *data, "--min_people", "0", "--output", str(file)]) == 1
    assert "min_people is 0; it must be at least 1" in capsys.readouterr().err
