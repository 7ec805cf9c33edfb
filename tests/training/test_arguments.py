"""Arguments: YAML and command line read alike, and refused by name."""

from pathlib import Path

import pytest

from stmoe_hf.training.build import new_config
from stmoe_hf.training.command_line import parse_arguments

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


def test_an_unknown_argument_of_the_command_line_is_refused_by_name():
    with pytest.raises(ValueError, match="no argument --hiden_size; did you mean 'hidden_size'"):
        parse_arguments(["--city", "B", "--hiden_size", "64"])
    with pytest.raises(ValueError, match="no argument 64"):
        parse_arguments(["--city", "B", "64"])


def test_a_missing_file_and_a_missing_city_are_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="no configuration file"):
        parse_arguments(["--city", "B", "--config", str(tmp_path / "none.yaml")])
    with pytest.raises(SystemExit):
        parse_arguments([])
    assert "say which city" in capsys.readouterr().err


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
