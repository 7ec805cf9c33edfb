"""The day decoder: its approximate scores against the exact metrics, and the trajectories that it finds."""

import numpy as np
import pytest
import torch

from stmoe_hf.metrics import dtw, geobleu
from stmoe_hf.model.decoding import decode
from stmoe_hf.model.spacetime import Grid
from stmoe_hf.prediction import day_decoding, day_scores, day_search
from stmoe_hf.prediction.day_decoding import decode_days, draw_days
from stmoe_hf.prediction.predict import PredictionSettings, predict_cells

from ..helpers import batch, small_model

GRID = Grid(40, 40)
DAYS, SLOTS = 20, 6
EDITION = "humob2024"


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


def of_candidates(places: int, seed: int):
    """Distances of random candidates: cells [K, 2], and what GEO-BLEU and DTW see of them."""
    cells = np.random.default_rng(seed).integers(0, 14, (places, 2))
    distance = np.hypot(*(cells[:, None] - cells).T)
    steps = np.minimum(np.rint(distance * day_scores.STEPS_A_CELL), day_scores.FARTHEST).astype(np.uint8)
    return cells, steps, np.rint(distance * day_scores.LENGTHS_A_CELL).astype(np.int32)


def some_days(count: int, n: int, places: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, places, (count, n)).astype(np.uint64)


def totals_of(trajectory, draws, steps) -> np.ndarray:
    """Sums of the proximities of the n-grams of a trajectory to those of `RACE` draws, from nothing."""
    distances = day_scores.new_distances(len(draws), len(trajectory))
    pairs, totals, _ = day_scores.unknown_standing(len(draws), len(trajectory))
    day_scores.set_distances(trajectory, draws, steps, distances)
    day_scores.match_all(distances, pairs, totals)
    return totals


def test_a_draw_keeps_to_a_day_of_the_past():
    drawn = draw_days(*person(), GRID, 96)[0].numpy()
    assert drawn.shape == (96, SLOTS)
    whole = (drawn == drawn[:, :1]).all(1).mean()
    assert whole > 0.4  # cells drawn one by one would stay together in 0.6^6 + 0.4^6 = 5 % of the draws


def test_draws_follow_the_probabilities_and_need_a_history_for_their_days():
    probabilities, candidates, history, inputs, exists = person()
    nobody = torch.full_like(history, -torch.inf)
    drawn = draw_days(probabilities, candidates, nobody, inputs, exists, GRID, 2000)
    share = (drawn[0] == candidates[0, 0]).double().mean(0)
    torch.testing.assert_close(share, probabilities[0, :, 0].double(), rtol=0, atol=0.04)


def test_the_score_of_the_search_is_close_to_the_metrics():
    random = np.random.default_rng(1)
    for seed in range(20):
        n = int(random.integers(1, 30))
        cells, steps, lengths = of_candidates(15, seed)
        a, b = some_days(2, n, 15, seed)
        draws = np.repeat(b[None], day_scores.RACE, axis=0)
        points = [cells[day.astype(int)] for day in (a, b)]
        exact = geobleu(*points, "humob2025", order=day_scores.ORDERS)
        assert day_scores.geobleu(totals_of(a, draws, steps)[0], n) == pytest.approx(exact, abs=0.03)
        km = np.array(day_scores.dtw(a, b, lengths)) * 0.5 / day_scores.LENGTHS_A_CELL
        for value, edition in zip(km, ("humob2024", "humob2025"), strict=True):
            assert value == pytest.approx(dtw(*points, edition), abs=0.01 * n)


@pytest.mark.parametrize("n", [1, 2, 4, 7, 19, 48])
def test_a_change_of_one_record_is_scored_as_the_whole_day_would_be(n):
    _, steps, lengths = of_candidates(12, n)
    race = day_scores.RACE
    trajectory, draws = some_days(1, n, 12, 1)[0], some_days(race, n, 12, 2)
    distances = day_scores.new_distances(race, n)
    day_scores.set_distances(trajectory, draws, steps, distances)
    columns = np.zeros_like(distances)
    columns[:, :, :n, :n] = distances[:, :, :n, :n].transpose(0, 1, 3, 2)
    pairs, totals, _ = day_scores.unknown_standing(race, n)
    day_scores.match_all(distances, pairs, totals)
    after = np.empty((n, n), np.int32)
    day_scores.dtw_after(trajectory, draws[0], lengths, after)
    before = np.empty((2, n + 1), np.int32)
    day_scores.dtw_begin(before)
    for i in range(n):
        for cell in range(12):
            changed = trajectory.copy()
            changed[i] = cell
            new_pairs, new_totals = pairs.copy(), totals.copy()
            day_scores.set_changed(steps[cell], i, draws, distances)
            day_scores.match_again(distances, columns, i, new_pairs, new_totals)
            assert (new_totals == totals_of(changed, draws, steps)).all()
            through = day_scores.dtw_through(lengths[cell], draws[0], before, after[i])
            assert through == day_scores.dtw(changed, draws[0], lengths)
        day_scores.dtw_row(lengths[trajectory[i]], draws[0], before)


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


