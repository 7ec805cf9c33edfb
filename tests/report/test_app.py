"""The app: what it understands and refuses, that its rows are those of `stmoe forecast`, what it leaves behind."""

import os
import shutil

import pandas as pd
import pytest

from stmoe_hf.__main__ import main
from stmoe_hf.data.errors import DataError
from stmoe_hf.report.app import App, Limits, summary

from ..helpers import people, portable_model
from .browser import complaints, new_page, open_browser

pytest.importorskip("plotly")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A small portable network that learnt nothing."""
    folder = tmp_path_factory.mktemp("model")
    portable_model().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def app(model):
    made = App(model, Limits(megabytes=1, people=5))
    yield made
    made.close()
    assert not made.folder.exists()


@pytest.fixture
def files(tmp_path):
    """A right file, and one whose fourth line is wrong."""
    right = people(users=3)
    right.to_csv(tmp_path / "right.csv", index=False)
    wrong = right.astype(str)
    wrong.loc[2, "x"] = "abc"
    wrong.to_csv(tmp_path / "wrong.csv", index=False)
    return tmp_path


def test_a_file_is_understood(app, files):
    with app.open(app.take(shutil.copy(files / "right.csv", files / "copy.csv"), "s"), "UTC") as city:
        said = summary(city, "copy.csv")
    assert "3 people" in said and "slots of 30 minutes, 200 x 200 cells of 0.5 km" in said


def test_points_are_understood_in_their_zone(app, tmp_path):
    times = pd.date_range("2026-02-01", periods=60, freq="7h")
    points = pd.DataFrame({"user": "ann", "latitude": 35.01, "longitude": 135.77, "time": times.astype(str)})
    points.to_csv(tmp_path / "points.csv", index=False)
    path = app.take(str(tmp_path / "points.csv"), "s")
    with app.open(path, "Asia/Tokyo") as city:
        assert "2026-02-01 to 2026-02-18, clock of Asia/Tokyo" in summary(city, path.name)
    with pytest.raises(DataError, match="there is no time zone 'Mars'"), app.open(path, "Mars"):
        pass


def test_a_mistake_is_told_with_its_line_and_without_folders(app, files):
    path = app.take(str(files / "wrong.csv"), "s")
    with pytest.raises(DataError) as error, app.open(path, "UTC"):
        pass
    assert str(error.value) == "wrong.csv, line 4: x is 'abc', which is no whole number"


def test_too_much_is_refused_with_the_limit(app, tmp_path):
    (tmp_path / "large.csv").write_bytes(b"0" * 1_500_000)
    with pytest.raises(DataError, match=r"large\.csv has 2 MB; this page takes 1 MB"):
        app.take(str(tmp_path / "large.csv"), "s")
    assert not list(app.session("s").iterdir())
    people(users=6).to_csv(tmp_path / "many.csv", index=False)
    path = app.take(str(tmp_path / "many.csv"), "s")
    with pytest.raises(DataError, match=r"many\.csv has 6 people; this page takes 5"), app.open(path, "UTC"):
        pass


def test_a_session_leaves_nothing_behind_and_touches_no_other(app, files):
    app.take(shutil.copy(files / "right.csv", files / "a.csv"), "one")
    kept = app.take(shutil.copy(files / "right.csv", files / "b.csv"), "two")
    with app.open(kept, "UTC"):
        pass
    app.end("one")
    assert kept.is_file() and sorted(os.listdir(app.folder)) == ["session-two"]
    app.end("two")
    assert os.listdir(app.folder) == []


def test_the_rows_and_the_report_are_those_of_the_command(app, model, files):
    path = app.take(shutil.copy(files / "right.csv", files / "copy.csv"), "s")
    with app.open(path, "UTC") as city:
        text, output = app.forecast(city, 2, 3, path)
        looked_back = app.backtest(city, 5, path)
    options = ["--data_path", str(files / "right.csv"), "--model", model, "--days", "2", "--top_k", "3"]
    assert main(["forecast", *options, "--output", str(files / "out.csv"), "--cache_dir", str(files / "cache")]) == 0
    pd.testing.assert_frame_equal(pd.read_csv(output), pd.read_csv(files / "out.csv"))
    assert "copy.csv: the next 2 days" in text and "nothing is scored" in text
    assert "the last 5 days" in looked_back and "weekday slot mode" in looked_back


@pytest.mark.browser
def test_in_a_browser_a_mistake_is_told_and_a_right_file_gives_a_forecast(app, files, model):
    pytest.importorskip("gradio")
    from stmoe_hf.report.app_page import launch

    blocks, url = launch(app, wait=False)
    try:
        with open_browser() as browser:
            view = new_page(browser)
            errors, asked = complaints(view), []
            view.on("request", lambda request: asked.append(request.url))
            view.goto(url)
            view.set_input_files("input[type=file]", str(files / "wrong.csv"))
            view.wait_for_selector("#understood >> text=wrong.csv, line 4")
            assert view.is_disabled("#forecast")
            view.reload()
            view.set_input_files("input[type=file]", str(files / "right.csv"))
            view.wait_for_selector("#understood >> text=right.csv is understood")
            view.click("#forecast:enabled")
            report = view.frame_locator("iframe[title=report]")
            report.locator("#map-forecast .plot-container").wait_for()
            report.locator("#person").select_option(index=1)
            with view.expect_download() as got:
                view.click("#download")
            options = ["--data_path", str(files / "right.csv"), "--model", model, "--days", "7", "--top_k", "3"]
            out = ["--output", str(files / "out.csv"), "--cache_dir", str(files / "cache")]
            assert main(["forecast", *options, *out]) == 0
            pd.testing.assert_frame_equal(pd.read_csv(got.value.path()), pd.read_csv(files / "out.csv"))
            assert [address for address in asked if address.startswith("http") and not address.startswith(url)] == []
            assert not errors
            view.goto("about:blank")
            view.wait_for_timeout(2000)
            left = [path for path in app.folder.rglob("*") if path.is_file()]
            assert not [path for path in left if path.stat().st_size]  # gradio leaves an empty file an upload
    finally:
        blocks.close()
