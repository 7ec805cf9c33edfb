"""`stmoe convert`: published weights give the published logits, and what is not theirs is refused."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stmoe_hf.commands import convert as command
from stmoe_hf.conversion import ConversionError, convert
from stmoe_hf.model.modeling_mobility_bert import MobilityBERT, MobilityBERTMoE
from stmoe_hf.model.processing_stmoe_bert import MobilityProcessor

from .published_network import (
    ARGUMENTS,
    HEIGHT,
    NETWORKS,
    WIDTH,
    plain_logits,
    project_inputs,
    random_records,
    random_weights,
)

CLASSES = {"MobilityBERT": MobilityBERT, "MobilityBERTMoE": MobilityBERTMoE}
GRID = {"grid_width": WIDTH, "grid_height": HEIGHT}


@pytest.fixture
def arguments(tmp_path: Path) -> Path:
    return write_arguments(tmp_path)


def write_arguments(folder: Path, **changes) -> Path:
    path = folder / "arguments.json"
    path.write_text(json.dumps({**ARGUMENTS, "lr": 3e-4, "city": "B", **changes}))
    return path


def save_pth(state, folder: Path) -> Path:
    torch.save(state, folder / "weights.pth")
    return folder / "weights.pth"


@pytest.mark.parametrize("network", NETWORKS)
def test_the_published_example_gives_the_stored_logits(shared: Path, tmp_path: Path, network: str):
    folder = shared / "published_model"
    if not folder.is_dir():
        pytest.skip("the folder of real users beside the checkout has no published weights")
    convert(folder / f"{network}_state_dict.safetensors", folder / "arguments.json", tmp_path / "out")
    model = CLASSES[network].from_pretrained(tmp_path / "out")
    stored = load_file(folder / f"{network}_io.safetensors")
    features = torch.cat([stored["input_seq_feature"], stored["predict_seq_feature"]], dim=1)
    inputs = project_inputs(features, stored["historical_locations"], model.config.num_cells)
    with torch.no_grad():
        logits = model(inputs).logits
    torch.testing.assert_close(logits, stored["logits"].flatten(0, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("intermediate", [40, 3072])
@pytest.mark.parametrize("network", NETWORKS)
def test_random_weights_give_the_logits_of_the_plain_computation(
    tmp_path: Path, arguments: Path, network: str, intermediate: int
):
    weights = random_weights(network, intermediate)
    features, cells = random_records()
    convert(save_pth(weights, tmp_path), arguments, tmp_path / "out", **GRID)
    model = CLASSES[network].from_pretrained(tmp_path / "out")
    # The released MobilityBERTMoE has the BERT of transformers' defaults: inner size 3072 and 12 heads.
    bert_heads = 12 if network == "MobilityBERTMoE" and intermediate == 3072 else ARGUMENTS["attention_heads"]
    expected = plain_logits(weights, features, cells, ARGUMENTS["attention_heads"], bert_heads)
    with torch.no_grad():
        logits = model(project_inputs(features, cells, WIDTH * HEIGHT)).logits
    torch.testing.assert_close(logits, expected.flatten(0, 1), rtol=1e-5, atol=1e-5)


def test_cells_numbered_by_columns_are_renumbered(tmp_path: Path, arguments: Path):
    weights = random_weights("MobilityBERTMoE")
    features, published_cells = random_records()
    model = convert(save_pth(weights, tmp_path), arguments, tmp_path / "out", cell_order="column", **GRID)
    # Of a cell at x, y (from 1) the published number by columns, and this project's.
    ours_of = {(x - 1) * HEIGHT + (y - 1): (y - 1) * WIDTH + (x - 1) for x in range(1, 5) for y in range(1, 4)}
    ours = torch.tensor([ours_of[cell] for cell in range(WIDTH * HEIGHT)])
    expected = plain_logits(weights, features, published_cells, 4, 4).flatten(0, 1)
    with torch.no_grad():
        logits = model(project_inputs(features, ours[published_cells], WIDTH * HEIGHT)).logits
    torch.testing.assert_close(logits[:, ours], expected, rtol=1e-5, atol=1e-5)


def test_the_weekend_flag_is_of_saturday_and_sunday_whatever_the_holidays(tmp_path: Path, arguments: Path):
    model = convert(save_pth(random_weights("MobilityBERT"), tmp_path), arguments, tmp_path / "out", **GRID)
    inputs = project_inputs(*random_records(), WIDTH * HEIGHT)
    with_holidays = inputs.clone()
    with_holidays[..., 3] = 1
    assert torch.equal(model(inputs).logits, model(with_holidays).logits)


def test_the_command_writes_a_folder_with_model_processor_and_source(tmp_path: Path, arguments: Path, capsys):
    weights = random_weights("MobilityBERTMoE")
    save_file({name: value.half() for name, value in weights.items()}, tmp_path / "weights.safetensors")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    flags = f"--weights {tmp_path}/weights.safetensors --arguments {arguments} --output {tmp_path}/new/out"
    assert command.run(parser.parse_args([*flags.split(), "--grid_width", str(WIDTH)])) == 0
    printed = capsys.readouterr().out
    assert "MobilityBERTMoE" in printed
    assert "row of a grid of 4 x 3" in printed
    model = MobilityBERTMoE.from_pretrained(tmp_path / "new" / "out")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.num_experts == 3
    processor = MobilityProcessor.from_pretrained(tmp_path / "new" / "out")
    processor.refuse_other_model(model.config)
    source = json.loads((tmp_path / "new" / "out" / "conversion.json").read_text())
    assert source["cell_order"] == "row"
    assert source["arguments"]["lr"] == 3e-4
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


@pytest.mark.parametrize("wrap", ["bare", "wrapped", "parallel"])
def test_a_state_dict_is_found_where_training_scripts_put_it(tmp_path: Path, arguments: Path, wrap: str):
    weights = random_weights("MobilityBERT")
    state = {
        "bare": weights,
        "wrapped": {"epoch": 3, "model_state_dict": weights},
        "parallel": {f"module.{name}": value for name, value in weights.items()},
    }[wrap]
    model = convert(save_pth(state, tmp_path), arguments, tmp_path / "out", **GRID)
    assert torch.equal(model.day_embedding.weight, weights["day_embedding.weight"])


def refusal(tmp_path: Path, weights: Path, arguments: Path, **options) -> str:
    """The message of a refusal, which leaves nothing behind."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((ConversionError, OSError)) as refused:
        convert(weights, arguments, tmp_path / "out", **{**GRID, **options})
    assert sorted(tmp_path.rglob("*")) == before
    return str(refused.value)


