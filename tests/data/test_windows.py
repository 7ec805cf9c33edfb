"""Splits and windows: nothing held out is seen, nothing is used twice, and a window is a function of its number."""

import numpy as np
import pandas as pd
import pytest

from stmoe_hf import MobilityProcessor
from stmoe_hf.data.city import open_city
from stmoe_hf.data.sampler import LengthGroupedSampler
from stmoe_hf.data.splits import draw, split_users
from stmoe_hf.data.windows import JointWindows, PredictionWindows, TrainingWindows, WindowShape
from stmoe_hf.model.records import NO_LABEL

from ..helpers import people, write_city

PUBLISHED = WindowShape(input_seq_length=40, predict_seq_length=10, look_back_len=15)


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    folder = write_city(tmp_path_factory.mktemp("data"), masked=3)
    return open_city("B", folder, cache_dir=folder / "cache")


@pytest.fixture(scope="module")
def processor(city):
    return MobilityProcessor.for_data(city.grid, city.calendar)


@pytest.mark.parametrize("shape", [WindowShape(), PUBLISHED], ids=["one_shot", "published"])
def test_training_never_sees_a_held_out_or_masked_day(city, processor, shape):
    split = split_users(city, 60, 0.4, seed=3)
    assert len(split.held_out) == 4 and len(split.masked) == 3
    train = TrainingWindows(city, split, shape, processor, seed=3)
    late = set(split.held_out) | set(split.masked)
    seen_late = False
    for epoch in range(8):
        for window in range(len(train)):
            days = train[epoch * len(train) + window]["inputs"][:, 0]
            if train.rows[window] in late:
                assert days.max() < 60
            else:
                seen_late |= bool(days.max() >= 60)
    assert seen_late  # the others are trained on whole


def test_swapping_the_held_out_days_for_noise_changes_no_training_window(tmp_path, city, processor):
    split = split_users(city, 60, 0.4, seed=3)
    table = people(masked=3)
    hidden = table["uid"].isin(city.uids[split.held_out]) & (table["d"] >= 60)
    assert hidden.sum() > 50
    table.loc[hidden, ["x", "y"]] = np.random.default_rng(9).integers(1, 201, (hidden.sum(), 2))
    table.to_csv(tmp_path / "cityB_challengedata.csv.gz", index=False)
    noise = open_city("B", tmp_path, cache_dir=tmp_path / "cache")
    for shape in (WindowShape(), PUBLISHED):
        train, other = (TrainingWindows(c, split, shape, processor, seed=3) for c in (city, noise))
        assert len(train) == len(other)
        for item in range(3 * len(train)):
            assert all(np.array_equal(train[item][key], other[item][key]) for key in ("inputs", "labels"))


def test_no_record_is_used_twice_in_a_window_and_the_asked_for_ones_come_last(city, processor):
    train = TrainingWindows(city, split_users(city, 60, 0.4, 0), WindowShape(), processor, seed=0)
    for item in range(4 * len(train)):
        window = train[item]
        inputs, labels = window["inputs"], window["labels"]
        time = inputs[:, 0] * 48 + inputs[:, 1]
        assert (np.diff(time) > 0).all()
        asked = inputs[:, -1] == city.grid.mask_id
        assert np.array_equal(asked, labels != NO_LABEL)
        assert 0 < asked.sum() < len(asked) and not asked[0]
        assert np.array_equal(np.sort(asked), asked)
        first = inputs[asked, 0].min()
        assert inputs[asked, 0].max() < first + 15 and inputs[~asked, 0].max() < first


def test_published_windows_have_their_lengths_and_step(city, processor):
    train = TrainingWindows(city, split_users(city, 60, 0, 0), PUBLISHED, processor, seed=0)
    for row in range(len(city)):
        starts = train._start[train.rows == row]
        assert (np.diff(starts) == 15).all()
    lengths = {len(train[item]["inputs"]) for item in range(len(train))}
    assert lengths == {50}
    assert {int((train[item]["labels"] != NO_LABEL).sum()) for item in range(len(train))} == {10}
    asked = np.concatenate([train._start[train.rows == 0] + 40 + i for i in range(10)])
    assert len(np.unique(asked)) == len(asked)


def test_a_window_depends_on_seed_epoch_and_user_only(city, processor):
    split = split_users(city, 60, 0.4, 0)
    first, again = (TrainingWindows(city, split, WindowShape(), processor, seed=5) for _ in range(2))
    assert all(np.array_equal(first[i]["inputs"], again[i]["inputs"]) for i in (3, 0, 3, 40))
    assert (first.cut_days(0) != first.cut_days(1)).any()
    assert (first.cut_days(0) != TrainingWindows(city, split, WindowShape(), processor, seed=6).cut_days(0)).any()
    # The same person in a smaller city has the same cut days.
    rows = np.array([2, 5, 7])
    small = city.select(rows)
    part = TrainingWindows(small, split_users(small, 60, 0, 0), WindowShape(), processor, seed=5)
    whole = TrainingWindows(city, split_users(city, 60, 0, 0), WindowShape(), processor, seed=5)
    assert np.array_equal(part.cut_days(4), whole.cut_days(4)[np.searchsorted(whole.rows, rows)])


def test_draws_are_uniform_and_independent_of_each_other():
    numbers = draw(1, np.arange(40000))
    assert np.allclose(np.histogram(numbers, 10, (0, 1))[0] / 40000, 0.1, atol=0.01)
    assert abs(np.corrcoef(numbers, draw(2, np.arange(40000)))[0, 1]) < 0.02


