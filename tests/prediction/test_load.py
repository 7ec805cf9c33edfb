"""Saved models that are damaged, incomplete or of another grid are refused by name; whole ones load."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from stmoe_hf import MobilityProcessor
from stmoe_hf.prediction.load import load_model, load_saved
from stmoe_hf.prediction.predict import NoProbability, PredictionSettings, predict_cells

from ..helpers import SMALL, batch, small_model

WEIGHTS = "model.safetensors"
SMALL_PROCESSOR = {name: SMALL[name] for name in ("grid_width", "grid_height", "num_days", "num_slots")}


@pytest.fixture
def saved(tmp_path) -> Path:
    small_model().save_pretrained(tmp_path)
    MobilityProcessor(**SMALL_PROCESSOR).save_pretrained(tmp_path)
    return tmp_path


def change_weights(folder: Path, change) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def change_json(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_a_whole_model_loads_with_its_processor(saved):
    model, processor = load_saved(saved)
    assert processor.grid_width == 12 and not model.training
    inputs, _ = batch()
    assert torch.equal(model(inputs).logits, small_model().eval()(inputs).logits)
    (saved / "processor_config.json").unlink()
    assert load_saved(saved)[1] is None  # no default in its place


def poisoned(value: float):
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights["gate.weight"][0, 0] = value

    return change


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda weights: weights.pop("gate.bias"), "lacks the weights gate.bias"),
        (lambda weights: weights.update(extra=torch.zeros(2)), "not of this network: extra"),
        (poisoned(float("nan")), "gate.weight holds NaN or infinite numbers"),
        (poisoned(float("-inf")), "gate.weight holds NaN or infinite numbers"),
        (lambda weights: weights.update({"gate.bias": torch.zeros(2)}), "cannot be read"),
    ],
    ids=["missing", "unexpected", "nan", "infinite", "another shape"],
)
def test_wrong_weights_are_refused_by_name(saved, change, said):
    change_weights(saved, change)
    with pytest.raises(ValueError, match=said):
        load_saved(saved)


def test_files_that_are_cut_off_no_json_or_of_another_model_are_refused(saved):
    config = (saved / "config.json").read_text()
    for text, said in (
        (config.replace('"router_aux_loss_coef": 0.01', '"router_aux_loss_coef": NaN'), "router_aux_loss_coef is nan"),
        (config[:100], "config.json"),
        (config.replace('"hidden_size": 32', '"hidden_size": "many"'), "hidden_size"),
    ):
        (saved / "config.json").write_text(text)
        with pytest.raises(ValueError, match=said):
            load_saved(saved)
    (saved / "config.json").write_text(config)
    change_json(saved / "processor_config.json", grid_width=13)
    with pytest.raises(ValueError, match="grid_width is 13 in the data and 12 in the model"):
        load_saved(saved)
    (saved / WEIGHTS).write_bytes((saved / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read"):
        load_saved(saved)


def test_weights_that_are_finite_but_give_no_probability_are_refused_at_the_first_row():
    model = small_model().eval()
    with torch.no_grad():
        model.gate.weight.fill_(3e38)
    inputs, labels = batch()
    whole = {"inputs": inputs, "attention_mask": (inputs[..., -1] != model.config.pad_id).long(), "labels": labels}
    with pytest.raises(NoProbability, match="row 0 of the batch"):
        predict_cells(model, whole, MobilityProcessor(**SMALL_PROCESSOR).grid, PredictionSettings())


def test_an_empty_batch_has_no_cells():
    model = small_model().eval()
    inputs, labels = batch()
    empty = {"inputs": inputs[:0], "attention_mask": inputs[:0, :, 0], "labels": labels[:0]}
    cells, log_probability = predict_cells(
        model, empty, MobilityProcessor(**SMALL_PROCESSOR).grid, PredictionSettings()
    )
    assert cells.shape == log_probability.shape == (0, 0)


def test_the_weights_of_the_package_load_for_the_usual_grid():
    processor = MobilityProcessor()
    assert load_model(None, processor.grid, processor.calendar, "cpu").config.num_cells == 40000
