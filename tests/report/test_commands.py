"""`stmoe crowds` and `stmoe flows`: files, scores beside last week, and what is refused."""

import json

import pandas as pd
import pytest

from stmoe_hf.__main__ import main
from stmoe_hf.data.description import Description
from stmoe_hf.data.geography import Place
from stmoe_hf.model.spacetime import Calendar, Grid

from ..helpers import people


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The truth of 40 people; predictions of days 61-74 that are right; a city.json in a folder of its own."""
    folder = tmp_path_factory.mktemp("crowds")
    truth = people(users=40)
    truth.to_csv(folder / "truth.csv", index=False)
    truth[truth["d"] >= 61].to_csv(folder / "predicted.csv", index=False)
    (folder / "city").mkdir()
    place = Place(35.01, 135.77, "Asia/Tokyo", "2026-02-01")
    Description("kyoto", "truth.csv", Grid(), Calendar(), 61, place).write(folder / "city")
    truth.to_csv(folder / "city" / "truth.csv", index=False)
    return folder


@pytest.mark.parametrize("command", ["crowds", "flows"])
def test_a_right_forecast_scores_best_and_last_week_worse(files, tmp_path, capsys, command):
    options = ["--forecast", str(files / "predicted.csv"), "--truth", str(files / "truth.csv"), "--square_km", "10"]
    options += ["--by", "day", "--gap_hours", "24"] if command == "flows" else []
    assert main([command, *options, "--min_people", "1", "--output", str(tmp_path / "out.csv")]) == 0
    table = pd.read_csv(tmp_path / "out.csv")
    assert len(table) and table["people" if command == "crowds" else "moves"].sum() > 0
    lines = capsys.readouterr().out.splitlines()
    forecast, last_week = (line.split()[-3:] for line in lines[-2:])
    assert forecast == ["1.000", "0.000", "0.000"] and float(last_week[0]) < 1


def test_where_the_place_is_known_crowds_have_times_and_outlines(files, tmp_path):
    options = ["--forecast", str(files / "predicted.csv"), "--data_path", str(files / "city"), "--min_people", "2"]
    out = tmp_path / "out.geojson"
    assert main(["crowds", *options, "--square_km", "10", "--expansion", "100", "--output", str(out)]) == 0
    feature = json.loads(out.read_text())["features"][0]
    said = feature["properties"]
    assert feature["geometry"]["type"] == "Polygon" and said["people"] >= 200 and "fill" in said
    assert said["time"].startswith("2026-04-") and said["time"].endswith("+09:00")
    out = tmp_path / "flows.geojson"
    assert (
        main(["flows", *options, "--square_km", "10", "--by", "day", "--gap_hours", "24", "--output", str(out)]) == 0
    )
    features = json.loads(out.read_text())["features"]
    assert {feature["geometry"]["type"] for feature in features} == {"LineString"}
    assert min(feature["properties"]["moves"] for feature in features) >= 2


@pytest.mark.parametrize("command", ["crowds", "flows"])
def test_that_people_of_different_dates_are_counted_together_is_said(files, tmp_path, capsys, command):
    for aligned in (False, True):
        place = Place(35.01, 135.77, "Asia/Tokyo", "2026-02-01", aligned)
        Description("kyoto", "truth.csv", Grid(), Calendar(), 61, place).write(tmp_path)
        options = ["--forecast", str(files / "predicted.csv"), "--data_path", str(tmp_path), "--square_km", "10"]
        options += ["--min_people", "1", *(["--by", "day", "--gap_hours", "24"] if command == "flows" else [])]
        assert main([command, *options, "--output", str(tmp_path / "out.csv")]) == 0
        assert ("a day holds people of different dates" in capsys.readouterr().out) == aligned
        assert ("time" in pd.read_csv(tmp_path / "out.csv")) != aligned


def test_nothing_to_publish_is_said(files, tmp_path, capsys):
    out = ["--output", str(tmp_path / "out.csv")]
    assert main(["crowds", "--forecast", str(files / "predicted.csv"), "--min_people", "1000", *out]) == 0
    assert "nothing is published: ask for larger squares" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "out.csv").empty


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--square_km", "0.7"], "0.7 km is no whole number of cells"),
        (["--zones", "z.geojson"], "says where the city lies"),
        (["--min_people", "-1"], "must be positive"),
        (["--data_path", "nowhere"], "there is no folder or file nowhere"),
    ],
)
def test_mistakes_are_said_in_a_line(files, tmp_path, capsys, options, message):
    out = ["--output", str(tmp_path / "out.csv")]
    assert main(["crowds", "--forecast", str(files / "predicted.csv"), *options, *out]) == 1
    assert message in capsys.readouterr().err
