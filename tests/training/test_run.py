"""Training runs with the real Trainer: results, resuming, accumulation, processes, refusals."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

from stmoe_hf import MobilityProcessor, STMoEBertConfig, STMoEBertForMobility
from stmoe_hf.data.city import open_city
from stmoe_hf.data.sampler import LengthGroupedSampler
from stmoe_hf.data.splits import split_users
from stmoe_hf.data.windows import TrainingWindows, WindowShape
from stmoe_hf.evaluation.baselines import BASELINES
from stmoe_hf.training.arguments import RunArguments
from stmoe_hf.training.command_line import parse_arguments
from stmoe_hf.training.run import main, run
from stmoe_hf.training.run_data import _validation
from stmoe_hf.training.trainer import MobilityTrainer

from ..helpers import NO_CELL_HEAD, ROOT, SIZES, people, small_model, write_city


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_city(tmp_path_factory.mktemp("data"), masked=2)


def arguments(data: Path, output: Path, *more: str) -> list[str]:
    common = ["--city", "B", "--data_dir", str(data), "--cache_dir", str(data / "cache"), "--output_dir", str(output)]
    if "--model_path" not in more:  # a network that is named takes no configuration unasked
        common += ["--model_name", "STMoEBert"]
    return [*common, *SIZES, *NO_CELL_HEAD, *more]


def train(data: Path, output: Path, *more: str) -> dict:
    return run(*parse_arguments(arguments(data, output, *more)))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    """The folder of a finished run: three epochs, with evaluation and checkpoints."""
    folder = tmp_path_factory.mktemp("runs") / "cityB"
    train(data, folder, "--num_train_epochs", "3", "--eval_fraction", "0.4", "--save_total_limit", "5")
    return folder


def test_the_folder_of_a_run_has_all_that_a_repetition_needs(finished, data):
    results = json.loads((finished / "all_results.json").read_text())
    for name in ("test", *BASELINES):
        for key in ("humob2024_geobleu", "humob2024_dtw", "humob2025_geobleu", "humob2025_dtw", "accuracy"):
            assert results[f"{name}_{key}"] >= 0, (name, key)
    assert results["test_users"] == 4
    record = json.loads((finished / "run.json").read_text())
    assert record["training"]["seed"] == results["seed"] == 42
    assert record["versions"]["torch"] == torch.__version__
    model = AutoModel.from_pretrained(finished)
    processor = AutoProcessor.from_pretrained(finished)
    assert model(**processor([[(0, 1, 5, 5), (0, 2, 999, 999)]])).logits.shape == (1, 40000)


def test_predictions_are_complete_and_score_as_the_results_say(finished, data):
    predicted = pd.read_csv(finished / "predictions.csv.gz")
    truth = people(masked=2)
    held_out = json.loads((finished / "run.json").read_text())["held_out_uids"]
    asked = truth[(truth["d"] >= 60) & (truth["uid"].isin(held_out) | (truth["x"] == 999))]
    assert predicted[["uid", "d", "t"]].equals(asked[["uid", "d", "t"]].reset_index(drop=True))
    assert predicted[["x", "y"]].min().min() >= 1 and predicted[["x", "y"]].max().max() <= 200
    known = predicted.merge(truth[truth["x"] != 999], on=["uid", "d", "t"], suffixes=("", "_true"))
    hit = (known["x"] == known["x_true"]) & (known["y"] == known["y_true"])
    results = json.loads((finished / "all_results.json").read_text())
    assert hit.groupby(known["uid"]).mean().mean() == pytest.approx(results["test_accuracy"])


def test_training_logs_the_load_of_the_experts_and_both_learning_rates(finished):
    history = json.loads((finished / "trainer_state.json").read_text())["log_history"]
    steps = [entry for entry in history if "loss" in entry]
    assert all(1 <= entry["experts_in_use"] <= 4 and 0 < entry["expert_load_max"] <= 0.5 for entry in steps)
    assert max(entry["learning_rate"] for entry in steps) == pytest.approx(5e-3)  # not the cell embedding's
    assert any("eval_humob2024_geobleu" in entry for entry in history)


def test_the_cell_embedding_has_a_learning_rate_of_its_own(data, tmp_path):
    common = ("--max_steps", "1", "--eval_users", "0", "--eval_fraction", "0", "--warmup_steps", "0")
    train(data, tmp_path / "still", *common, "--location_embedding_lr", "0")
    train(data, tmp_path / "start", *common, "--location_embedding_lr", "0", "--learning_rate", "0")
    train(data, tmp_path / "moved", *common, "--location_embedding_lr", "1e-2")
    name = "model.embeddings.location.weight"
    start, still, moved = (weights(tmp_path / run)[name] for run in ("start", "still", "moved"))
    assert torch.equal(still, start) and not torch.equal(moved, start)
    other = "model.embeddings.projection.weight"
    assert not torch.equal(weights(tmp_path / "still")[other], weights(tmp_path / "start")[other])


def test_a_killed_run_goes_on_to_the_same_result(finished, data, tmp_path):
    folder = tmp_path / "cityB"
    checkpoints = sorted(finished.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert len(checkpoints) == 3
    shutil.copytree(checkpoints[0], folder / checkpoints[0].name)
    # The second one was cut off by a full disk: no state, half a model.
    broken = folder / checkpoints[1].name
    broken.mkdir()
    (broken / "model.safetensors").write_bytes((checkpoints[1] / "model.safetensors").read_bytes()[:1000])
    options = ("--num_train_epochs", "3", "--eval_fraction", "0.4", "--save_total_limit", "5", "--resume")
    train(data, folder, *options)
    for name, tensor in weights(finished).items():
        assert torch.equal(weights(folder)[name], tensor), name
    unbroken, resumed = (json.loads((f / "all_results.json").read_text()) for f in (finished, folder))
    assert {k: v for k, v in resumed.items() if "runtime" not in k and "per_second" not in k and "train" not in k} == {
        k: v for k, v in unbroken.items() if "runtime" not in k and "per_second" not in k and "train" not in k
    }


FULL_AT_THE_END = """
import resource, signal, sys
from stmoe_hf.training.trainer import MobilityTrainer
from stmoe_hf.training.run import main
save = MobilityTrainer.save_model
def save_on_a_full_disk(self, folder=None, _internal_call=False):
    if not _internal_call:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    save(self, folder, _internal_call)
