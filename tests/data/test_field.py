"""The city's field: who was seen where before a day, and never the person whose field it is."""

import numpy as np
import pytest

from stmoe_hf import MobilityProcessor
from stmoe_hf.data import field
from stmoe_hf.data.field import CityField, TrainingFields
from stmoe_hf.data.splits import split_users
from stmoe_hf.data.windows import PredictionWindows, TrainingWindows, WindowShape
from stmoe_hf.model.records import FIELD_COUNTS

from ..helpers import city_of, people

PEOPLE = FIELD_COUNTS.index("people")


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    return city_of(tmp_path_factory.mktemp("data"), people())


def own_cells(city, row: int, until: int) -> np.ndarray:
    person = city.trajectory(row)
    return person.cell[person.day < until]


def test_it_counts_the_other_people_of_each_cell_and_their_records_by_kind_of_hour(city):
    found = CityField(city, 60).of_person(0, own_cells(city, 0, 60))
    table = city.to_pandas()
    others = table[(table["uid"] != 0) & (table["d"] < 60)]
    others = others.assign(cell=city.grid.cell(others["x"], others["y"]))
    wanted = others[~others["cell"].isin(own_cells(city, 0, 60))].groupby("cell")["uid"].agg(["nunique", "size"])
    assert np.array_equal(found.cells, wanted.index)
    assert np.array_equal(found.counts[:, PEOPLE], wanted["nunique"])
    assert np.array_equal(found.counts[:, 1:6].sum(1), wanted["size"])
    at_night = others[others["t"] < 12].groupby("cell").size().reindex(found.cells, fill_value=0)
    assert np.array_equal(found.counts[:, FIELD_COUNTS.index("at_night")], at_night)


def test_people_around_a_cell_are_those_of_its_nine_cells(city):
    counted = CityField(city, 75)
    found = counted.of_person(0, np.array([0]))
    width = city.grid.width
    of_cell = dict(zip(found.cells.tolist(), found.counts[:, PEOPLE].tolist(), strict=True))
    for cell, around in zip(found.cells[:50].tolist(), found.counts[:50, 6].tolist(), strict=True):
        nine = [cell + dy * width + dx for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
        assert around == sum(of_cell.get(one, 0) for one in nine)


def test_days_from_the_cut_on_and_ones_own_records_change_nothing(tmp_path, city):
    table = people()
    changed = (table["d"] >= 60) | (table["uid"] == 3)
    table.loc[changed, ["x", "y"]] = np.random.default_rng(9).integers(1, 201, (changed.sum(), 2))
    noise = city_of(tmp_path / "noise", table)
    history = own_cells(city, 3, 60)
    one, other = (CityField(c, 60).of_person(3, history) for c in (city, noise))
    assert np.array_equal(one.cells, other.cells) and np.array_equal(one.counts, other.counts)


def test_swapping_held_out_days_for_noise_changes_no_window_that_is_told_of_the_others(tmp_path, city):
    split, processor = split_users(city, 60, 0.4, seed=3), MobilityProcessor.for_data(city.grid, city.calendar)
    table = people()
    hidden = table["uid"].isin(city.uids[split.held_out]) & (table["d"] >= 60)
    table.loc[hidden, ["x", "y"]] = np.random.default_rng(9).integers(1, 201, (hidden.sum(), 2))
    noise = city_of(tmp_path / "noise", table)
    train = [TrainingWindows(c, split, WindowShape(), processor, 3, 1, None, 0.5, 0.3, True) for c in (city, noise)]
    test = [PredictionWindows(c, split.held_out, 60, WindowShape(), processor, city_field=True) for c in (city, noise)]
    told = 0
    for item in range(3 * len(train[0])):
        one, other = (windows[item] for windows in train)
        assert all(np.array_equal(one[key], other[key]) for key in one)
        told += len(one["field_cells"]) > 0
    assert told > len(train[0])
    for window in range(len(test[0])):
        one, other = (windows[window] for windows in test)
        assert all(np.array_equal(one[key], other[key]) for key in ("inputs", "field_cells", "field_counts"))
        assert len(one["field_cells"])


def test_a_training_window_is_told_of_days_before_its_own_cut_only(tmp_path, city):
    table = people()
    late = table["d"] >= 28
    table.loc[late, ["x", "y"]] = 7
    other = city_of(tmp_path / "late", table)
    history = own_cells(city, 2, 30)
    for cut in (28, 34):
        one, two = (TrainingFields(c, np.full(len(c), 75)).of_window(2, history, cut, 1, 2, 3) for c in (city, other))
        assert np.array_equal(one.cells, two.cells) and np.array_equal(one.counts, two.counts)


def test_some_training_windows_are_told_of_nobody_and_some_not_who_is_like_the_person(city, monkeypatch):
    def told(epoch: int) -> np.ndarray:
        fields = TrainingFields(city, np.full(len(city), 75))
        return fields.of_window(2, own_cells(city, 2, 30), 30, 1, epoch, 0).counts

    some = [told(epoch) for epoch in range(100)]
    monkeypatch.setattr(field, "COUNTS_SHARE", 0.0)
    most = [told(epoch) for epoch in range(100)]
    changed = [(one, two) for one, two in zip(some, most, strict=True) if not np.array_equal(one, two)]
    assert 3 <= sum(not len(counts) for counts in some) <= 20
    assert 5 <= len(changed) <= 30
    for one, two in changed:
        assert not one[:, field.LIKENESS].any()
        assert np.array_equal(one[:, : field.LIKENESS.start], two[:, : field.LIKENESS.start])


def test_somebody_without_history_or_alone_in_the_city_is_told_nothing(city):
    counted = CityField(city, 60)
    assert len(counted.of_person(0, np.zeros(0, np.int64)).cells) == 0
    nobody = np.zeros(len(city), bool)
    assert len(counted.of_person(0, own_cells(city, 0, 60), nobody).cells) == 0
    assert len(CityField(city, 0).of_person(0, own_cells(city, 0, 60)).cells) == 0


def test_in_a_large_city_the_people_most_alike_and_the_nearest_cells_make_the_field(city, monkeypatch):
    history = own_cells(city, 0, 60)
    whole = CityField(city, 60).of_person(0, history)
    monkeypatch.setattr(field, "MOST_PEOPLE", 3)
    few = CityField(city, 60).of_person(0, history)
    assert few.counts[:, PEOPLE].max() <= 3 and 0 < len(few.cells) < len(whole.cells)
    monkeypatch.setattr(field, "MOST_CELLS", 5)
    fewer = CityField(city, 60).of_person(0, history)
    assert len(fewer.cells) == 5 and np.isin(fewer.cells, few.cells).all() and (np.diff(fewer.cells) > 0).all()
