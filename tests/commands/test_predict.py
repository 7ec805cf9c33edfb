"""`predict`: the submission of a saved model, for masked and for plain users, and what is refused."""

import json
import logging
from pathlib import Path

import pandas as pd
import pytest
from transformers import AutoModel

import stmoe_hf
from stmoe_hf.__main__ import main
from stmoe_hf.data.city import open_city
from stmoe_hf.data.windows import PredictionWindows, WindowShape
from stmoe_hf.model.processing_stmoe_bert import MobilityProcessor
from stmoe_hf.prediction.predict import PredictionSettings, predict_windows
from stmoe_hf.training.command_line import parse_arguments
from stmoe_hf.training.run import run

from ..helpers import NO_CELL_HEAD, SIZES, people, small_model, write_city


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_city(tmp_path_factory.mktemp("data"), masked=3)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """A run in the published regime, with a decoder that is not the default."""
    folder = tmp_path_factory.mktemp("runs") / "cityB"
    options = ["--city", "B", "--data_dir", str(data), "--cache_dir", str(data / "cache"), *SIZES, *NO_CELL_HEAD]
    options += "--input_seq_length 40 --predict_seq_length 10 --look_back_len 25 --decoder dtw".split()
    options += ["--max_steps", "2", "--eval_users", "0", "--eval_fraction", "0.2", "--output_dir", str(folder)]
    run(*parse_arguments(options))
    return folder


def predict(model: Path, data: Path, output: Path, *more: str) -> int:
    where = ["--data_dir", str(data), "--city", "B", "--cache_dir", str(data / "cache"), "--device", "cpu"]
    return main(["predict", "--model", str(model), *where, "--output", str(output), *more])


def test_masked_users_get_the_predictions_of_the_run_and_a_valid_submission(trained, data, tmp_path, capsys):
    output = tmp_path / "submission.csv.gz"
    assert predict(trained, data, output) == 0
    submission = pd.read_csv(output)
    assert list(submission.columns) == ["uid", "d", "t", "x", "y"]
    of_run = pd.read_csv(trained / "predictions.csv.gz")
    expected = of_run[of_run["uid"].isin([9, 10, 11])]
    assert submission.sort_values(["uid", "d", "t"]).reset_index(drop=True).equals(expected.reset_index(drop=True))
    options = ["--prediction", str(output), "--data", str(data), "--city", "B", "--edition", "humob2024"]
    assert main(["validate", *options]) == 0
    assert "is a valid submission" in capsys.readouterr().out


def test_predict_from_python_gives_the_table_of_the_command(trained, data, tmp_path):
    assert predict(trained, data, tmp_path / "p.csv") == 0
    table = stmoe_hf.predict(trained, city="B", data_dir=data, cache_dir=data / "cache", device="cpu")
    written = pd.read_csv(tmp_path / "p.csv").sort_values(["uid", "d", "t"], ignore_index=True)
    assert table.equals(written)
    with pytest.raises(ValueError, match="there is no model at runs/none"):
        stmoe_hf.predict("runs/none", city="B", data_dir=data)


def test_train_from_python_is_the_command(data, tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "intermediate_size": 32, "num_experts": 0, "cell_head": False}
    results = stmoe_hf.train(
        city="B",
        data_dir=data,
        config="demo",
        cache_dir=data / "cache",
        output_dir=tmp_path / "run",
        max_steps=1,
        eval_users=0,
        disable_tqdm=True,
        **sizes,
    )
    written = json.loads((tmp_path / "run" / "all_results.json").read_text())
    assert results["city"] == "B" and written.keys() == results.keys()
    with pytest.raises(ValueError, match="train: there is no argument 'hiden_size'; did you mean 'hidden_size'"):
        stmoe_hf.train(city="B", data_dir=data, hiden_size=16)


def test_plain_users_are_predicted_on_request_and_where_nobody_is_masked(trained, data, tmp_path):
    assert predict(trained, data, tmp_path / "all.csv", "--plain", "--decoder", "mode") == 0
    late = people(masked=3).query("d >= 60")
    keys = pd.read_csv(tmp_path / "all.csv")[["uid", "d", "t"]].sort_values(["uid", "d", "t"])
    assert keys.to_numpy().tolist() == late[["uid", "d", "t"]].to_numpy().tolist()
    truth = write_city(tmp_path / "truth", users=3)
    assert predict(trained, truth, tmp_path / "plain.csv", "--cut_day", "70", "--horizon_days", "3") == 0
    expected = people(users=3).query("70 <= d < 73")
    assert len(pd.read_csv(tmp_path / "plain.csv")) == len(expected)


