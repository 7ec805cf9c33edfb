"""Crowds and flows: values counted by hand, areas, intervals, and how near they come to the truth."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from stmoe_hf.data.errors import DataError
from stmoe_hf.data.geography import Place
from stmoe_hf.model.spacetime import Calendar, Grid
from stmoe_hf.report.areas import side_of, squares, zones
from stmoe_hf.report.compare import as_last_week, common_part, compare, jensen_shannon
from stmoe_hf.report.crowds import KEYS, crowds
from stmoe_hf.report.flows import flows
from stmoe_hf.report.places import as_places, read_places

GRID, CALENDAR = Grid(10, 8, 0.5), Calendar(num_days=30)
CELLS = squares(GRID, 1)
KYOTO = Place(35.01, 135.77, "Asia/Tokyo", "2026-02-01")


def table(*rows, columns="uid d t x y"):
    return pd.DataFrame(rows, columns=columns.split())


def places(*rows, columns="uid d t x y"):
    return as_places(table(*rows, columns=columns), GRID, CALENDAR)


def forecast(*rows):
    return places(*rows, columns="uid d t rank x y probability")


def sampled(*rows):
    return places(*rows, columns="uid d t sample x y")


def counted(found, areas=CELLS, what="people"):
    """{(d, hour, x, y): people}"""
    labelled = areas.labelled(found, "area")
    return {(r.d, r.hour, r.x, r.y): getattr(r, what) for r in labelled.itertuples()}


def moved(found, what="moves"):
    labelled = CELLS.labelled(CELLS.labelled(found, "origin", "origin_"), "destination", "destination_")
    return {
        (r.d, r.hour, (r.origin_x, r.origin_y), (r.destination_x, r.destination_y)): getattr(r, what)
        for r in labelled.itertuples()
    }


def test_a_person_counts_for_one_in_an_hour_divided_among_its_slots():
    # Person 1 is in two cells in the two slots of hour 8, person 2 in one slot of it.
    found = crowds(places((1, 3, 16, 2, 2), (1, 3, 17, 3, 2), (2, 3, 17, 3, 2)), GRID, CALENDAR, CELLS, min_people=0)
    assert counted(found) == {(3, 8, 2, 2): 0.5, (3, 8, 3, 2): 1.5}


def test_probabilities_are_parts_of_a_person():
    both = forecast((1, 3, 16, 1, 2, 2, 0.7), (1, 3, 16, 2, 9, 8, 0.2), (2, 3, 16, 1, 2, 2, 0.5))
    found = counted(crowds(both, GRID, CALENDAR, CELLS, min_people=0, expansion=10))
    assert found == pytest.approx({(3, 8, 2, 2): 12.0, (3, 8, 9, 8): 2.0})


def test_squares_hold_the_people_of_their_cells():
    people = places((1, 3, 16, 1, 1), (2, 3, 16, 2, 2), (3, 3, 16, 3, 1), (4, 3, 16, 10, 8))
    areas = squares(GRID, 4)  # 3 wide, the last only 2 cells; 2 high
    assert counted(crowds(people, GRID, CALENDAR, areas, min_people=0), areas) == {(3, 8, 1, 1): 3, (3, 8, 3, 2): 1}
    assert areas.middles[0].tolist() == [2.5, 2.5] and areas.middles[2].tolist() == [9.5, 2.5]
    assert side_of(2.0, GRID) == 4 and side_of(None, GRID) == 1
    with pytest.raises(DataError, match=r"0\.7 km is no whole number of cells"):
        side_of(0.7, GRID)


def test_the_interval_is_over_whole_courses_of_days():
    # In sample s of 0..9 the first s of 10 people are at (2, 2), the others at (3, 3).
    rows = [(uid, 3, 16, s, *((2, 2) if uid < s else (3, 3))) for s in range(10) for uid in range(10)]
    found = crowds(sampled(*rows), GRID, CALENDAR, CELLS, min_people=0)
    assert counted(found) == pytest.approx({(3, 8, 2, 2): 4.5, (3, 8, 3, 3): 5.5})
    assert counted(found, what="low")[3, 8, 2, 2] == pytest.approx(0.9)  # the tenth part between 0 and 9
    assert counted(found, what="high")[3, 8, 2, 2] == pytest.approx(8.1)


def test_a_move_goes_from_the_last_cell_of_an_hour_to_that_of_the_next():
    person = [(1, 3, 16, 2, 2), (1, 3, 17, 3, 2), (1, 3, 18, 4, 2), (1, 3, 19, 5, 2)]
    later = [(2, 3, 16, 2, 2), (2, 3, 20, 4, 4)]  # two hours later
    found = flows(places(*person, *later), GRID, CALENDAR, CELLS, min_people=0)
    assert moved(found) == {(3, 8, (3, 2), (5, 2)): 1}
    found = flows(places(*person, *later), GRID, CALENDAR, CELLS, min_people=0, gap_hours=2)
    assert moved(found) == {(3, 8, (3, 2), (5, 2)): 1, (3, 8, (2, 2), (4, 4)): 1}


def test_who_stays_is_no_flow_and_midnight_is_no_wall():
    people = places((1, 3, 16, 2, 2), (1, 3, 18, 2, 2), (2, 3, 47, 2, 2), (2, 4, 0, 3, 3))
    assert moved(flows(people, GRID, CALENDAR, CELLS, min_people=0)) == {(3, 23, (2, 2), (3, 3)): 1}


def test_probabilities_move_as_little_as_they_can():
    # Home .8 -> .3, work .1 -> .5, gym .1 -> .2: .3 and .1 and .1 stay; of the .5 that leave home .4 go to work.
    hours = {16: (0.8, 0.1, 0.1), 18: (0.3, 0.5, 0.2)}
    rows = [
        (1, 3, t, rank, *cell, p)
        for t, chances in hours.items()
        for rank, (cell, p) in enumerate(zip([(2, 2), (8, 8), (5, 5)], chances, strict=True), 1)
    ]
    found = moved(flows(forecast(*rows), GRID, CALENDAR, CELLS, min_people=0))
    assert found == pytest.approx({(3, 8, (2, 2), (8, 8)): 0.4, (3, 8, (2, 2), (5, 5)): 0.1})


def test_samples_count_whole_moves():
    # Half of the samples go, half stay, though each slot alone is at home or at work with one half.
    going = [(1, 3, 16, 0, 2, 2), (1, 3, 18, 0, 8, 8), (1, 3, 16, 1, 8, 8), (1, 3, 18, 1, 2, 2)]
    found = flows(sampled(*going), GRID, CALENDAR, CELLS, min_people=0)
    assert moved(found) == {(3, 8, (2, 2), (8, 8)): 0.5, (3, 8, (8, 8), (2, 2)): 0.5}
    assert set(moved(found, "high").values()) == {0.9}


def test_a_day_sums_its_hours():
    path = [(2, 2), (8, 8), (2, 2), (8, 8)]
    people = places(*[(1, 3, 16 + 2 * i, *cell) for i, cell in enumerate(path)])
    found = flows(people, GRID, CALENDAR, CELLS, by="day", min_people=0)
    assert "hour" not in found and found["moves"].tolist() == [2.0, 1.0]


def test_zones_are_polygons_of_degrees(tmp_path):
    pytest.importorskip("shapely")
    latitude, longitude = KYOTO.to_latlon([0.5, 5.5, 10.5], [0.5, 4.5, 8.5], GRID)
    west = [[longitude[0], latitude[0]], [longitude[1], latitude[0]], [longitude[1], latitude[2]]]
    west += [[longitude[0], latitude[2]], west[0]]
    feature = {
        "type": "Feature",
        "properties": {"name": "West"},
        "geometry": {"type": "Polygon", "coordinates": [west]},
    }
    file = tmp_path / "zones.geojson"
    file.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    areas = zones(file, GRID, KYOTO)
    found = crowds(places((1, 3, 16, 5, 8), (2, 3, 16, 6, 8)), GRID, CALENDAR, areas, min_people=0)
    assert areas.labelled(found, "area").to_dict("records") == [{"d": 3, "hour": 8, "zone": "West", "people": 1.0}]
    with pytest.raises(DataError, match="zone 1 has no property 'ward'"):
        zones(file, GRID, KYOTO, "ward")
    feature["geometry"] = {"type": "Point", "coordinates": [135.77, 35.01]}
    file.write_text(json.dumps({"features": [feature]}))
    with pytest.raises(DataError, match="zone 1 is a Point"):
        zones(file, GRID, KYOTO)


def test_measures_by_hand():
    a, b = np.array([3.0, 1.0, 0.0]), np.array([1.0, 1.0, 2.0])
    assert common_part(a, b) == 2 * 2 / 8
    # p = (.75, .25, 0), q = (.25, .25, .5), middle (.5, .25, .25)
    ours, theirs = 0.75 * math.log2(1.5), 0.25 * math.log2(0.5) + 0.5 * math.log2(2)
    assert jensen_shannon(a, b) == pytest.approx((ours + theirs) / 2)
    assert jensen_shannon(a, 5 * a) == 0 and jensen_shannon(np.array([1.0, 0]), np.array([0, 1.0])) == 1
    assert math.isnan(jensen_shannon(a, 0 * b)) and math.isnan(common_part(0 * a, 0 * b))


def test_a_forecast_of_the_truth_has_the_best_scores_and_missing_numbers_are_zero():
    true = pd.DataFrame({"d": 3, "hour": [8, 8, 9], "area": [1, 2, 1], "people": [4.0, 2.0, 2.0]})
    assert compare(true, true, KEYS, "people") == {"common_part": 1, "jensen_shannon": 0, "total_error": 0}
    found = compare(true[:1], true, KEYS, "people")
    assert found["common_part"] == pytest.approx(2 * 4 / 12)
    assert found["total_error"] == pytest.approx((2 + 2) / 2 / ((6 + 2) / 2))


def test_as_last_week_is_the_last_whole_week_before_the_forecast():
    records = table(*[(1, d, 16, d + 1, 1) for d in range(9)])
    found = as_last_week(records, np.array([7, 8, 14]))
    assert found[["d", "x"]].to_numpy().tolist() == [[7, 1], [8, 2], [14, 1]]  # day 0, 1, and again 0


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([(1, 3, 16, 2, 2), (1, 3, 16, 3, 3)], "uid d t x y", "uid 1, day 3, slot 16 is there twice"),
        ([(1, 3, 48, 2, 2)], "uid d t x y", "t is 48 in uid 1, day 3, slot 48; it must be 0..47"),
        ([(1, 3, 16, 11, 2)], "uid d t x y", "x is 11 in uid 1"),
        ([(1, 3, 16, 2.5, 2)], "uid d t x y", "x is 2.5, which is no whole number"),
        ([(1, 3, 16, 2)], "uid d t x", "it lacks y"),
        ([(1, 3, 16, 999, 999)], "uid d t x y", "no record whose cell is known"),
        ([(1, 3, 16, 1, 2, 2, 0.7), (1, 3, 16, 2, 3, 3, 0.5)], "uid d t rank x y probability", "sum to 1.2"),
        ([(1, 3, 16, 1, 2, 2, -0.1)], "uid d t rank x y probability", "a probability that is none: -0.1"),
        ([(1, 3, 16, 0, 2, 2), (1, 3, 16, 1, 2, 2), (1, 3, 17, 0, 2, 2)], "uid d t sample x y", "not in all of the 2"),
    ],
)
def test_a_table_that_cannot_be_counted_is_refused_by_its_first_wrong_row(rows, columns, message):
    with pytest.raises(DataError, match=message):
        places(*rows, columns=columns)


def test_a_file_is_named_in_what_is_wrong_with_it(tmp_path):
    path = tmp_path / "f.csv"
    path.write_text("uid,d,t,x,y\n1,3,16,2,2\n1,3,16,2,2\n")
    with pytest.raises(DataError, match=r"f\.csv: uid 1, day 3, slot 16 is there twice"):
        read_places(path, GRID, CALENDAR)


def test_ranks_and_samples_may_stand_in_one_table():
    rows = [(1, 3, 16, 1, math.nan, 2, 2, 0.9), (1, 3, 16, math.nan, 0, 3, 3, math.nan)]
    both = places(*rows, columns="uid d t rank sample x y probability")
    assert both.chances[["x", "weight"]].to_numpy().tolist() == [[2, 0.9]] and both.num_samples == 1
    assert both.best()["probability"].tolist() == [0.9]
