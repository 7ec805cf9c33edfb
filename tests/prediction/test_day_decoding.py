"""The day decoder: its approximate scores against the exact metrics, and the trajectories that it finds."""

import numba
import numpy as np
import pytest
import torch

from stmoe_hf.metrics import dtw, geobleu
from stmoe_hf.model.decoding import decode
from stmoe_hf.model.spacetime import Grid
from stmoe_hf.prediction import day_decoding
from stmoe_hf.prediction.day_decoding import decode_days
from stmoe_hf.prediction.predict import PredictionSettings, predict_cells

from ..helpers import batch, small_model

GRID = Grid(40, 40)
DAYS, SLOTS = 20, 6


def person(seed=0, days=DAYS):
    """A history of whole days, each at one of two places; the network gives each record of a slot the same weight."""
    random = np.random.default_rng(seed)
    places = np.array([GRID.cell(5, 5), GRID.cell(30, 30)])
    cells = np.repeat(places[(random.random(days) < 0.4).astype(int)], SLOTS)
    day, slot = np.repeat(np.arange(days), SLOTS), np.tile(np.arange(SLOTS), days)
    inputs = np.zeros((days * SLOTS + SLOTS, 6), np.int64)
    inputs[:-SLOTS, 0], inputs[:-SLOTS, 1], inputs[:-SLOTS, 5] = day, slot, cells
    inputs[-SLOTS:, 0], inputs[-SLOTS:, 1], inputs[-SLOTS:, 5] = days, np.arange(SLOTS), GRID.mask_id
    history = torch.full((1, SLOTS, len(inputs)), -torch.inf)
    for i in range(SLOTS):
        history[0, i, np.flatnonzero(slot == i)] = -np.log(days)
    candidates = torch.from_numpy(np.unique(cells))[None]
    share = torch.from_numpy((cells[None, :] == candidates.numpy()[0][:, None]).mean(1)).float()
    probabilities = share[None, None, :].expand(1, SLOTS, -1).contiguous()
    return probabilities, candidates, history, torch.from_numpy(inputs)[None], torch.ones(1, SLOTS, dtype=torch.bool)


def test_a_draw_keeps_to_a_day_of_the_past():
    _, _, history, inputs, _ = person()
    weights = history[0].exp().numpy()[:, :-SLOTS].astype(float)
    record_day, cells = inputs[0, :-SLOTS, 0].numpy(), inputs[0, :-SLOTS, 5].numpy()
    draws = day_decoding._draw(weights, record_day, cells, day_decoding.DRAWS, day_decoding.STRIDE)
    assert draws.shape == (day_decoding.DRAWS, SLOTS)
    whole = (draws == draws[:, :1]).all(1).mean()
    assert whole > 0.4  # cells drawn one by one would stay together in 0.6^6 + 0.4^6 = 5 % of the draws


def test_the_score_of_the_search_is_close_to_the_metrics():
    random = np.random.default_rng(1)
    for _ in range(20):
        n = int(random.integers(1, 30))
        x, y = random.integers(0, 12, (2, 15))
        distance = np.hypot(x[:, None] - x, y[:, None] - y)
        a, b = random.integers(0, 15, (2, n))
        steps = np.minimum(np.rint(distance * 8), 80).astype(np.int64)
        scratch = day_decoding._scratch(n)
        found = day_decoding._geobleu(a, b, steps, scratch)
        points = [np.column_stack([x[i], y[i]]) for i in (a, b)]
        exact = geobleu(*points, "humob2025", order=3), geobleu(*points, "humob2025")
        assert found == pytest.approx(np.mean(exact), abs=0.03)
        cost = day_decoding._dtw_cost(a, b, distance / 2, scratch[5])
        weights = {"humob2024": day_decoding.OPEN_DTW_COST, "humob2025": day_decoding.STRICT_DTW_COST}
        assert cost == pytest.approx(sum(weight * dtw(*points, edition) for edition, weight in weights.items()))


def test_the_better_of_two_days_is_found():
    arguments = person()
    cells = decode_days(*arguments, GRID)
    assert (cells == GRID.cell(5, 5)).all()


def test_the_cells_do_not_depend_on_the_batch():
    model = small_model().eval()
    inputs, labels = batch()
    mask = (inputs[..., -1] != 121).long()
    whole = {"inputs": inputs, "attention_mask": mask, "labels": labels}
    settings = PredictionSettings("day", num_candidates=120)
    together, _ = predict_cells(model, whole, Grid(12, 10), settings)
    for row in range(len(inputs)):
        alone = {name: tensor[row : row + 1] for name, tensor in whole.items()}
        cells, _ = predict_cells(model, alone, Grid(12, 10), settings)
        assert torch.equal(cells[0], together[row, : cells.shape[1]])


def test_a_row_without_history_falls_back_to_the_slots():
    probabilities, candidates, history, inputs, exists = person()
    history = torch.full_like(history, -torch.inf)
    weight = day_decoding.POINTWISE_DISTANCE_WEIGHT
    expected = decode(probabilities, candidates, GRID, "balanced", weight)
    assert torch.equal(decode_days(probabilities, candidates, history, inputs, exists, GRID), expected)


def test_a_network_without_history_head_is_refused():
    inputs, labels = batch()
    whole = {"inputs": inputs, "attention_mask": (inputs[..., -1] != 121).long(), "labels": labels}
    with pytest.raises(ValueError, match="needs a network with a history head"):
        predict_cells(small_model(history_head=False), whole, Grid(12, 10), PredictionSettings("day"))


@numba.njit
def seed_compiled_code(seed):
    np.random.seed(seed)


def mean_score(day, draws, steps, km):
    scratch, scores = day_decoding._scratch(len(day)), np.empty(len(draws))
    day_decoding._is_better(day, draws, steps, km, scratch, np.full(len(draws), -np.inf), scores)
    return scores.mean()


def test_the_search_begins_with_the_best_cells_of_the_slots(monkeypatch):
    monkeypatch.setattr(day_decoding, "SWEEPS", 0)  # read by the uncompiled search; or it might find its way back
    random = np.random.default_rng(0)
    n, days, places = 12, 8, 40
    x, y = random.integers(0, 30, (2, places))
    distance = np.hypot(x[:, None] - x, y[:, None] - y)
    steps, km = np.minimum(np.rint(distance * 8), 80).astype(np.int64), distance / 2
    record_day, records = np.repeat(np.arange(days), n), random.integers(0, places, days * n)
    weights = np.ones((n, days * n))
    seed_compiled_code(1)
    draws = day_decoding._draw(weights, record_day, records, day_decoding.DRAWS, day_decoding.STRIDE)
    # A day in the middle of everything is better than any day of this restless person.
    start = max((np.full(n, place) for place in range(places)), key=lambda day: mean_score(day, draws, steps, km))
    seed_compiled_code(1)
    found = day_decoding._decode_day.py_func(weights, record_day, records, start[:, None], steps, km, 1)
    assert mean_score(start, draws, steps, km) > max(mean_score(draw, draws, steps, km) for draw in draws)
    assert (found == start).all()