MobilityTrainer.save_model = save_on_a_full_disk
sys.exit(main(sys.argv[1:]))
"""


def test_a_disk_that_is_full_at_the_end_is_a_line_and_leaves_no_half_written_model(data, tmp_path):
    folder = tmp_path / "cityB"
    command = [sys.executable, "-c", FULL_AT_THE_END, *arguments(data, folder, "--max_steps", "1")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"error: {folder} could not be written" in done.stderr and "--resume" in done.stderr
    assert not (folder / "model.safetensors").exists() and not list(folder.glob(".*.part"))


ONE_RECORD = people().groupby("uid").head(1)
NO_HISTORY = people().query("uid != 3 or d >= 60")


@pytest.mark.parametrize(
    "table, options, said, users",
    [
        (people(days=50), [], "nobody is held out or masked", None),
        (people(users=6, masked=6), [], "", None),
        (people(users=1), [], "too small to evaluate during training", 1),
        (NO_HISTORY, ["--eval_fraction", "1"], "1 of the users to predict, first uid 3, have no earlier record", 12),
        (people(), ["--cut_day", "1"], "too small to evaluate during training", 1),
        (people(), ["--eval_fraction", "0"], "nobody is held out or masked", None),
        (people(), ["--max_users", "3", "--eval_fraction", "0.7"], "too small to evaluate during training", 2),
    ],
    ids=["no horizon", "all masked", "one user", "no history", "one day of history", "nobody held out", "max_users"],
)
def test_small_cities_are_trained_on_and_what_is_missing_is_said(tmp_path, caplog, table, options, said, users):
    table.to_csv(tmp_path / "cityB_challengedata.csv.gz", index=False)
    with caplog.at_level("WARNING"):
        results = train(tmp_path, tmp_path / "run", "--max_steps", "1", *options)
    assert said in caplog.text
    assert results.get("test_users") == users
    asked = (table["x"] == 999).any() or users is not None
    assert (tmp_path / "run" / "predictions.csv.gz").exists() == asked


def test_a_city_that_cannot_be_trained_on_is_refused(tmp_path, capsys):
    ONE_RECORD.to_csv(tmp_path / "cityB_challengedata.csv.gz", index=False)
    assert main(arguments(tmp_path, tmp_path / "run")) == 1
    assert "city B has no user to train on: training needs users with records on two days" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


KILLED = """
import os, resource, signal, sys
from stmoe_hf.training.trainer import MobilityTrainer
from stmoe_hf.training.run import main
how, argv = sys.argv[1], sys.argv[2:]
save = MobilityTrainer._save_optimizer_and_scheduler
def save_and_die(self, folder):
    if self.state.global_step > 3:
        if how == "kill":  # in the middle of the second checkpoint, as nobody can foresee
            os.kill(os.getpid(), signal.SIGKILL)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # as a full disk does: writing fails half-way
    save(self, folder)
