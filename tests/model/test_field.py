"""Cells that a history does not know: a share of the probability, and a distribution of their own."""

import numpy as np
import pandas as pd
import pytest
import torch

from stmoe_hf import MobilityProcessor, STMoEBertConfig
from stmoe_hf.data.city import open_city
from stmoe_hf.data.splits import split_users
from stmoe_hf.data.windows import PredictionWindows, TrainingWindows, WindowShape
from stmoe_hf.model.field_stmoe_bert import FEATURE_SCALE
from stmoe_hf.model.records import CELL, FIELD_COUNTS, POI_COUNTS
from stmoe_hf.model.spacetime import Calendar, Grid
from stmoe_hf.prediction.forecast import Asked, Forecaster, ForecastSettings
from stmoe_hf.prediction.predict import PredictionSettings, predict_cells

from ..helpers import PORTABLE, SMALL, portable_model, write_city

GRID, CALENDAR = Grid(40, 30), Calendar(0, 40, 48)


def field_model(**changes):
    """A small network with a city field, away from its start."""
    model = portable_model(city_field=True, **changes)
    with torch.no_grad():
        for parameter in model.field.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def window(grid: Grid = GRID, seed: int = 0, others: int = 50, asked: int = 6, records: int = 60) -> dict:
    random = np.random.default_rng(seed)
    time = np.sort(random.choice(CALENDAR.num_days * CALENDAR.num_slots, records, replace=False))
    cell = [1, grid.width] @ random.integers(0, 12, (2, records))
    inputs = MobilityProcessor.for_data(grid, CALENDAR).features(time // 48, time % 48, cell)
    labels = np.full(records, -100)
    labels[-asked:] = random.integers(0, grid.num_cells, asked)
    inputs[-asked:, CELL] = grid.mask_id
    cells = np.sort(random.choice(grid.num_cells, others, replace=False))
    counts = random.integers(0, 9, (others, len(FIELD_COUNTS))).astype(np.float32)
    return {"inputs": inputs, "labels": labels, "field_cells": cells, "field_counts": counts}


def padded(*windows: dict) -> dict[str, torch.Tensor]:
    return MobilityProcessor.for_data(GRID, CALENDAR).pad(windows)


def without(batch: dict, *names: str) -> dict:
    return {name: value for name, value in batch.items() if name not in names}


@torch.no_grad()
def test_the_probabilities_of_all_cells_sum_to_one_with_other_people_and_without():
    model = field_model()
    batch = padded(window(), window(seed=1, others=3, asked=2, records=12), window(seed=2, others=0))
    for names in (("labels",), ("labels", "field_cells", "field_counts")):
        logits = model(**without(batch, *names)).logits
        assert torch.allclose(logits.exp().sum(-1), torch.ones(len(logits)), atol=1e-4)


@torch.no_grad()
def test_the_labels_have_the_probability_that_all_cells_are_given():
    model, batch = field_model(), padded(window(), window(seed=1))
    everywhere = model(**without(batch, "labels")).logits
    labels = batch["labels"][batch["labels"] >= 0]
    told = model(**batch).log_probability.flatten()
    assert torch.allclose(everywhere.gather(1, labels[:, None])[:, 0], told, atol=1e-4)


@torch.no_grad()
def test_labels_and_candidates_are_answered_together_as_they_are_alone():
    model, batch = field_model(), padded(window(), window(seed=1, asked=2), window(seed=2, others=0))
    both, labels = model(**batch, num_candidates=32), model(**batch)
    candidates = model(**without(batch, "labels"), num_candidates=32)
    assert torch.allclose(both.log_probability, labels.log_probability, atol=1e-5)
    assert torch.equal(both.candidates, candidates.candidates)
    assert torch.allclose(both.logits, candidates.logits, atol=1e-5)


@torch.no_grad()
def test_a_candidate_touches_the_places_in_the_eight_cells_around_it():
    model, seen = field_model(), []
    ask = model.field.cell_features

    def listen(row, cells, counts, beside):
        seen.append((row.places, cells, ask(row, cells, counts, beside)))
        return seen[-1][-1]

    model.field.cell_features = listen
    model(**without(padded(window(), window(seed=2, others=0)), "labels"))
    for places, cells, features in seen:
        cells, touched = cells[:-1], (features[:-1, -2] / FEATURE_SCALE).expm1()
        dx = cells[:, None] % GRID.width - places % GRID.width
        dy = cells[:, None] // GRID.width - places // GRID.width
        expected = ((dx.abs() <= 1) & (dy.abs() <= 1)).sum(1).float()
        assert expected.max() > 1 and torch.allclose(touched, expected, atol=1e-4)


@torch.no_grad()
def test_without_other_people_a_network_knows_the_person_alone():
    model, batch = field_model(), padded(window(others=0), window(seed=1, others=0))
    told = model(**batch).log_probability
    assert torch.equal(told, model(**without(batch, "field_cells", "field_counts")).log_probability)
    assert not torch.allclose(told, model(**padded(window(), window(seed=1))).log_probability)


def more_probable_with(model, one: dict, two: dict, name: str, column: int) -> list[torch.Tensor]:
    """Probabilities of both windows' records, as a number that the first is told of a new cell grows."""
    model.field.of_question.weight.zero_(), model.field.of_question.bias.zero_()
    new = int(np.setdiff1d(one["field_cells"], one["inputs"][:, CELL])[0])
    at = int(np.searchsorted(one["field_cells"], new))
    found = []
    for number in (0, 3, 30):
        one[name][at, column] = number
        found.append(model(**without(padded(one, two), "labels")).logits.exp())
    assert (torch.stack([logits[:6, new] for logits in found]).diff(dim=0) > 0).all()
    return found


@torch.no_grad()
def test_the_more_people_are_seen_in_a_new_cell_the_more_probable_it_can_be_and_no_other_row_has_a_say():
    model, one, two = field_model(), window(), window(seed=1)
    model.field.linear.weight.zero_()[0, 0] = 2.0  # the first count: people
    found = more_probable_with(model, one, two, "field_counts", 0)
    assert torch.allclose(found[0][6:], found[-1][6:], atol=1e-7)
    known = int(one["inputs"][0, CELL])
    assert torch.allclose(found[0][:6, known], found[-1][:6, known], atol=1e-6)


@torch.no_grad()
def test_of_those_asked_alone_no_answer_depends_on_what_else_is_asked():
    model, whole = field_model(), window()
    part = {name: value for name, value in whole.items()}
    kept = np.r_[0:54, 57]  # one of the six asked-for records
    part["inputs"] = part["inputs"][kept].copy()
    part["labels"] = part["labels"][kept]
    all_six = model(**padded(whole), asked_alone=True).log_probability[0]
    alone = model(**padded(part), asked_alone=True).log_probability[0]
    assert torch.allclose(alone[0], all_six[3], atol=1e-5)


@torch.no_grad()
def test_the_candidates_hold_the_likeliest_new_cells_of_the_field():
    model, one = field_model(), window(others=400)
    output = model(**without(padded(one), "labels"), num_candidates=32)
    new = output.candidates[0][~torch.isin(output.candidates[0], torch.from_numpy(one["inputs"][:-6, CELL]))]
    assert torch.isin(new, torch.from_numpy(one["field_cells"])).sum() >= 10


def test_it_trains_every_weight_and_wants_a_spread_and_distances():
    model, batch = field_model(), padded(window(), window(seed=1), window(seed=3))
    model(**batch).loss.backward()
    model(**without(batch, "field_cells", "field_counts")).loss.backward()  # told of nobody
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    with pytest.raises(ValueError, match="city_field is for a network with history_far and history_spread"):
        STMoEBertConfig(**(SMALL | PORTABLE | {"city_field": True, "history_spread": 0}))


def test_a_city_is_trained_on_and_predicted_and_noise_in_held_out_days_changes_no_prediction(tmp_path):
    cities = []
    for seed, name in enumerate(("true", "noise")):
        folder = write_city(tmp_path / name)
        if name == "noise":
            file = folder / "cityB_challengedata.csv.gz"
            table = pd.read_csv(file)
            late = table["d"] >= 60
            table.loc[late, ["x", "y"]] = np.random.default_rng(seed).integers(1, 201, (late.sum(), 2))
            table.to_csv(file, index=False)
        cities.append(open_city("B", folder, cache_dir=folder / "cache"))
    city = cities[0]
    processor = MobilityProcessor.for_data(city.grid, city.calendar)
    model = field_model(grid_width=200, grid_height=200, num_days=75)
    train = TrainingWindows(
        city, split_users(city, 60, 0.5, 1), WindowShape(), processor, 1, alone_share=0.5, city_field=True
    )
    model(**processor.pad([train[item] for item in range(4)])).loss.backward()
    rows, found = np.arange(4), []
    for one in cities:
        windows = PredictionWindows(one, rows, 60, WindowShape(), processor, city_field=True)
        batch = processor.pad([windows[number] for number in range(len(windows))])
        cells, _ = predict_cells(model, batch, city.grid, PredictionSettings(decoder="mode"))
        forecaster = Forecaster(model, one, one.calendar, ForecastSettings(top_k=3), until=np.full(len(one), 60))
        day = np.repeat([60, 61], 3)
        answers = forecaster.answers([Asked(row, day, np.tile([4, 20, 40], 2)) for row in rows])
        found.append((cells.numpy(), *(answer.probabilities for answer in answers)))
    assert all(np.array_equal(*pair) for pair in zip(*found, strict=True))


def test_a_forecaster_can_be_told_of_nobody_so_that_who_shares_a_batch_has_no_say(tmp_path):
    folder = write_city(tmp_path / "data")
    city = open_city("B", folder, cache_dir=folder / "cache")
    model = field_model(grid_width=200, grid_height=200, num_days=90)
    calendar = Calendar(0, 90, 48)
    asked = np.repeat([76, 77], 3), np.tile([4, 20, 40], 2)
    found = {}
    for told in (True, False):
        for part in (city, city.select(np.arange(1))):
            forecaster = Forecaster(model, part, calendar, ForecastSettings(top_k=60), told_of_others=told)
            found[told, len(part)] = next(iter(forecaster.answers([Asked(0, *asked)]))).probabilities
    assert np.array_equal(found[False, 12], found[False, 1]) and np.array_equal(found[False, 1], found[True, 1])
    assert not np.array_equal(found[True, 12], found[True, 1])


def with_poi(one: dict, seed: int = 5) -> dict:
    points = np.random.default_rng(seed).integers(0, 9, (len(one["field_cells"]), len(POI_COUNTS)))
    return one | {"field_poi": points.astype(np.float32)}


@torch.no_grad()
def test_a_network_with_a_part_for_points_of_interest_starts_as_one_without_it():
    plain, batch = field_model(), padded(with_poi(window()), with_poi(window(seed=1)))
    model = portable_model(city_field=True, city_field_poi=True)
    assert not model.field.poi.weight.any()
    missing = model.load_state_dict(plain.state_dict(), strict=False)
    assert missing.missing_keys == ["field.poi.weight"] and not missing.unexpected_keys
    told = plain(**without(batch, "field_poi")).log_probability
    assert torch.equal(model(**batch).log_probability, told)
    assert torch.equal(model(**without(batch, "field_poi")).log_probability, told)


@torch.no_grad()
def test_points_of_interest_make_a_cell_more_probable_and_a_row_without_any_is_as_before():
    model, one, two = field_model(city_field_poi=True), with_poi(window()), window(seed=1)
    model.field.poi.weight.zero_()[0, 2] = 1.0
    found = more_probable_with(model, one, two, "field_poi", 2)
    assert torch.allclose(found[0].sum(-1), torch.ones(12), atol=1e-4)
    alone = model(**without(padded(two), "labels")).logits.exp()
    assert torch.allclose(found[-1][6:], alone, atol=1e-6)


def test_its_part_for_points_of_interest_learns_also_where_a_batch_has_none():
    model, batch = field_model(city_field_poi=True), padded(with_poi(window()), window(seed=1))
    model(**without(batch, "field_poi")).loss.backward()
    assert model.field.poi.weight.grad is not None and not model.field.poi.weight.grad.any()
    model(**batch).loss.backward()
    assert (model.field.poi.weight.grad.abs().sum(0) > 0).all()
    with pytest.raises(ValueError, match="city_field_poi is for a network with city_field"):
        STMoEBertConfig(**(SMALL | PORTABLE | {"city_field_poi": True}))