def test_prediction_asks_for_the_horizon_and_for_masked_records(city, processor):
    split = split_users(city, 60, 0.4, 3)
    table = people(masked=3)
    held_out = PredictionWindows(city, split.held_out, 60, WindowShape(), processor)
    masked = PredictionWindows(city, split.masked, 60, WindowShape(), processor, masked=True)
    for windows in (held_out, masked):
        for window in range(len(windows)):
            asked = pd.DataFrame(windows.asked_for(window))
            person = table[table["uid"] == asked["uid"][0]]
            expected = person[person["d"] >= 60]
            assert np.array_equal(asked[["d", "t"]], expected[["d", "t"]])
            inputs = windows[window]["inputs"]
            assert (inputs[:, -1] == city.grid.mask_id).sum() == len(expected)
            assert len(inputs) == len(person)
    assert (masked[0]["labels"] == NO_LABEL).all()
    assert np.array_equal(held_out[0]["labels"][-3:], held_out.asked_for(0)["cell"][-3:])


def test_known_records_between_masked_ones_stay_known(tmp_path):
    table = people(users=1)
    table.loc[[100, 102, 110], ["x", "y"]] = 999
    table.to_csv(tmp_path / "cityB_challengedata.csv.gz", index=False)
    city = open_city("B", tmp_path, cache_dir=tmp_path / "cache")
    processor = MobilityProcessor.for_data(city.grid, city.calendar)
    windows = PredictionWindows(city, np.array([0]), 60, WindowShape(), processor, masked=True)
    assert np.flatnonzero(windows[0]["inputs"][:, -1] == city.grid.mask_id).tolist() == [100, 102, 110]
    assert len(windows[0]["inputs"]) == 111


def test_batches_hold_every_window_once_and_similar_lengths(city, processor):
    train = TrainingWindows(city, split_users(city, 60, 0, 0), WindowShape(), processor, seed=0, per_user=3)
    sampler = LengthGroupedSampler(train, 4, seed=0)
    sampler.set_epoch(2)
    items = list(sampler)
    assert sorted(items) == list(range(2 * len(train), 3 * len(train)))
    sizes = train.sizes(2)[np.array(items) - 2 * len(train)].reshape(-1, 4)
    random = np.random.default_rng(0).permutation(sizes.ravel()).reshape(-1, 4)
    assert np.ptp(sizes, axis=1).mean() < np.ptp(random, axis=1).mean() / 2
    sampler.set_epoch(3)
    assert [i % len(train) for i in sampler] != [i % len(train) for i in items]


@pytest.mark.parametrize("cut_day, fraction, said", [(0, 0.1, "cut_day 0"), (80, 0.1, "cut_day 80"), (60, 2.0, "2.0")])
def test_an_impossible_split_is_refused(city, cut_day, fraction, said):
    with pytest.raises(ValueError, match=said):
        split_users(city, cut_day, fraction, 0)


def test_people_without_two_days_of_records_are_not_trained_on(tmp_path):
    table = people(users=3)
    table = table[(table["uid"] != 1) | (table.index == table.index[table["uid"] == 1][0])]  # uid 1: one record
    table.to_csv(tmp_path / "cityB_challengedata.csv.gz", index=False)
    city = open_city("B", tmp_path, cache_dir=tmp_path / "cache")
    processor = MobilityProcessor.for_data(city.grid, city.calendar)
    train = TrainingWindows(city, split_users(city, 60, 0, 0), WindowShape(), processor, seed=0)
    assert train.rows.tolist() == [0, 2]
    lonely = city.select(np.array([1]))
    with pytest.raises(ValueError, match="no user to train on"):
        TrainingWindows(lonely, split_users(lonely, 60, 0, 0), WindowShape(), processor, seed=0)
    windows = PredictionWindows(city, np.array([1]), 60, WindowShape(), processor)
    assert len(windows) == 0 and windows.without_horizon.tolist() == [1]


def test_joint_windows_go_round_every_city(city, processor, tmp_path):
    folder = write_city(tmp_path, users=5, seed=4)
    other = open_city("B", folder, cache_dir=folder / "cache")
    parts = [
        TrainingWindows(c, split_users(c, 60, 0.0, seed=1), WindowShape(), processor, seed=1) for c in (city, other)
    ]
    joint = JointWindows(parts)
    assert len(joint) == len(parts[0]) + len(parts[1])
    for epoch in (0, 3):
        for window in range(len(joint)):
            part, start = (parts[0], 0) if window < len(parts[0]) else (parts[1], len(parts[0]))
            expected = part[epoch * len(part) + window - start]
            found = joint[epoch * len(joint) + window]
            assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_a_temperature_makes_cities_more_equal(city, processor, tmp_path):
    folder = write_city(tmp_path, users=3, seed=4)
    other = open_city("B", folder, cache_dir=folder / "cache")
    parts = [
        TrainingWindows(c, split_users(c, 60, 0.0, seed=1), WindowShape(), processor, seed=1) for c in (city, other)
    ]
    even = JointWindows(parts, temperature=1e9)
    assert abs(even._counts[0] - even._counts[1]) <= 1
    assert len(even.sizes(2)) == len(even)
    seen = [even[i]["inputs"] for i in range(int(even._counts[0]), len(even))]
    assert len(seen) > len(parts[1])  # the small city is gone round more than once in an epoch
    with pytest.raises(ValueError, match="at least 1"):
        JointWindows(parts, temperature=0.5)
