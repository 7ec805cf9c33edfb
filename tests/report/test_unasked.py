"""The report that a run, a backtest and the demo write by themselves."""

import sys

import pandas as pd
import pytest

from stmoe_hf.__main__ import main

from ..helpers import NO_CELL_HEAD, SIZES, people, portable_model, write_city

pytest.importorskip("plotly")


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    """The options that train a moment on a small city; its report is wanted."""
    folder = tmp_path_factory.mktemp("unasked")
    data = write_city(folder / "data")
    options = ["--city", "B", "--data_dir", str(data), "--cache_dir", str(folder / "cache"), *SIZES, *NO_CELL_HEAD]
    return [*options, "--report", "true", "--max_steps", "1", "--validation_users", "0"]


def test_training_writes_a_report_and_prints_its_path(city, tmp_path, capsys):
    assert main(["train", *city, "--output_dir", str(tmp_path / "run")]) == 0
    report = tmp_path / "run" / "report.html"
    assert f"The report is in {report} (" in capsys.readouterr().out
    assert "City B: where people were, and where they were forecast to be" in report.read_text()


def test_a_run_without_plotly_says_how_to_get_it_and_is_whole(city, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    assert main(["train", *city, "--output_dir", str(tmp_path / "run")]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == "No report was written, since it needs plotly: pip install 'stmoe-hf[report]'"
    assert (tmp_path / "run" / "all_results.json").exists()
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_report_that_is_not_wanted_is_not_written(city, tmp_path, capsys):
    assert main(["train", *city, "--no_report", "--output_dir", str(tmp_path / "run")]) == 0
    assert "eport is in" not in capsys.readouterr().out and not (tmp_path / "run" / "report.html").exists()


def test_a_report_that_cannot_be_made_does_not_undo_a_run(city, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("stmoe_hf.report.page.MOST_BYTES", 1000)
    assert main(["train", *city, "--output_dir", str(tmp_path / "run")]) == 0
    assert "No report was written: the report would be larger than" in capsys.readouterr().out


def test_a_backtest_writes_a_report_beside_its_table(tmp_path, capsys, monkeypatch):
    portable_model().save_pretrained(tmp_path / "model")
    people(users=3).to_csv(tmp_path / "people.csv", index=False)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    common = ["backtest", "--data_path", "people.csv", "--days", "3", "--model", "model"]
    assert main([*common, "--output", "out/table.csv"]) == 0
    assert "The report is in out/report.html (" in capsys.readouterr().out
    text = (tmp_path / "out" / "report.html").read_text()
    assert "the last 3 days, forecast from the days before" in text
    shown = pd.read_csv(tmp_path / "out" / "table.csv").set_index("system")
    assert f"{shown.loc['forecast', 'humob2024_geobleu']:.4f}" in text  # the same numbers as the table
    assert main([*common, "--no_report"]) == 0
    assert "eport is in" not in capsys.readouterr().out and not (tmp_path / "report.html").exists()
    assert main([*common, "--report", "mine.html", "--no_report"]) == 1
    assert main([*common, "--report", "mine.txt"]) == 1
    assert "must end in .html or .htm" in capsys.readouterr().err
