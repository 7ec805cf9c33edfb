"""The report: what stands in it, whom it names, and what a person can do with it in a browser."""

import base64
import json
import re

import numpy as np
import pandas as pd
import pytest

from stmoe_hf.__main__ import main
from stmoe_hf.data.description import Description
from stmoe_hf.data.geography import Place
from stmoe_hf.metrics import score
from stmoe_hf.model.spacetime import Calendar, Grid
from stmoe_hf.report.errors import by_kind, calibration, homes, interval, record_errors
from stmoe_hf.report.evidence import of_files, of_run
from stmoe_hf.report.maps import city_map
from stmoe_hf.report.page import MOST_BYTES, page, write_report
from stmoe_hf.report.places import as_places

from ..helpers import people
from .browser import complaints, new_page, open_browser

pytest.importorskip("plotly")
GRID, CALENDAR = Grid(), Calendar()
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module")
def report_of_run(finished, tmp_path_factory):
    """The report of a run, and its folder."""
    return write_report(finished, tmp_path_factory.mktemp("report") / "report.html"), finished


@pytest.fixture
def files(tmp_path):
    """Predictions of two weeks, right in the first half of the slots and 3 cells off in the others; and the truth."""
    truth = people(users=6)
    truth.to_csv(tmp_path / "truth.csv", index=False)
    asked = truth[truth["d"] >= 61].copy()
    asked.loc[asked["t"] >= 24, "x"] += 3
    asked.to_csv(tmp_path / "predicted.csv", index=False)
    return tmp_path


