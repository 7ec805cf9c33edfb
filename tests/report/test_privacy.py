"""What is published of few people: nothing, and nothing that tells it by a difference."""

import itertools

import numpy as np
import pandas as pd
import pytest

from stmoe_hf.model.spacetime import Calendar, Grid
from stmoe_hf.report.areas import squares
from stmoe_hf.report.crowds import crowds, presence
from stmoe_hf.report.flows import flows, moves
from stmoe_hf.report.places import Places, as_places
from stmoe_hf.report.privacy import publishable

GRID, CALENDAR = Grid(4, 3, 0.5), Calendar(num_days=3)
CELLS = squares(GRID, 1)


def in_cells(*counts, t=16):
    """So many people in cell 1, 2, ... of one hour."""
    uid = itertools.count()
    rows = [(next(uid), 0, t, k % 4 + 1, k // 4 + 1) for k, count in enumerate(counts) for _ in range(count)]
    return as_places(pd.DataFrame(rows, columns=["uid", "d", "t", "x", "y"]), GRID, CALENDAR)


def published(*counts, k=10):
    found = crowds(in_cells(*counts), GRID, CALENDAR, CELLS, min_people=k)
    return dict(zip(found["area"].tolist(), found["people"].tolist(), strict=True))


def random_people(seed: int) -> Places:
    """200 to 400 people who walk among 6 cells, some of them unseen for an hour, some with probabilities."""
    random = np.random.default_rng(seed)
    rows = []
    for uid in range(random.integers(200, 400)):
        for hour in (8, 9, 10):
            if random.random() < 0.85:
                first, second = random.choice(6, 2, replace=False, p=np.arange(1, 7) / 21)
                share = 1.0 if uid % 3 else random.uniform(0.4, 0.8)
                for rank, (cell, p) in enumerate(((first, share), (second, 0.9 - share)), 1):
                    if p > 0:
                        rows.append((uid, 0, 2 * hour, rank, cell % 4 + 1, cell // 4 + 1, p))
    table = pd.DataFrame(rows, columns=["uid", "d", "t", "rank", "x", "y", "probability"])
    return as_places(table, GRID, CALENDAR)


def test_few_people_are_left_out():
    assert published(25, 12, 3, 9) == {1: 25, 2: 12}  # 12 people are left out: a rest of ten or more tells nothing
    assert published(25, 12, 3, 9, k=3) == {1: 25, 2: 12, 3: 3, 4: 9}
    assert published(9) == {}


def test_a_rest_of_few_people_cannot_be_had_by_subtracting_from_a_known_total():
    counts = (25, 12, 11, 3)
    total = sum(counts)
    naive = sum(count for count in counts if count >= 10)
    assert total - naive == 3  # the attack: who knows that there are 51 people knows that 3 are in one cell
    found = published(*counts)
    assert found == {1: 25, 2: 12}  # so the smallest of the others is left out too
    assert total - sum(found.values()) >= 10


def test_it_takes_ten_people_and_not_ten_parts_of_fewer():
    rows = [(uid, 0, 16, 1, 1, 1, 0.2) for uid in range(40)]  # 8 expected people, though 40 take part
    table = pd.DataFrame(rows, columns=["uid", "d", "t", "rank", "x", "y", "probability"])
    assert crowds(as_places(table, GRID, CALENDAR), GRID, CALENDAR, CELLS).empty
    # Four people who go the same way three times a day are 12 moves, but four people.
    path = [(uid, 0, 2 * h, *((1, 1), (4, 3))[h % 2]) for uid in range(4) for h in range(8, 14)]
    table = pd.DataFrame(path, columns=["uid", "d", "t", "x", "y"])
    back_and_forth = as_places(table, GRID, CALENDAR)
    assert flows(back_and_forth, GRID, CALENDAR, CELLS, by="day", min_people=0)["moves"].max() == 12
    assert flows(back_and_forth, GRID, CALENDAR, CELLS, by="day", min_people=10).empty


def test_an_expansion_factor_makes_nobody_more_people():
    assert crowds(in_cells(6, 4), GRID, CALENDAR, CELLS, expansion=100.0).empty


def rests(parts: pd.DataFrame, found: pd.DataFrame, keys: list[str], margin: list[str]) -> list[float]:
    """What an attacker gets who knows the people of every margin and subtracts all that is published of it."""
    told = parts.merge(found[keys].assign(told=True), how="left", on=keys)
    left = told[told["told"].isna()].groupby(["uid", *margin])["weight"].sum().clip(upper=1)
    return left.groupby(margin).sum().tolist()


@pytest.mark.parametrize("seed", range(20))
def test_no_margin_of_random_crowds_and_flows_has_a_rest_of_few_people(seed):
    people, k = random_people(seed), 5
    parts = presence(people.chances, GRID, CALENDAR, CELLS)
    found = crowds(people, GRID, CALENDAR, CELLS, min_people=k)
    assert (found["people"] >= k - 1e-9).all()
    hours_with_rest = rests(parts, found, ["d", "hour", "area"], ["d", "hour"])
    told_nothing = len(found) == 0
    assert told_nothing or all(rest < 1e-9 or rest >= k - 1e-9 for rest in hours_with_rest)
    walked, _ = moves(people, GRID, CALENDAR, CELLS, 1)
    keys = ["d", "hour", "origin", "destination"]
    found = flows(people, GRID, CALENDAR, CELLS, min_people=k)
    assert (found["moves"] >= k - 1e-9).all()
    for margin in (["d", "hour"], ["d", "hour", "origin"], ["d", "hour", "destination"]):
        touched = walked.merge(found[margin].drop_duplicates(), on=margin)  # margins with something published
        assert all(rest < 1e-9 or rest >= k - 1e-9 for rest in rests(touched, found, keys, margin))


def test_some_random_flows_are_published_and_some_would_have_been_told_by_a_difference():
    keys, margins = ["d", "hour", "origin", "destination"], [["d", "hour"], ["d", "hour", "origin"]]
    some, told = 0, 0
    for seed in range(20):
        walked, _ = moves(random_people(seed), GRID, CALENDAR, CELLS, 1)
        stays = (walked["origin"] == walked["destination"]).to_numpy()
        naive = publishable(walked, keys, [], stays, 5)
        some += len(publishable(walked, keys, margins, stays, 5))
        told += sum(1e-9 < rest < 5 for rest in rests(walked, naive, keys, ["d", "hour", "origin"]))
    assert some > 0 and told > 0