def mean_score(day, draws, steps, lengths, costs):
    scores = []
    for first in range(0, len(draws), day_scores.RACE):
        group = draws[first : first + day_scores.RACE]
        for draw, totals in zip(group, totals_of(day, group, steps), strict=True):
            opened, strict = day_scores.dtw(day, draw, lengths)
            scores.append(day_scores.geobleu(totals, len(day)) - costs[0] * opened - costs[1] * strict)
    return np.mean(scores)


def test_the_search_begins_with_the_best_cells_of_the_slots():
    n, places = 12, 40
    _, steps, lengths = of_candidates(places, 0)
    costs = np.array([day_decoding.OPEN_DTW_COST, day_decoding.STRICT_DTW_COST]) * 0.5 / day_scores.LENGTHS_A_CELL
    draws = some_days(day_decoding.DRAWS, n, places, 3)
    # A day in the middle of everything is better than any day of this restless person.
    days = [np.full(n, place, np.uint64) for place in range(places)]
    start = max(days, key=lambda day: mean_score(day, draws, steps, lengths, costs))
    found = start.copy()
    day_search._start(found, draws, draws[:8], steps, lengths, costs)
    assert (found == start).all()
    worst = min(days, key=lambda day: mean_score(day, draws, steps, lengths, costs))
    found = worst.copy()
    day_search._start(found, draws, np.stack([start, worst]), steps, lengths, costs)
    assert (found == start).all()


def test_the_search_makes_a_day_better():
    n, places = 9, 15
    _, steps, lengths = of_candidates(places, 5)
    costs = np.array([day_decoding.OPEN_DTW_COST, day_decoding.STRICT_DTW_COST]) * 0.5 / day_scores.LENGTHS_A_CELL
    draws = some_days(day_decoding.DRAWS, n, places, 6)
    top = np.argsort(np.random.default_rng(7).random((n, places)), axis=1)[:, :4].astype(np.uint64)
    found = day_search.decode_day(draws, draws[:8], top, steps, lengths, costs)
    score = mean_score(found, draws, steps, lengths, costs)
    for day in (top[:, 0], *draws[:8]):
        assert score >= mean_score(day.copy(), draws, steps, lengths, costs) - 1e-12


def seen_now_and_then(seed: int, seen: int):
    """A person of 12 places, seen in `seen` of the slots 4 to 12 of each day; the next day is asked for whole."""
    random = np.random.default_rng(seed)
    places = np.sort(random.choice(GRID.num_cells, 12, replace=False))
    slot = np.stack([np.sort(random.choice(np.arange(4, 13), seen, replace=False)) for _ in range(DAYS)]).ravel()
    day, cell = np.repeat(np.arange(DAYS), seen), random.choice(places[:5], DAYS * seen)
    asked = np.arange(16)
    inputs = np.zeros((len(day) + len(asked), 6), np.int64)
    inputs[:, 0] = np.concatenate([day, np.full(len(asked), DAYS)])
    inputs[:, 1] = np.concatenate([slot, asked])
    inputs[:, 5] = np.concatenate([cell, np.full(len(asked), GRID.mask_id)])
    near = -np.abs(asked[:, None] - slot) - 0.05 * (DAYS - day)
    history = torch.full((1, len(asked), len(inputs)), -torch.inf)
    history[0, :, : len(day)] = torch.from_numpy(near).float().log_softmax(-1)
    hit = torch.from_numpy((cell[:, None] == places).astype(np.float32))
    probabilities = history[:, :, : len(day)].exp() @ hit
    exists = torch.ones(1, len(asked), dtype=torch.bool)
    return probabilities, torch.from_numpy(places)[None], history, torch.from_numpy(inputs)[None], exists


def expected_score(cells: np.ndarray, draws: np.ndarray) -> float:
    """Of the cells [n] of a day, over draws [S, n]: what the day decoder aims at, by the exact metrics."""
    cells, draws = (np.stack(GRID.xy(part), axis=-1) for part in (cells, draws))
    return float(np.mean([geobleu(cells, draw, EDITION) - 0.012 * dtw(cells, draw, EDITION) for draw in draws]))


def test_a_whole_day_is_planned_for_the_slots_in_which_the_person_is_usually_seen():
    gains = []
    for seed in range(12):
        one = seen_now_and_then(seed, seen=6)
        plain, whole = decode_days(*one, GRID)[0].numpy(), decode_days(*one, GRID, whole_days=True)[0].numpy()
        assert (plain[[0, 1, 2, 3, 13, 14, 15]] == whole[[0, 1, 2, 3, 13, 14, 15]]).all()
        inputs = one[3][0].numpy()
        usual = inputs[inputs[:, 0] == DAYS - 1, 1]  # of the last day, which has the last word
        draws = draw_days(*one, GRID)[0].numpy()[:, usual]
        gains.append(expected_score(whole[usual], draws) - expected_score(plain[usual], draws))
    assert np.mean(gains) > 0.005
    assert np.mean(np.array(gains) > 0) > 0.7


def test_days_of_few_records_do_not_say_when_a_person_is_seen():
    one = seen_now_and_then(0, seen=day_decoding.USUAL_RECORDS - 1)
    assert (decode_days(*one, GRID) == decode_days(*one, GRID, whole_days=True)).all()
