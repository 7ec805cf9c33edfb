"""Arguments: YAML and command line read alike, and refused by name."""

import re
from pathlib import Path

import pytest

from stmoe_hf.training.arguments import with_true_names
from stmoe_hf.training.build import new_config
from stmoe_hf.training.command_line import KNOWN, parse_arguments
from stmoe_hf.training.run import main

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def parse(tmp_path, text: str = "", *argv: str):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return parse_arguments(["--city", "B", "--config", str(file), *argv])


def test_values_of_the_file_are_converted(tmp_path):
    model, data, run = parse(
        tmp_path, "learning_rate: 5e-4\nhidden_size: 64\nhistory_head: false\nsparse_layers: [0, 1]\ncut_day: null\n"
    )
    assert run.learning_rate == 5e-4 and isinstance(run.learning_rate, float)
    assert model.hidden_size == 64 and model.history_head is False and model.sparse_layers == [0, 1]
    assert data.cut_day is None


def test_the_command_line_wins(tmp_path):
    model, _, run = parse(tmp_path, "hidden_size: 64\nseed: 1\n", "--hidden_size", "32", "--seed=7")
    assert model.hidden_size == 32 and run.seed == 7


@pytest.mark.parametrize(
    "text, said",
    [
        ("hiden_size: 64", "no argument 'hiden_size'; did you mean 'hidden_size'"),
        ("hidden_size: many", "hidden_size: .*invalid int value: 'many'"),
        ("hidden_size: 2.5", "hidden_size: .*invalid int value"),
        ("decoder: best", "decoder: .*invalid choice: 'best'"),
        ("hidden_size: {a: 1}", "not a mapping"),
        ("- 1", "must hold"),
        ("a: [", "is no YAML"),
    ],
)
def test_wrong_keys_and_values_of_the_file_are_refused_by_name(tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        parse(tmp_path, text)


def test_without_evaluation_there_is_nothing_to_choose_by_and_the_last_checkpoint_is_kept(tmp_path):
    for options in (["--eval_strategy", "no"], ["--validation_users", "0"]):
        *_, run = parse(tmp_path, "", *options)
        assert (run.eval_strategy, run.load_best_model_at_end, run.metric_for_best_model) == ("no", False, None)


def test_what_transformers_says_in_several_lines_is_one_line_and_comes_before_the_data(capsys):
    options = ["--city", "B", "--data_dir", "nowhere", "--eval_strategy", "steps"]
    options += ["--validation_users", "5", "--save_strategy", "epoch"]
    assert main(options) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("error: ") and "- Save strategy: " in said[0]


def test_bf16_is_refused_in_a_line_where_the_cpu_has_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("stmoe_hf.training.arguments.cpu_has_bf16", lambda: True)
    *_, run = parse(tmp_path, "", "--bf16", "true", "--use_cpu", "true")
    assert run.bf16
    *_, run = parse(tmp_path, "", "--use_cpu", "true")
    assert not run.bf16
    monkeypatch.setattr("stmoe_hf.training.arguments.cpu_has_bf16", lambda: False)
    assert main(["--city", "B", "--data_dir", "nowhere", "--bf16", "true", "--use_cpu", "true"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("error: bf16: ")
    *_, run = parse(tmp_path, "", "--bf16", "false", "--use_cpu", "true")
    assert not run.bf16


def test_an_unknown_argument_of_the_command_line_is_refused_by_name():
    with pytest.raises(ValueError, match="no argument --hiden_size; did you mean 'hidden_size'"):
        parse_arguments(["--city", "B", "--hiden_size", "64"])
    with pytest.raises(ValueError, match="no argument 64"):
        parse_arguments(["--city", "B", "64"])


def test_a_missing_file_and_a_missing_city_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no configuration file .*; those that come with the package are .*history"):
        parse_arguments(["--city", "B", "--config", str(tmp_path / "none.yaml")])
    with pytest.raises(ValueError, match="say which city"):
        parse_arguments([])


def test_a_configuration_of_the_package_has_a_name_and_a_file_of_ones_own_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse_arguments(["--city", "B", "--config", "history"])[0].hidden_size == 64
    (tmp_path / "history").write_text("hidden_size: 32")
    assert parse_arguments(["--city", "B", "--config=history"])[0].hidden_size == 32
    assert parse_arguments(["--city", "B", "--config", "history.yaml"])[0].hidden_size == 64


def test_where_a_configuration_lies_can_be_asked_for(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(["--config_path", "accelerate/two_cpu"])
    assert not stop.value.code
    assert "num_processes: 2" in Path(capsys.readouterr().out.strip()).read_text()


EARLIER = {"eval_fraction": 0.3, "eval_users": 7, "model": "runs/x", "day_off_embedding_size": 3}


@pytest.mark.parametrize("way", ["command line", "hyphens", "file", "keywords"])
def test_other_names_of_arguments_are_read_everywhere(tmp_path, way):
    dash = "-" if way == "hyphens" else "_"
    options = [word for k, v in EARLIER.items() for word in (f"--{k.replace('_', dash)}", str(v))]
    if way == "file":
        model, data, run = parse(tmp_path, "\n".join(f"{k}: {v}" for k, v in EARLIER.items()))
    elif way == "keywords":
        model, data, run = parse_arguments([], {"city": "B", **EARLIER})
    else:
        model, data, run = parse_arguments(["--city", "B", *options])
    assert (data.test_fraction, run.validation_users) == (0.3, 7)
    assert (model.model_path, model.weekday_embedding_size) == ("runs/x", 3)


def test_two_names_of_one_argument_are_refused(tmp_path):
    with pytest.raises(ValueError, match="eval_users and validation_users are two names"):
        parse(tmp_path, "eval_users: 3\nvalidation_users: 4")


def test_the_record_of_an_earlier_run_is_read_by_the_names_of_today():
    record = {"eval_users": 3, "seed": 1}
    assert with_true_names(record) == {"validation_users": 3, "seed": 1}


def test_help_shows_our_arguments_in_groups_and_those_of_the_trainer_on_request(capsys):
    texts = {}
    for option in ("--help", "--help_all"):
        with pytest.raises(SystemExit):
            parse_arguments([option])
        texts[option] = capsys.readouterr().out
    options = {name: re.findall(r"^  --(\w+)", text, re.MULTILINE) for name, text in texts.items()}
    assert options["--help"].index("city") < options["--help"].index("model_path") < options["--help"].index("seed")
    assert len(texts["--help"].splitlines()) < 150 and "adam_beta1" not in options["--help"]
    everything = [name for name in options["--help_all"] if name not in ("config", "config_path", "help_all")]
    assert sorted(everything) == sorted(KNOWN)  # each once


def test_windows_of_records_need_their_lengths(tmp_path):
    with pytest.raises(ValueError, match="look_back_len"):
        parse(tmp_path, "look_back_len: 50")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_of_the_project_can_be_read_and_built(config):
    model, _, run = parse_arguments(["--city", "B", "--config", str(config)])
    assert new_config(model, grid_width=10, grid_height=10).hidden_size > 0
    assert run.output_dir == "runs/cityB"


def test_the_best_checkpoint_has_the_lowest_distance_or_the_highest_score(tmp_path):
    assert parse(tmp_path, "metric_for_best_model: humob2024_dtw")[2].greater_is_better is False
    assert parse(tmp_path, "metric_for_best_model: humob2024_geobleu")[2].greater_is_better is True