def test_a_model_of_2024_predicts_a_city_of_2025_by_the_days_of_2025(trained, tmp_path):
    folder = tmp_path / "y2025"
    folder.mkdir()
    table = people(masked=3)
    table.assign(d=table["d"] + 1).to_csv(folder / "city_B_challengedata.csv.gz", index=False)
    assert predict(trained, folder, tmp_path / "p.csv") == 0
    assert pd.read_csv(tmp_path / "p.csv")["d"].between(61, 75).all()


def test_a_user_without_history_or_with_one_record_is_predicted_and_said(trained, tmp_path, caplog):
    table = people(users=3, masked=3)
    table = table[(table["uid"] != 1) | (table["d"] >= 60)]
    once = pd.DataFrame([(7, 60, 5, 999, 999)], columns=table.columns)
    folder = tmp_path / "data"
    folder.mkdir()
    pd.concat([table, once]).to_csv(folder / "cityB_challengedata.csv.gz", index=False)
    with caplog.at_level(logging.WARNING):
        assert predict(trained, folder, tmp_path / "p.csv", "--predict_seq_length", "1000") == 0
    assert "2 of the users to predict, first uid 7, have no earlier record" in caplog.text
    submission = pd.read_csv(tmp_path / "p.csv")
    # This network has no distribution over all cells: the centre of the grid is the least wrong.
    assert (submission.loc[submission["uid"].isin([1, 7]), ["x", "y"]] == 100).all(axis=None)
    assert len(submission) == (table["x"] == 999).sum() + 1


def test_what_cannot_be_predicted_is_refused_and_leaves_no_file(trained, data, tmp_path, capsys):
    output = tmp_path / "p.csv"
    assert predict(trained, data, tmp_path / "none" / "p.csv") == 1
    assert "does not exist" in capsys.readouterr().err
    assert predict(trained, data, output, "--cut_day", "80") == 1
    assert "cut_day 80" in capsys.readouterr().err
    small = tmp_path / "small"
    small_model().save_pretrained(small)
    assert predict(small, tmp_path, output) == 1  # there is no data either: the model is refused first, or the file
    assert "cityB" in capsys.readouterr().err
    assert predict(small, data, output) == 1
    assert "grid_width is 200 in the data and 12 in the model" in capsys.readouterr().err
    early = write_city(tmp_path / "early", users=2, days=50)
    assert predict(trained, early, output) == 1
    assert "asks for nothing" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize("name", ["p.parquet", "p.csv.zip", "p", "p.csv.gz.tmp"])
def test_an_output_of_another_kind_than_its_name_says_is_refused(trained, data, tmp_path, capsys, name):
    assert predict(trained, data, tmp_path / name) == 1
    assert "must end in .csv or .csv.gz" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_days_that_the_model_was_trained_on_are_told(trained, data, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert predict(trained, data, tmp_path / "p.csv") == 0
        assert "were trained on in these days" not in caplog.text
        assert predict(trained, data, tmp_path / "p.csv", "--plain") == 0
    assert "7 of the 9 people to predict, first uid" in caplog.text


def test_users_are_predicted_a_batch_at_a_time(trained, data):
    city = open_city("B", data, cache_dir=data / "cache")
    processor = MobilityProcessor.for_data(city.grid, city.calendar)
    windows = PredictionWindows(city, city.masked_counts.nonzero()[0], 60, WindowShape(), processor, masked=True)
    read = []
    original = windows.__class__.__getitem__

    class Counted(PredictionWindows):
        def __getitem__(self, window):
            read.append(window)
            return original(self, window)

    windows.__class__ = Counted
    model = AutoModel.from_pretrained(trained)
    parts = predict_windows(model, windows, processor, PredictionSettings(), batch_size=2)
    assert next(parts)["uid"].nunique() == 2
    assert len(read) == 2  # the third user is not read before the first two are written
    assert next(parts)["uid"].nunique() == 1