def test_missing_extra_and_misshapen_weights_are_named_and_counted(tmp_path: Path, arguments: Path):
    weights = random_weights("MobilityBERT")
    for name in [name for name in weights if name.startswith("bert.encoder.layer.1.")]:
        del weights[name]
    weights["surprise.weight"] = torch.zeros(2)
    weights["layer_norm.weight"] = torch.zeros(7)
    message = refusal(tmp_path, save_pth(weights, tmp_path), arguments)
    assert "16 missing: bert.encoder.layer.1.attention." in message
    assert "and 11 more" in message
    assert "1 that it does not have: surprise.weight" in message
    assert "layer_norm.weight [7] instead of [21]" in message


def test_a_mixture_without_one_expert_is_refused(tmp_path: Path, arguments: Path):
    weights = random_weights("MobilityBERTMoE")
    del weights["moe.experts.1.fc.weight"], weights["moe.experts.1.fc.bias"]
    message = refusal(tmp_path, save_pth(weights, tmp_path), arguments)
    assert "moe.experts.1.fc.weight" in message


def test_pickled_code_is_not_run(tmp_path: Path, arguments: Path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    message = refusal(tmp_path, tmp_path / "whole.pth", arguments)
    assert "torch.save(model.state_dict(), FILE)" in message
    assert "weights_only" not in message


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_a_damaged_file_is_refused(tmp_path: Path, arguments: Path, name: str):
    (tmp_path / name).write_bytes(b"PK\x03\x04 this is no file of weights" * 9)
    assert name in refusal(tmp_path, tmp_path / name, arguments)


def test_a_file_cut_short_is_refused(tmp_path: Path, arguments: Path):
    path = save_pth(random_weights("MobilityBERT"), tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "damaged" in refusal(tmp_path, path, arguments)


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_an_empty_or_foreign_file_is_refused(tmp_path: Path, arguments: Path, content: bytes):
    (tmp_path / "weights.pth").write_bytes(content)
    assert "weights.pth" in refusal(tmp_path, tmp_path / "weights.pth", arguments)


def test_a_missing_file_and_something_else_than_weights_are_refused(tmp_path: Path, arguments: Path):
    assert "no such file" in refusal(tmp_path, tmp_path / "nothing.pth", arguments)
    assert "but a list" in refusal(tmp_path, save_pth([torch.zeros(1)], tmp_path), arguments)
    assert "an empty dict" in refusal(tmp_path, save_pth({}, tmp_path), arguments)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, arguments: Path):
    weights = random_weights("MobilityBERT")
    weights["residual_fc.bias"][3] = float("nan")
    assert "residual_fc.bias hold nan" in refusal(tmp_path, save_pth(weights, tmp_path), arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": "24"}, "hidden_size is '24'; it must be a whole number"),
        ({"hidden_layers": 0}, "hidden_layers is 0"),
        ({"dropout": None}, "dropout is None; it must be a number"),
        ({"attention_heads": 5}, "hidden_size 24 cannot be shared among num_attention_heads 5"),
        ({"num_location_ids": 13}, "num_location_ids is 13, which is not a grid of 4 x 3"),
        ({"input_seq_length": 240, "predict_seq_length": 30}, "together are 270; max_seq_length is 20"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused(tmp_path: Path, changes: dict, message: str):
    weights = save_pth(random_weights("MobilityBERT"), tmp_path)
    assert message in refusal(tmp_path, weights, write_arguments(tmp_path, **changes))


def test_arguments_that_are_missing_or_no_json_are_refused(tmp_path: Path):
    weights = save_pth(random_weights("MobilityBERT"), tmp_path)
    path = tmp_path / "arguments.json"
    path.write_text(json.dumps({"hidden_size": 24}))
    assert "num_location_ids, hidden_layers" in refusal(tmp_path, weights, path)
    path.write_text("hidden_size: 24")
    assert "not JSON" in refusal(tmp_path, weights, path)


def test_heads_of_the_bert_that_no_file_tells_can_be_given(tmp_path: Path, arguments: Path):
    weights = random_weights("MobilityBERTMoE")
    path = save_pth(weights, tmp_path)
    assert "--bert_attention_heads" in refusal(tmp_path, path, arguments, bert_attention_heads=7)
    model = convert(path, arguments, tmp_path / "out", bert_attention_heads=8, **GRID)
    features, cells = random_records()
    with torch.no_grad():
        logits = model(project_inputs(features, cells, WIDTH * HEIGHT)).logits
    torch.testing.assert_close(
        logits, plain_logits(weights, features, cells, 4, 8).flatten(0, 1), rtol=1e-5, atol=1e-5
    )


def test_a_grid_that_is_not_square_must_be_given(tmp_path: Path, arguments: Path):
    weights = save_pth(random_weights("MobilityBERT"), tmp_path)
    assert "give --grid_width" in refusal(tmp_path, weights, arguments, grid_width=None, grid_height=None)


def test_an_output_that_holds_something_is_left_alone(tmp_path: Path, arguments: Path):
    weights = save_pth(random_weights("MobilityBERT"), tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("thesis")
    assert "out is not empty" in refusal(tmp_path, weights, arguments)
    (tmp_path / "out" / "precious").unlink()
    convert(weights, arguments, tmp_path / "out", **GRID)
    MobilityBERT.from_pretrained(tmp_path / "out")