MobilityTrainer._save_optimizer_and_scheduler = save_and_die
sys.exit(main(argv))
"""


@pytest.mark.parametrize("how", ["kill", "full disk"])
def test_a_kill_or_a_full_disk_leaves_the_last_checkpoint_whole(finished, data, tmp_path, how):
    folder = tmp_path / "cityB"
    options = ("--num_train_epochs", "3", "--eval_fraction", "0.4", "--save_total_limit", "5")
    command = [sys.executable, "-c", KILLED, how, *arguments(data, folder, *options)]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},  # sums in the same order
    )
    first = sorted(finished.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))[0]
    if how == "kill":
        assert done.returncode == -signal.SIGKILL
    else:
        assert done.returncode == 1
        assert "could not be written" in done.stderr and "go on with --resume" in done.stderr
        assert [path.name for path in folder.glob("checkpoint-*")] == [first.name]
    assert not (folder / "all_results.json").exists()
    train(data, folder, *options, "--resume")
    for name, tensor in weights(finished).items():
        assert torch.allclose(weights(folder)[name], tensor, atol=1e-6), name


def test_a_run_is_not_resumed_with_another_model_or_other_data(finished, data, tmp_path, capsys):
    folder = tmp_path / "cityB"
    shutil.copytree(finished, folder)
    # A record of before some arguments got other names.
    record = json.loads((folder / "run.json").read_text())
    record["training"]["eval_users"] = record["training"].pop("validation_users")
    record["data"]["eval_fraction"] = record["data"].pop("test_fraction")
    (folder / "run.json").write_text(json.dumps(record))
    options = arguments(data, folder, "--resume", "--eval_fraction", "0.3", "--hidden_size", "32", "--cut_day", "50")
    assert main(options) == 1
    said = capsys.readouterr().err
    assert "hidden_size was 16 and is 32" in said and "cut_day was None and is 50" in said
    assert "test_fraction was 0.4 and is 0.3" in said
    # Seed and number decide who is held out and evaluated.
    options = arguments(data, folder, "--resume", "--eval_fraction", "0.4", "--seed", "7", "--eval_users", "3")
    assert main(options) == 1
    said = capsys.readouterr().err
    assert "seed was 42 and is 7" in said and "validation_users was 100 and is 3" in said


def test_a_run_that_replaces_another_takes_none_of_its_checkpoints(finished, data, tmp_path):
    folder = tmp_path / "cityB"
    shutil.copytree(finished, folder)
    train(data, folder, "--max_steps", "1", "--save_strategy", "no", "--eval_users", "0", "--overwrite")
    assert not list(folder.glob("checkpoint-*"))


def test_a_run_that_replaces_another_and_is_cut_off_leaves_nothing_of_it(finished, data, tmp_path, monkeypatch):
    folder = tmp_path / "cityB"

    def cut_off(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(MobilityTrainer, "train", cut_off)
    left = {}
    for start in ("anew", "from itself"):
        shutil.copytree(finished, folder)
        more = [] if start == "anew" else ["--model_path", str(folder)]
        with pytest.raises(KeyboardInterrupt):
            train(data, folder, "--max_steps", "1", "--eval_users", "0", "--overwrite", *more)
        left[start] = {path.name for path in folder.glob("*")}
        shutil.rmtree(folder)
    ended = {"all_results.json", "predictions.csv.gz", "checkpoint-3", "checkpoint-6", "checkpoint-9"}
    assert not left["anew"] & {*ended, "model.safetensors"}
    assert not left["from itself"] & ended and "model.safetensors" in left["from itself"]


def test_masked_users_are_not_evaluated_where_their_horizon_has_no_truth(tmp_path):
    city = open_city("B", write_city(tmp_path / "data", users=12, masked=10), cache_dir=tmp_path / "cache")
    args = RunArguments(output_dir=str(tmp_path / "run"), use_cpu=True)
    evaluated = {}
    for cut_day in (60, 70):
        split = split_users(city, cut_day, 0.0, args.seed)
        windows, _ = _validation(city, split, args, WindowShape(), MobilityProcessor(), {})
        evaluated[cut_day] = set(windows.rows.tolist())
    assert evaluated[70] == {0, 1} != evaluated[60]  # before day 60 everybody's cells are known


def test_a_trial_takes_the_first_users_of_every_city(tmp_path, caplog):
    for seed, city in enumerate("AB"):
        write_city(tmp_path, city, users=6, seed=seed)
    options = ["--pretrain_cities", "A", "--max_users", "2", "--max_steps", "1", "--eval_fraction", "0"]
    with caplog.at_level("INFO", logger="stmoe_hf.training.run_data"):
        train(tmp_path, tmp_path / "run", *options, "--eval_users", "0")
    assert "4 training windows an epoch" in caplog.text


def test_the_predicted_city_is_not_pretrained_on_under_its_own_name(data, tmp_path, capsys):
    path = data / "cityB_challengedata.csv.gz"
    options = ["--data_path", str(path), "--data_dir", str(data), "--cache_dir", str(data / "cache")]
    options += ["--pretrain_cities", "B", "--output_dir", str(tmp_path / "run"), "--use_cpu", "true"]
    assert main(options) == 1
    assert "city B of --pretrain_cities is the city that is predicted" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_earlier_run_is_not_overwritten_unasked(finished, data):
    before = weights(finished)
    with pytest.raises(ValueError, match=r"holds an earlier run: give --resume .* --overwrite"):
        train(data, finished)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(finished).items())


def test_held_out_days_do_not_change_the_weights(finished, data, tmp_path):
    table = people(masked=2)
    held_out = json.loads((finished / "run.json").read_text())["held_out_uids"]
    hidden = table["uid"].isin(held_out) & (table["d"] >= 60)
    table.loc[hidden, ["x", "y"]] = np.random.default_rng(1).integers(1, 201, (hidden.sum(), 2))
    table.to_csv(tmp_path / "cityB_challengedata.csv.gz", index=False)
    options = ("--num_train_epochs", "3", "--eval_fraction", "0.4", "--save_total_limit", "5")
    train(tmp_path, tmp_path / "noise", *options)
    for name, tensor in weights(finished).items():
        assert torch.equal(weights(tmp_path / "noise")[name], tensor), name


def test_accumulation_gives_the_same_losses(data, tmp_path):
    logs = []
    for batch, accumulation in ((4, 1), (1, 4)):
        folder = tmp_path / str(batch)
        options = ("--max_steps", "3", "--eval_users", "0", "--eval_fraction", "0", "--dropout", "0")
        options += ("--router_aux_loss_coef", "0.5")
        options += ("--per_device_train_batch_size", str(batch), "--gradient_accumulation_steps", str(accumulation))
        train(data, folder, *options)
        history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        logs.append([(e["loss"], e["router_aux_loss"]) for e in history if "loss" in e])
    assert np.allclose(*(np.array(log)[:, 0] for log in logs), atol=1e-5)
    assert np.allclose(*(np.array(log)[:, 1] for log in logs), atol=1.1e-4)  # rounded for the log


def test_two_processes_give_the_losses_weights_and_predictions_of_one(data, tmp_path):
    # Of 12 windows an epoch the second step gets 4 of 8. No dropout, which is each process's own; and SGD, since Adam
    # makes a whole step of the rounding of a gradient that is 0 (a key's bias has no effect on the loss).
    options = ["--num_train_epochs", "2", "--eval_users", "2", "--eval_fraction", "0.5", "--dropout", "0"]
    options += ["--router_aux_loss_coef", "0.5", "--cell_head", "true", "--head_chunk_size", "64"]
    options += ["--city_embedding", "true", "--optim", "sgd", "--learning_rate", "0.1"]
    train(data, tmp_path / "one", *options, "--per_device_train_batch_size", "8")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", str(free_port())]
    command += ["--config_file", str(ROOT / "configs" / "accelerate" / "two_cpu.yaml"), str(ROOT / "train_hf.py")]
    command += [*arguments(data, tmp_path / "two", *options), "--per_device_train_batch_size", "4"]
    command += ["--disable_tqdm", "false", "--cache_dir", str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("preparing:   0%") == 1  # one process prepares the city, one speaks
    assert done.stderr.count("INFO: city B (humob2024)") == done.stdout.count("this model") == 1

    one, two = (json.loads((tmp_path / name / "trainer_state.json").read_text()) for name in ("one", "two"))
    assert (one["train_batch_size"], two["train_batch_size"]) == (8, 4) and one["global_step"] == two[
        "global_step"
    ] == 4
    for ours, theirs in zip(one["log_history"], two["log_history"], strict=True):
        for key in ours:
            if "experts" in key:
                continue
            if key in ("loss", "grad_norm", "learning_rate") or (key.startswith("eval_") and not is_speed(key)):
                assert theirs[key] == pytest.approx(ours[key], abs=1e-5), key
            if key == "router_aux_loss":  # rounded for the log
                assert theirs[key] == pytest.approx(ours[key], abs=1.1e-4)
    learned = weights(tmp_path / "two")
    for name, tensor in weights(tmp_path / "one").items():
        assert torch.allclose(learned[name], tensor, atol=1e-5), name
    ours, theirs = (json.loads((tmp_path / name / "all_results.json").read_text()) for name in ("one", "two"))
    for key in ours:
        if "expert" in key:  # the last batch of a process is made up with windows that it has predicted
            assert "worst" in key or np.allclose(theirs[key], ours[key], atol=0.1), key
        elif key == "train_loss" or (key.startswith("test_") and not is_speed(key)):
            assert theirs[key] == pytest.approx(ours[key], abs=1e-5), key
    ours, theirs = (pd.read_csv(tmp_path / name / "predictions.csv.gz") for name in ("one", "two"))
    assert theirs.equals(ours) and not theirs.duplicated(["uid", "d", "t"]).any()


def test_a_step_that_does_not_fill_the_processes_is_made_up_with_windows_that_count_for_nothing(data):
    city = open_city("B", data, cache_dir=data / "cache")
    processor = MobilityProcessor.for_data(city.grid, city.calendar)
    windows = TrainingWindows(city, split_users(city, 60, 0.0, 0), WindowShape(), processor, 0)
    sampler = LengthGroupedSampler(windows, 8, seed=0, multiple=8)
    sampler.set_epoch(3)
    items = list(sampler)
    assert len(items) == len(sampler) == 16
    assert items[:12] == list(one_process(windows, epoch=3))
    for item in items[12:]:
        assert (windows[item]["labels"] == -100).all()
    batch = processor.pad([windows[item] for item in items])
    torch.manual_seed(0)
    model = STMoEBertForMobility(STMoEBertConfig(hidden_size=16, num_hidden_layers=1, cell_head=False)).eval()
    with_blanks = model(**batch)
    without = model(**{name: tensor[:12] for name, tensor in batch.items()})
    assert torch.allclose(with_blanks.loss, without.loss, atol=1e-6)
    blank = model(**{name: tensor[12:] for name, tensor in batch.items()})
    assert blank.loss.item() == 0
    blank.loss.backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) == 0 for p in model.parameters())


def one_process(windows: TrainingWindows, epoch: int) -> LengthGroupedSampler:
    sampler = LengthGroupedSampler(windows, 8, seed=0)
    sampler.set_epoch(epoch)
    return sampler


def is_speed(key: str) -> bool:
    return any(word in key for word in ("runtime", "per_second", "time"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_fine_tuning_goes_on_from_a_model_and_refuses_other_sizes(finished, data, tmp_path, capsys):
    options = ("--model_path", str(finished), "--num_train_epochs", "0", "--eval_users", "0", "--eval_fraction", "0.4")
    train(data, tmp_path / "same", *options)
    for name, tensor in weights(finished).items():
        assert torch.equal(weights(tmp_path / "same")[name], tensor), name
    assert main(arguments(data, tmp_path / "other", *options, "--hidden_size", "32")) == 1
    assert "hidden_size 32 (the model has 16)" in capsys.readouterr().err


def test_what_cannot_work_is_refused_before_data_is_read(tmp_path, capsys):
    nowhere = tmp_path / "nowhere"
    assert main(arguments(nowhere, tmp_path / "run", "--num_attention_heads", "3")) == 1
    assert "hidden_size 16 cannot be shared" in capsys.readouterr().err
    assert main(arguments(nowhere, tmp_path / "run", "--model_path", str(nowhere))) == 1
    assert "there is no model at" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    for path, said in (("runs/typo", "there is no model at runs/typo"), (tmp_path / "empty", "has no config.json")):
        assert main(arguments(nowhere, tmp_path / "run", "--model_path", str(path))) == 1
        assert said in capsys.readouterr().err
    assert main(arguments(nowhere, tmp_path / "run")) == 1
    assert "nowhere" in capsys.readouterr().err
    for options, said in (
        (["--num_experts_per_tok", "9"], "num_experts_per_tok 9 must lie in 1..num_experts = 4"),
        (
            ["--history_head", "false", "--cell_head", "true", "--decoder", "day"],
            "needs a network with a history head",
        ),
        (["--metric_for_best_model", "geobleu"], "metric_for_best_model is 'geobleu'; it must be one of humob2024_"),
        (["--eval_fraction", "1.5"], "test_fraction is 1.5"),
        (["--max_users", "0"], "max_users is 0"),
        (
            "--input_seq_length 40 --predict_seq_length 10 --max_seq_length 49".split(),
            "windows of 40 + 10 records are longer than max_seq_length 49",
        ),
    ):
        assert main(arguments(nowhere, tmp_path / "run", *options)) == 1
        assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_model_of_another_grid_and_an_impossible_cut_are_refused_before_a_record_is_read(tmp_path, capsys):
    (tmp_path / "cityB_challengedata.csv").write_text("this would be refused if it were read\n")
    small_model().save_pretrained(tmp_path / "model")
    options = arguments(tmp_path, tmp_path / "run", "--cut_day", "75")
    assert main(options) == 1
    assert "cut_day 75 leaves no history or no horizon in the days 0..74" in capsys.readouterr().err
    common = ["--city", "B", "--data_dir", str(tmp_path), "--use_cpu", "true", "--output_dir", str(tmp_path / "run")]
    assert main([*common, "--model_path", str(tmp_path / "model")]) == 1
    assert "grid_width is 200 in the data and 12 in the model" in capsys.readouterr().err


def test_people_with_more_records_than_the_network_takes_are_named_before_training(data, tmp_path, capsys):
    assert main(arguments(data, tmp_path / "run", "--max_seq_length", "100")) == 1
    most = people(masked=2)["uid"].value_counts()
    said = capsys.readouterr().err
    assert f"uid {most.index[0]} of city B has {most.iloc[0]} records; the network takes 100" in said
    assert not (tmp_path / "run").exists()


def test_the_published_regime_and_networks_train(data, tmp_path):
    blocks = "--input_seq_length 40 --predict_seq_length 10 --look_back_len 25 --max_steps 2 --eval_users 0".split()
    blocks += ["--eval_fraction", "0.2"]
    assert train(data, tmp_path / "blocks", *blocks)["test_users"] == 2
    common = ["--city", "B", "--data_dir", str(data), "--cache_dir", str(data / "cache")]
    published = "--model_name MobilityBERTMoE --hidden_size 16 --num_hidden_layers 1 --num_attention_heads 2".split()
    published += "--location_embedding_size 4 --use_cpu true --disable_tqdm true --decoder mode".split()
    results = run(*parse_arguments([*common, *published, *blocks, "--output_dir", str(tmp_path / "published")]))
    assert results["test_humob2024_dtw"] > 0
