"""`--poi` from training to forecasts: it has a say, a city without it works, and it is never ignored."""

import numpy as np
import pandas as pd
import pytest

import stmoe_hf
from stmoe_hf.__main__ import main

from ..helpers import NO_CELL_HEAD, SIZES, people

PORTABLE = "--location_embedding_size 0 --day_embedding_size 0 --history_spread 2 --history_far true".split()
FIELD = ["--record_features", "true", "--city_field", "true"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    people(days=75).to_csv(folder / "cityB_challengedata.csv.gz", index=False)
    random = np.random.default_rng(0)
    x, y = random.integers(55, 145, (2, 4000))
    points = pd.DataFrame({"x": x, "y": y, "category": random.integers(1, 86, 4000), "POI_count": 3})
    points.to_csv(folder / "poi.csv", index=False)
    return folder


def train(data, output, *more: str) -> list[str]:
    where = ["--city", "B", "--data_dir", str(data), "--cache_dir", str(data / "cache"), "--output_dir", str(output)]
    sizes = [value for value in SIZES]
    at = sizes.index("--location_embedding_size")
    del sizes[at : at + 2]
    how = ["--num_train_epochs", "2", "--validation_users", "0", "--alone_share", "0.5", "--save_strategy", "no"]
    return ["train", *where, *sizes, *NO_CELL_HEAD, *PORTABLE, *FIELD, *how, *more]


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    output = tmp_path_factory.mktemp("run") / "poi"
    assert main(train(data, output, "--city_field_poi", "true", "--poi", str(data / "poi.csv"))) == 0
    return output


def test_what_a_run_learned_of_points_of_interest_has_a_say_in_forecasts_and_predictions(data, run, tmp_path):
    where = {"city": "B", "data_dir": data, "cache_dir": data / "cache", "model": run, "device": "cpu"}
    told, untold = (stmoe_hf.forecast(days=1, top_k=40, **where, **poi) for poi in ({"poi": data / "poi.csv"}, {}))
    assert not np.array_equal(told["probability"], untold["probability"])
    sums = told.groupby(["uid", "d", "t"])["probability"].sum()
    assert (sums <= 1 + 1e-5).all()
    command = ["predict", "--model", str(run), "--city", "B", "--data_dir", str(data), "--device", "cpu"]
    output = tmp_path / "predicted.csv"
    assert main([*command, "--poi", str(data / "poi.csv"), "--output", str(output)]) == 0
    assert len(pd.read_csv(output))
    command[0] = "backtest"
    assert main([*command, "--poi", str(data / "poi.csv"), "--no_report", "--output", str(tmp_path / "t.csv")]) == 0


@pytest.mark.parametrize("command", ["train", "predict", "forecast", "backtest"])
def test_a_network_that_has_no_use_for_points_says_so(data, tmp_path, capsys, command):
    poi = ["--poi", str(data / "poi.csv")]
    if command == "train":
        line = [*train(data, tmp_path / "run"), *poi]
    else:
        line = [command, "--city", "B", "--data_dir", str(data), "--output", str(tmp_path / "out.csv"), *poi]
        line += ["--no_report"] if command == "backtest" else []
    capsys.readouterr()
    assert main(line) == 1
    error = capsys.readouterr().err
    assert "error: this network has no use for points of interest: leave --poi out" in error


def test_next_and_shards_are_told_of_no_points(data, run, tmp_path, capsys):
    with pytest.raises(ValueError, match="next=True ranks places of one slot"):
        stmoe_hf.forecast(data / "cityB_challengedata.csv.gz", next=True, poi=data / "poi.csv")
    for command in ("predict", "forecast"):
        line = [command, "--model", str(run), "--input", str(tmp_path), "--output", str(tmp_path / "out")]
        assert main([*line, "--poi", str(data / "poi.csv")]) == 1
        assert "--poi is not said of a folder of shards" in capsys.readouterr().err


def test_a_part_that_learns_nothing_is_said(data, tmp_path, caplog):
    assert main(train(data, tmp_path / "run", "--city_field_poi", "true", "--max_steps", "1")) == 0
    assert "learns nothing here: no --poi is given" in caplog.text
