"""Runs that go on, runs at the same time, runs that diverge or are interrupted, and what is refused before data."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from stmoe_hf.training.command_line import parse_arguments
from stmoe_hf.training.run import INTERRUPTED, main, run
from stmoe_hf.training.run_folder import LOCK, RECORD
from stmoe_hf.training.trainer import MobilityTrainer

from ..helpers import NO_CELL_HEAD, SIZES, write_city

EPOCHS = ("--num_train_epochs", "2", "--test_fraction", "0.3", "--validation_users", "2", "--save_total_limit", "5")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_city(tmp_path_factory.mktemp("data"))


def arguments(data: Path, output: Path, *more: str) -> list[str]:
    common = ["--city", "B", "--data_dir", str(data), "--cache_dir", str(data / "cache"), "--output_dir", str(output)]
    return [*common, "--model_name", "STMoEBert", *SIZES, *NO_CELL_HEAD, *more]


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "cityB"
    run(*parse_arguments(arguments(data, folder, *EPOCHS)))
    return folder


@pytest.fixture
def broken_off(finished, tmp_path) -> Path:
    """The folder of a run that was killed after its first epoch of two."""
    folder = tmp_path / "cityB"
    shutil.copytree(finished, folder)
    last = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    shutil.rmtree(last)
    (folder / "all_results.json").unlink()
    return folder


def read(file: Path) -> dict:
    return json.loads(file.read_text())


def of_a_session(name: str) -> bool:
    return any(word in name for word in ("runtime", "per_second"))


def test_the_results_of_a_run_that_went_on_are_those_of_an_unbroken_one(finished, broken_off, data):
    began = read(broken_off / RECORD)
    assert main(arguments(data, broken_off, *EPOCHS, "--resume")) == 0
    whole, resumed = (
        {name: value for name, value in read(folder / "all_results.json").items() if not of_a_session(name)}
        for folder in (finished, broken_off)
    )
    assert resumed == whole and resumed["train_loss"] > 0
    assert "train_runtime" not in read(broken_off / "all_results.json")
    record = read(broken_off / RECORD)
    [gone_on] = record.pop("resumed")
    assert record == began and gone_on["from"].startswith("checkpoint-")


@pytest.mark.parametrize(
    "option, said",
    [
        (("--learning_rate", "0.5"), "learning_rate was 0.005 and is 0.5"),
        (("--num_train_epochs", "4"), "num_train_epochs was 2.0 and is 4.0"),
        (("--per_device_train_batch_size", "2"), "a step took 4 windows"),
        (("--decoder", "mode"), "decoder was balanced and is mode"),
        (("--weight_decay", "0.1"), "weight_decay was 0.001 and is 0.1"),
        (("--seed", "3"), "seed was 42 and is 3"),
        (("--hidden_size", "32"), "hidden_size was 16 and is 32"),
    ],
)
def test_a_run_does_not_go_on_with_other_arguments_and_its_record_stays(broken_off, data, capsys, option, said):
    before = (broken_off / RECORD).read_bytes()
    assert main(arguments(data, broken_off, *EPOCHS, "--resume", *option)) == 1
    assert said in capsys.readouterr().err
    assert (broken_off / RECORD).read_bytes() == before


def test_a_run_goes_on_with_another_division_of_its_steps_and_shown_or_stored_otherwise(broken_off, data):
    more = ("--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2", "--logging_steps", "3")
    more += ("--per_device_eval_batch_size", "3", "--save_total_limit", "1")
    assert main(arguments(data, broken_off, *EPOCHS, "--resume", *more)) == 0


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"])
@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_damaged_checkpoint_is_named_and_no_training_begins_from_it(broken_off, data, capsys, name, how):
    [checkpoint] = broken_off.glob("checkpoint-*")
    if how == "missing":
        (checkpoint / name).unlink()
    else:
        content = bytearray((checkpoint / name).read_bytes())
        content[len(content) // 2] ^= 255
        (checkpoint / name).write_bytes(content)
    assert main(arguments(data, broken_off, *EPOCHS, "--resume")) == 1
    said = capsys.readouterr().err
    assert "no checkpoint of" in said and name.partition(".")[0] in said and "--overwrite" in said


def test_a_damaged_optimizer_in_a_checkpoint_without_a_list_is_no_traceback(broken_off, data, capsys):
    [checkpoint] = broken_off.glob("checkpoint-*")
    (checkpoint / "checkpoint_files.json").unlink()
    (checkpoint / "optimizer.pt").write_bytes(b"nothing that torch reads")
    assert main(arguments(data, broken_off, *EPOCHS, "--resume")) == 1
    assert "the state of the optimizer or of the learning rate in" in capsys.readouterr().err


def test_a_damaged_record_is_refused_and_a_missing_one_is_said(broken_off, data, capsys, caplog):
    (broken_off / RECORD).write_text('{"model": 3}')
    assert main(arguments(data, broken_off, *EPOCHS, "--resume")) == 1
    assert "the record of the run, is damaged" in capsys.readouterr().err
    (broken_off / RECORD).unlink()
    with caplog.at_level(logging.WARNING):
        assert main(arguments(data, broken_off, *EPOCHS, "--resume")) == 0
    assert "whether the run goes on as it began cannot be checked" in caplog.text


def test_of_two_runs_in_one_folder_the_second_is_refused(finished, data, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with FileLock(finished / LOCK):
        for how in ("--overwrite", "--resume"):
            assert main(arguments(data, finished, *EPOCHS, how)) == 1
            assert "another run is writing to" in capsys.readouterr().err
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert {path for path in before if before[path] != after.get(path)} <= {finished / LOCK}


def test_a_training_that_diverges_ends_with_the_step_and_writes_no_nan(data, tmp_path, capsys):
    folder = tmp_path / "run"
    options = ("--learning_rate", "1e30", "--warmup_steps", "0", "--max_grad_norm", "0")
    assert main(arguments(data, folder, *EPOCHS, *options)) == 1
    assert "training diverged" in capsys.readouterr().err
    assert not (folder / "model.safetensors").exists() and not (folder / "all_results.json").exists()
    for file in folder.rglob("*.json"):
        assert "NaN" not in file.read_text() and "Infinity" not in file.read_text(), file


def test_control_c_is_a_line(data, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(MobilityTrainer, "train", interrupted)
    assert main(arguments(data, tmp_path / "run", *EPOCHS)) == INTERRUPTED
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("stopped;")


def test_what_is_missing_is_told_before_data_are_read(tmp_path, capsys):
    nowhere = tmp_path / "nowhere"
    (tmp_path / "file").write_text("")
    for options, said in (
        (["--report_to", "clearml"], "--report_to clearml needs a package that is not installed: pip install clearml"),
        (["--report_to", "nobody"], "--report_to nobody: there is no such place"),
        (["--optim", "grokadamw"], "--optim grokadamw cannot be used here"),
        (["--label_smoothing_factor", "0.1"], "nothing can be smoothed"),
        (["--output_dir", str(tmp_path / "file" / "run")], "is a file; give another --output_dir"),
    ):
        assert main([*arguments(nowhere, tmp_path / "run"), *options]) == 1
        said_so = capsys.readouterr().err
        assert said in said_so and "nowhere" not in said_so


def test_weights_have_the_mode_of_other_files(finished):
    other = finished / "all_results.json"
    for file in (finished / "model.safetensors", *finished.glob("checkpoint-*/model.safetensors")):
        assert file.stat().st_mode == other.stat().st_mode


def test_without_a_terminal_there_are_plain_lines_and_no_dictionaries(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a notebook does for its commands
    assert main(arguments(data, tmp_path / "run", *EPOCHS)) == 0
    output = capsys.readouterr()
    assert "\x1b" not in output.err + output.out and "{'" not in output.err + output.out
    rows = [line.split()[0] for line in output.err.splitlines() if line.strip()]
    assert [row for row in rows if row in ("epoch", "counting", "1")] == ["epoch", "counting", "1"]
    assert "of 4" in output.err
    assert "GEO-BLEU: " in output.out and "people: proves nothing" in output.out
    history = read(tmp_path / "run" / "trainer_state.json")["log_history"]
    assert {"loss", "grad_norm", "learning_rate", "experts_in_use"} <= set(history[0])  # TensorBoard gets all of it


def test_verbose_shows_what_is_logged(data, tmp_path, capsys):
    assert main(arguments(data, tmp_path / "run", *EPOCHS, "--verbose", "true")) == 0
    assert "{'loss': " in capsys.readouterr().out


def test_what_was_not_predicted_is_not_announced(data, tmp_path, capsys):
    assert main(arguments(data, tmp_path / "run", "--max_steps", "1", "--test_fraction", "0")) == 0
    assert "nothing was predicted, since nobody is held out or masked" in capsys.readouterr().out


def test_metrics_and_steps_are_numbers_of_the_run(finished):
    results = read(finished / "all_results.json")
    assert results["ahead_humob2024_geobleu_low"] <= results["ahead_humob2024_geobleu"]
    assert results["train_experts_in_use_worst"] <= results["train_experts_in_use"] <= 4
    assert torch.tensor(results["test_expert_load"]).shape == (2, 4)