def told(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="told">(.*?)</script>', text, re.DOTALL).group(1))


def words(text: str) -> str:
    """What a reader sees of the page's own text."""
    body = text[text.index("<body>") : text.index('<script type="application/json"')]
    return " ".join(re.sub(r"<[^>]+>", " ", body).split())


def test_the_report_of_a_run_has_everything(report_of_run):
    path, run = report_of_run
    text = path.read_text()
    assert path.stat().st_size < MOST_BYTES
    results = json.loads((run / "all_results.json").read_text())
    seen = words(text)
    assert f"{results['parameters']:,} parameters" in seen and f"seed {results['seed']}" in seen
    assert f"{results['test_humob2024_geobleu']:.4f}" in seen and "time kernel balanced" in seen
    assert f"{results['weekday_slot_mode_humob2025_dtw']:.2f}" in seen
    for heading in ("The city", "A person", "Where it errs", "Are its probabilities true?", "What the experts do"):
        assert f"<h2>{heading}</h2>" in text
    assert "2 people of the data are masked" in seen
    assert str(run.parent) not in text  # no folder of the machine


def test_a_forecast_without_truth_is_shown_and_not_scored(files):
    text = page(of_files(files / "predicted.csv"))
    assert "nothing is scored" in words(text) and "Where it errs" not in words(text)
    assert told(text)["map"]["truth"] is None and len(told(text)["people"]) == 6


def test_what_a_file_says_is_no_html(files, tmp_path):
    bad = pd.read_csv(files / "predicted.csv").assign(user="<script>alert(1)</script>")
    bad.to_csv(files / "bad.csv", index=False)
    assert "<script>alert" not in page(of_files(files / "bad.csv"))


def test_the_best_the_median_and_the_worst_are_offered_first(files):
    text = page(of_files(files / "predicted.csv", files / "truth.csv"))
    truth = pd.read_csv(files / "truth.csv")
    scores = score(pd.read_csv(files / "predicted.csv"), truth[truth["d"] >= 61], "humob2024").per_user
    order = scores.sort_values("geobleu", ascending=False)["uid"].tolist()
    first = re.search(r'<optgroup label="Offered first">(.*?)</optgroup>', text).group(1)
    assert re.findall(r"(\w+): uid (\d+)", first) == [
        ("best", str(order[0])), ("median", str(order[3])), ("worst", str(order[-1])),
    ]  # fmt: skip


def test_numbers_drawn_anew_stand_for_uids(files):
    high = pd.read_csv(files / "truth.csv")
    high["uid"] += 876500
    high.to_csv(files / "truth.csv", index=False)
    high[high["d"] >= 61].to_csv(files / "predicted.csv", index=False)
    shown = page(of_files(files / "predicted.csv", files / "truth.csv"))
    hidden = page(of_files(files / "predicted.csv", files / "truth.csv").anonymous())
    own = [text[text.index("<body>") :] for text in (shown, hidden)]
    assert "uid 876501" in own[0] and not re.search(r"uid \d", own[1]) and "8765" not in words(hidden)
    assert sorted(person["name"] for person in told(hidden)["people"]) == [f"person {n}" for n in range(1, 7)]


def test_an_anonymous_report_names_no_file_and_no_person(files, tmp_path):
    for old, new in (("truth.csv", "ann_smith.csv"), ("predicted.csv", "of_ann_smith.csv")):
        pd.read_csv(files / old).assign(user="Ann Smith").to_csv(files / new, index=False)
    shown = page(of_files(files / "of_ann_smith.csv", files / "ann_smith.csv"))
    hidden = page(of_files(files / "of_ann_smith.csv", files / "ann_smith.csv").anonymous())
    alone = page(of_files(files / "of_ann_smith.csv").anonymous())
    assert "ann_smith" in shown
    assert not any(re.search("ann.?smith", text[text.index("<title>") :], re.IGNORECASE) for text in (hidden, alone))


def test_masked_people_are_not_on_the_map_of_those_whose_truth_is_known(files):
    truth = pd.read_csv(files / "truth.csv")
    masked = truth[(truth["uid"] == 5) & (truth["d"] >= 61)].index
    truth.loc[masked, ["x", "y"]] = 999
    truth.to_csv(files / "truth.csv", index=False)
    drawn = city_map(of_files(files / "predicted.csv", files / "truth.csv"))
    ours, theirs = (sum(sum(numbers) for _, numbers in drawn[name]) for name in ("forecast", "truth"))
    assert ours == pytest.approx(theirs, rel=0.05)


def test_of_a_run_of_many_people_a_report_that_nobody_asked_for_has_a_part(finished):
    held_out = json.loads((finished / "run.json").read_text())["held_out_uids"]
    few = of_run(finished, most_people=3)
    assert few.predicted["uid"].nunique() == few.truth["uid"].nunique() == 3 < len(held_out)
    assert set(few.predicted["uid"]) <= set(held_out)
    assert f"{len(held_out) - 3} of them are left out of this page" in few.about["split"]
    assert of_run(finished, most_people=100).predicted["uid"].nunique() > len(held_out)  # the masked ones, too


def test_of_many_people_a_part_can_be_picked(files):
    text = page(of_files(files / "predicted.csv", files / "truth.csv"), most_people=4)
    assert len(told(text)["people"]) == 4 and "4 of the 6 people can be picked" in words(text)
    assert len(told(text)["people"][0]["days"]) > 3


def test_the_map_counts_everybody_once(files):
    evidence = of_files(files / "predicted.csv", files / "truth.csv")
    drawn = city_map(evidence)
    slots = evidence.truth.assign(hour=evidence.truth["t"] // 2)
    expected = slots.groupby(["d", "hour"])["uid"].nunique()
    counted = [sum(numbers) for _, numbers in drawn["truth"]]
    assert len(counted) == len(expected)
    assert sum(counted) == pytest.approx(expected.sum() * (1 - drawn["outside"]), rel=0.02)


def test_errors_by_kind_by_hand():
    history = pd.DataFrame({"uid": 1, "d": [1, 1, 2], "t": [2, 20, 2], "x": [5, 9, 5], "y": [5, 9, 5]})
    truth = pd.DataFrame({"uid": 1, "d": [60, 60, 61], "t": [2, 20, 20], "x": [5, 9, 50], "y": [5, 9, 5]})
    best = truth.assign(x=[5, 9, 9], y=[5, 12, 5], probability=1.0)
    errors = record_errors(best, truth, history, GRID, CALENDAR)
    assert errors["off_km"].tolist() == [0, 1.5, 20.5] and errors["hit"].tolist() == [1, 0, 0]
    assert homes(history, CALENDAR).to_numpy().tolist() == [[1, 5, 5]]
    assert errors["km from home"].tolist() == ["0-0.75", "2-5", "over 20"]
    assert errors["cell"].tolist() == ["known", "known", "new"] and errors["days ahead"].tolist() == ["1", "1", "2"]
    table = by_kind(errors, "hour").set_index("kind")
    assert table.loc["10", "off_km"] == 11 and table.loc["10", "records"] == 2 and list(table.index) == ["1", "10"]


def test_intervals_are_over_people():
    values = np.array([0.0, 1.0] * 50)
    found = interval(values)
    assert (
        found.mean == 0.5 and found.low == pytest.approx(0.4, abs=0.02) and found.high == pytest.approx(0.6, abs=0.02)
    )
    same = interval(np.full(10, 3.0))
    assert same.low == same.mean == same.high == 3.0


def test_calibration_by_hand():
    rows = [(1, 60, t, rank, x, 1, p) for t in range(4) for rank, x, p in ((1, 1, 0.75), (2, 2, 0.1))]
    places = as_places(pd.DataFrame(rows, columns="uid d t rank x y probability".split()), GRID, CALENDAR)
    truth = pd.DataFrame({"uid": 1, "d": 60, "t": range(4), "x": [1, 1, 1, 2], "y": 1})
    assert calibration(places, truth)[["probability", "right", "records"]].to_numpy().tolist() == [[0.75, 0.75, 4]]
    certain = as_places(truth, GRID, CALENDAR)
    assert calibration(certain, truth) is None


def test_where_the_place_is_known_the_map_is_in_degrees_and_days_are_dates(files):
    place = Place(35.01, 135.77, "Asia/Tokyo", "2026-02-01")
    Description("kyoto", "truth.csv", GRID, CALENDAR, 61, place).write(files)
    found = told(page(of_files(files / "predicted.csv", files / "truth.csv")))
    assert found["axes"] == ["longitude", "latitude"] and 135 < found["map"]["x"][0] < 137
    assert found["people"][0]["days"][0]["label"] == "Friday 2026-04-03"  # day 61
    assert 34 < found["people"][0]["home"][1] < 36


def test_mistakes_are_said_in_a_line(files, report_of_run, capsys):
    out = ["--output", str(files / "r.html")]
    _, run = report_of_run
    for words_, message in (
        (["report", str(files), *out], "is of no finished run with predictions: it has no run.json"),
        (["report", str(files / "missing.csv"), *out], "there is no file"),
        (["report", str(run), "--truth", "t.csv", *out], "a run knows its own data"),
        (["report", str(files / "predicted.csv"), "--tiles", *out], "no city.json says where the city lies"),
        (["report", str(files / "predicted.csv"), "--tiles", "https://a.test", *out], "{z}, {x} and {y}, such as"),
        (
            ["report", str(files / "predicted.csv"), "--output", str(files / "no" / "r.html")],
            "for --output does not exist",
        ),
    ):
        assert main(words_) == 1
        assert message in capsys.readouterr().err
    strangers = pd.read_csv(files / "truth.csv").assign(uid=lambda table: table["uid"] + 100)
    strangers.to_csv(files / "strangers.csv", index=False)
    assert main(["report", str(files / "predicted.csv"), "--truth", str(files / "strangers.csv"), *out]) == 1
    assert "has none of the people of" in capsys.readouterr().err


@pytest.mark.browser
def test_in_a_browser_the_slider_moves_the_map_and_a_person_can_be_picked(report_of_run):
    with open_browser() as browser:
        for width in (1280, 390):
            view = new_page(browser, viewport={"width": width, "height": 900})
            errors, asked = complaints(view), []
            view.on("request", lambda request, asked=asked: asked.append(request.url))
            view.goto(f"file://{report_of_run[0]}")
            view.wait_for_selector("#map-truth .plot-container")
            assert view.evaluate("document.documentElement.scrollWidth") == width  # nothing hangs over the edge
            read = "JSON.stringify(document.getElementById('map-truth').data[0].z)"
            before, label = view.evaluate(read), view.inner_text("#hour-label")
            view.focus("#hour")
            for _ in range(3):
                view.keyboard.press("ArrowRight")
            assert view.evaluate(read) != before and view.inner_text("#hour-label") != label
            paths = "JSON.stringify(document.getElementById('person-map').data.map(trace => trace.x))"
            before = view.evaluate(paths)
            view.select_option("#person", index=2)
            worst = view.evaluate(paths)
            view.click("#day-on")
            assert len({before, worst, view.evaluate(paths)}) == 3
            assert not errors
            assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []  # no network
            view.close()


@pytest.mark.browser
def test_streets_are_asked_for_only_where_they_are_wanted_and_lie_where_they_belong(files, tmp_path):
    place = Place(35.01, 135.77, "Asia/Tokyo", "2026-02-01")
    Description("kyoto", "truth.csv", GRID, CALENDAR, 61, place).write(files)
    tiles = "http://tiles.test/{z}/{x}/{y}.png"
    write_report(files / "predicted.csv", tmp_path / "r.html", truth=files / "truth.csv", tiles=tiles)
    asked = []

    def serve(route):
        asked.append(route.request.url)
        route.fulfill(body=PIXEL, content_type="image/png", headers={"Access-Control-Allow-Origin": "*"})

    with open_browser() as browser:
        view = new_page(browser)
        errors = complaints(view)
        view.route("http://tiles.test/**", serve)
        view.goto(f"file://{tmp_path / 'r.html'}", wait_until="commit")
        view.wait_for_selector("#map-truth .imagelayer image", state="attached")
        images = view.evaluate("document.getElementById('map-truth').layout.images")
        (west, east), (south, north) = view.evaluate(
            "['xaxis', 'yaxis'].map(axis => document.getElementById('map-truth').layout[axis].range)"
        )
    assert not errors and 1 <= len(images) <= 16
    assert min(i["x"] for i in images) <= west and max(i["x"] + i["sizex"] for i in images) >= east
    assert max(i["y"] for i in images) >= north and min(i["y"] - i["sizey"] for i in images) <= south
    for image in images:  # the address of a tile says where it lies: Web Mercator
        z, x, y = map(int, re.findall(r"\d+", image["source"].removeprefix("http://tiles.test")))
        assert image["x"] == pytest.approx(x / 2**z * 360 - 180)
        top = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * y / 2**z))))
        assert image["y"] == pytest.approx(top)
    assert asked and {*asked} >= {images[0]["source"]}


@pytest.mark.browser
def test_in_the_dark_the_charts_are_light_on_dark(report_of_run):
    with open_browser() as browser:
        colours = []
        for scheme in ("light", "dark"):
            view = new_page(browser, color_scheme=scheme)
            view.goto(f"file://{report_of_run[0]}")
            view.wait_for_selector("#chart-0 .plot-container")
            read = "document.getElementById('chart-0')"
            colours.append(view.evaluate(f"[{read}.layout.font.color, {read}.data[0].line.color]"))
            view.close()
        assert colours[0][0] < "#888888" < colours[1][0] and colours[0][1] != colours[1][1]
