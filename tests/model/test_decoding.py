"""Decoders pick the cell of the best expected value; checked against sums written out."""

import math

import pytest
import torch

from stmoe_hf.model.decoders import SLOT_DECODERS
from stmoe_hf.model.decoding import decode, expected_values
from stmoe_hf.model.spacetime import Grid

GRID = Grid(9, 9, cell_km=0.5)


def line(*xs: int) -> torch.Tensor:
    """Candidate cells on one row of the grid."""
    return torch.tensor([[GRID.cell(x, 1) for x in xs]])


def test_each_decoder_prefers_what_it_should():
    candidates = line(1, 3, 4, 5, 9)
    probabilities = torch.tensor([[[0.30, 0.0, 0.24, 0.20, 0.26]]])
    chosen = {name: decode(probabilities, candidates, GRID, name, 0.1).item() for name in SLOT_DECODERS}
    assert chosen["mode"] == GRID.cell(1, 1)
    assert chosen["geobleu"] == GRID.cell(4, 1)  # the neighbours 4 and 5 together outweigh 1
    assert chosen["dtw"] == GRID.cell(4, 1)  # the median


@pytest.mark.parametrize("decoder", SLOT_DECODERS)
def test_values_are_the_sums_over_the_distribution(decoder):
    torch.manual_seed(0)
    candidates = torch.stack([torch.randperm(81)[:6], torch.randperm(81)[:6]])
    candidates[1, 4:] = -1
    probabilities = torch.rand(2, 3, 6)
    values = expected_values(probabilities, candidates, GRID, decoder, distance_weight=0.07)
    for row in range(2):
        for k in range(6):
            if candidates[row, k] < 0:
                assert torch.isneginf(values[row, :, k]).all()
                continue
            expected = torch.zeros(3)
            for j in range(6):
                if candidates[row, j] < 0:
                    continue
                (xk, yk), (xj, yj) = GRID.xy(candidates[row, k]), GRID.xy(candidates[row, j])
                distance = math.hypot(int(xk - xj), int(yk - yj))
                gain = {
                    "mode": float(j == k),
                    "geobleu": math.exp(-0.5 * distance),
                    "dtw": -distance,
                    "balanced": math.exp(-0.5 * distance) - 0.07 * 0.5 * distance,
                }[decoder]
                expected += probabilities[row, :, j] * gain
            assert torch.allclose(values[row, :, k], expected, atol=1e-5)


def test_padding_candidates_are_never_chosen():
    probabilities = torch.zeros(1, 2, 3)
    assert (decode(probabilities, torch.tensor([[5, -1, -1]]), GRID, "dtw") == 5).all()


def test_an_unknown_decoder_is_refused():
    with pytest.raises(ValueError, match="must be one of mode, geobleu"):
        decode(torch.ones(1, 1, 1), torch.zeros(1, 1, dtype=torch.long), GRID, "best")
