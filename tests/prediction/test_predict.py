"""Prediction: one shot and blocks that are fed back, and files that appear only when they are whole."""

import gzip

import pytest
import torch

from stmoe_hf.data.files import open_aside
from stmoe_hf.model.decoding import decode
from stmoe_hf.model.records import CELL, NO_LABEL
from stmoe_hf.model.spacetime import Grid
from stmoe_hf.prediction.predict import PredictionSettings, predict_cells

from ..helpers import batch, small_model

GRID = Grid(12, 10)


def test_one_shot_equals_the_model_and_the_decoder():
    model = small_model().eval()
    inputs, labels = batch()
    whole = {"inputs": inputs, "attention_mask": (inputs[..., CELL] != GRID.pad_id).long(), "labels": labels}
    cells, log_probability = predict_cells(model, whole, GRID, PredictionSettings(num_candidates=120))
    assert [(row != -100).sum().item() for row in cells] == [6, 9, 3, 5]
    logits = model(inputs).logits
    everything = torch.arange(120)[None]
    assert torch.equal(cells[cells != -100], decode(logits.exp()[None], everything, GRID)[0])
    truth = labels[labels != NO_LABEL]
    assert torch.allclose(log_probability[cells != -100], logits.gather(1, truth[:, None])[:, 0], atol=1e-5)


def test_blocks_are_fed_back_as_history():
    model = small_model().eval()
    inputs, labels = batch()
    whole = {"inputs": inputs, "attention_mask": (inputs[..., CELL] != GRID.pad_id).long(), "labels": labels}
    settings = PredictionSettings(num_candidates=120, input_seq_length=10, predict_seq_length=4)
    cells, _ = predict_cells(model, whole, GRID, settings)
    for row, asked in enumerate((6, 9, 3, 5)):  # each person alone, block after block, by hand
        known = inputs[row, : 30 - 3 * row].clone()
        first = len(known) - asked
        while first < len(known):
            end = min(first + 4, len(known))
            logits = model(known[None, max(0, first - 10) : end]).logits
            known[first:end, CELL] = decode(logits.exp()[None], torch.arange(120)[None], GRID)[0]
            first = end
        assert torch.equal(cells[row, :asked], known[-asked:, CELL])


def test_a_file_written_aside_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "records.csv.gz"
    with open_aside(path) as file:
        file.write("uid\n1\n")
        assert not path.exists()
    assert gzip.decompress(path.read_bytes()) == b"uid\n1\n"
    with pytest.raises(RuntimeError), open_aside(path) as file:
        file.write("half")
        raise RuntimeError
    assert gzip.decompress(path.read_bytes()) == b"uid\n1\n"
    assert [p.name for p in tmp_path.iterdir()] == ["records.csv.gz"]
