"""A portable network on other grids, calendars and slots, and asked-for records that answer alone."""

import copy

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from stmoe_hf import MobilityProcessor, STMoEBertConfig, STMoEBertForMobility
from stmoe_hf.model.embeddings_stmoe_bert import NEAR_RADIUS, STMoEBertRecordFeatures
from stmoe_hf.model.heads_stmoe_bert import RING_KM, STMoEBertFar
from stmoe_hf.model.spacetime import Calendar, Grid

from ..helpers import PORTABLE, portable_model


def moved(model, grid: Grid, calendar: Calendar) -> STMoEBertForMobility:
    """The same weights on another grid and calendar."""
    other = STMoEBertForMobility(model.config.for_data(grid, calendar)).eval()
    other.load_state_dict(model.state_dict())
    return other


def person(grid: Grid, calendar: Calendar, asked: int, seed: int = 0, records: int = 60, until: float = 0.7):
    """Day, slot and cell of a person seen in a corner of the grid; the last `asked` records ask for their cells."""
    random = np.random.default_rng(seed)
    first = int(calendar.num_days * calendar.num_slots * until)
    time = np.sort(random.choice(first, records, replace=False))
    later = first + np.sort(random.choice(calendar.num_days * calendar.num_slots - first, asked, replace=False))
    time = np.concatenate([time, later])
    x, y = random.integers(0, min(8, grid.width), len(time)), random.integers(0, min(8, grid.height), len(time))
    cell = y * grid.width + x
    cell[records:] = grid.mask_id
    return calendar.first_day + time // calendar.num_slots, time % calendar.num_slots, cell


def inputs_of(grid: Grid, calendar: Calendar, *people) -> dict[str, torch.Tensor]:
    processor = MobilityProcessor.for_data(grid, calendar)
    return processor.pad([{"inputs": processor.features(*columns)} for columns in people])


GRID, CALENDAR = Grid(40, 30), Calendar(0, 40, 48)


@pytest.mark.parametrize("history_far", [True, False])
@pytest.mark.parametrize(
    ("grid", "calendar"),
    [
        (GRID, CALENDAR),
        (Grid(10, 10), CALENDAR),
        (Grid(60, 50, 0.25), Calendar(0, 40, 96)),
        (Grid(30, 20, 1.0), Calendar(3, 100, 24, 2)),
        (Grid(15, 12, 2.0), Calendar(0, 400, 48)),
    ],
    ids=str,
)
def test_the_probabilities_of_all_cells_sum_to_one_on_any_grid_and_calendar(grid, calendar, history_far):
    model = moved(portable_model(history_far=history_far), grid, calendar)
    batch = inputs_of(grid, calendar, person(grid, calendar, 5), person(grid, calendar, 3, seed=1))
    with torch.no_grad():
        everything = model(**batch).logits
        some = model(**batch, num_candidates=8)
    torch.testing.assert_close(everything.exp().sum(-1), torch.ones(8), rtol=0, atol=2e-4)
    cells = some.candidates[1][some.candidates[1] >= 0]
    torch.testing.assert_close(some.logits[1, :3, : len(cells)], everything[5:, cells], rtol=0, atol=1e-4)


def test_the_loss_uses_the_same_probabilities():
    model = portable_model()
    batch = inputs_of(GRID, CALENDAR, person(GRID, CALENDAR, 5))
    labels = torch.full(batch["inputs"].shape[:2], -100)
    labels[0, -5:] = torch.tensor([0, 41, 500, 1199, 3])
    with torch.no_grad():
        expected = model(**batch).logits.gather(1, labels[0, -5:, None])[:, 0]
        told = model(**batch, labels=labels).log_probability[0]
    torch.testing.assert_close(told, expected, rtol=0, atol=1e-4)


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest tensor had."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple) else (result,):
            if isinstance(part, torch.Tensor):
                self.numbers = max(self.numbers, part.numel())
        return result


def test_a_grid_of_four_million_cells_makes_no_map_of_it():
    grid = Grid(2000, 2000, 0.1)
    model = moved(portable_model(history_relation_size=0), grid, CALENDAR)
    batch = inputs_of(grid, CALENDAR, person(grid, CALENDAR, 5))
    labels = torch.full(batch["inputs"].shape[:2], -100)
    labels[0, -5:] = 17
    with torch.no_grad(), Largest() as largest:
        output = model(**batch, labels=labels, num_candidates=8)
    assert torch.isfinite(output.loss)
    assert 0 < largest.numbers < grid.num_cells / 20


def test_what_is_asked_alone_depends_on_nothing_else_that_is_asked():
    model = portable_model()
    day, slot, cell = person(GRID, CALENDAR, 24)
    known = cell != GRID.mask_id
    everything = inputs_of(GRID, CALENDAR, (day, slot, cell))
    with torch.no_grad():
        together = model(**everything, asked_alone=True).logits
        seen = model(**everything).logits
        for number, record in enumerate(np.flatnonzero(~known)):
            keep = known.copy()
            keep[record] = True
            one = inputs_of(GRID, CALENDAR, (day[keep], slot[keep], cell[keep]))
            alone = model(**one, asked_alone=True).logits[0]
            torch.testing.assert_close(alone, together[number], rtol=0, atol=1e-5)
    assert (together - seen).abs().max() > 1e-3


def test_what_is_asked_alone_depends_on_no_batch_and_may_differ_by_row():
    model = portable_model()
    people = [person(GRID, CALENDAR, 4, seed, records=20 + 10 * seed) for seed in range(3)]
    both = inputs_of(GRID, CALENDAR, *people)
    alone = torch.tensor([True, False, True])
    with torch.no_grad():
        mixed = model(**both, asked_alone=alone).logits.split(4)
        for row, columns in enumerate(people):
            single = model(**inputs_of(GRID, CALENDAR, columns), asked_alone=bool(alone[row])).logits
            torch.testing.assert_close(mixed[row], single, rtol=0, atol=1e-5)


def test_people_without_history_who_are_asked_alone_get_a_finite_answer():
    model = portable_model()
    nobody = (np.array([30, 31]), np.array([5, 6]), np.array([GRID.mask_id] * 2))
    batch = inputs_of(GRID, CALENDAR, nobody, person(GRID, CALENDAR, 3))
    with torch.no_grad():
        logits = model(**batch, asked_alone=True).logits
        one = model(**inputs_of(GRID, CALENDAR, tuple(column[:1] for column in nobody)), asked_alone=True).logits
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(logits[0], one[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(logits[0].exp().sum(), torch.tensor(1.0), rtol=0, atol=1e-4)


def test_records_between_known_ones_may_be_asked_alone():
    model = portable_model()
    day, slot, cell = person(GRID, CALENDAR, 0, records=40)
    gaps = cell.copy()
    gaps[[10, 20, 21]] = GRID.mask_id
    keep = np.ones(40, bool)
    keep[[20, 21]] = False
    with torch.no_grad():
        three = model(**inputs_of(GRID, CALENDAR, (day, slot, gaps)), asked_alone=True).logits
        one = model(**inputs_of(GRID, CALENDAR, (day[keep], slot[keep], gaps[keep])), asked_alone=True).logits
    torch.testing.assert_close(three[0], one[0], rtol=0, atol=1e-5)


def test_the_same_life_in_slots_of_another_length_gives_nearly_the_same_answer():
    """Half-hours told as quarters: each record once, in the first quarter of its half-hour or the second."""
    model = portable_model()
    quarters = Calendar(0, 40, 96)
    day, slot, cell = person(GRID, CALENDAR, 6)
    fine = moved(model, GRID, quarters)
    with torch.no_grad():
        half_hours = model(**inputs_of(GRID, CALENDAR, (day, slot, cell)), asked_alone=True).logits.exp()
        as_quarters = fine(**inputs_of(GRID, quarters, (day, 2 * slot, cell)), asked_alone=True).logits.exp()
    assert 0.5 * (half_hours - as_quarters).abs().sum(-1).max() < 0.15


def test_tables_of_cells_or_days_tie_a_network_to_its_grid():
    for changes in ({"location_embedding_size": 8}, {"day_embedding_size": 4}, {"cell_head": True}):
        config = STMoEBertConfig(**(PORTABLE | {"history_far": False} | changes))
        with pytest.raises(ValueError, match=f"{next(iter(changes))}.*only a network without them can be moved"):
            config.for_data(Grid(41, 30), CALENDAR)
        with pytest.raises(ValueError, match="cannot"):
            STMoEBertConfig(**(PORTABLE | {"history_far": False} | changes), trained_num_days=75)
    assert STMoEBertConfig(**PORTABLE).for_data(GRID, CALENDAR).num_days == 40


@pytest.mark.parametrize(
    ("grid", "calendar", "words"),
    [
        (Grid(40, 30, 0.05), CALENDAR, "a cell is 0.05 km wide"),
        (Grid(40, 30, 5), CALENDAR, "a cell is 5 km wide"),
        (GRID, Calendar(0, 40, 288), "a day has 288 slots"),
        (GRID, Calendar(0, 40, 4), "a day has 4 slots"),
    ],
)
def test_sizes_that_nothing_was_tried_on_are_refused(grid, calendar, words):
    with pytest.raises(ValueError, match=words):
        STMoEBertConfig(**PORTABLE).for_data(grid, calendar)


@pytest.mark.parametrize("grid", [Grid(12, 9, 0.5), Grid(7, 30, 2.0), Grid(50, 40, 0.1)], ids=str)
def test_the_cells_of_a_ring_are_counted_exactly(grid):
    config = STMoEBertConfig(**(PORTABLE | {"grid_width": grid.width, "grid_height": grid.height}))
    config.cell_km = grid.cell_km
    far = STMoEBertFar(config)
    cells = torch.arange(grid.num_cells)
    counts = far.cells_in_rings(cells)
    assert (counts.sum(-1) == grid.num_cells - 1).all()
    for cell in (0, grid.width - 1, grid.num_cells // 2, grid.num_cells - 1):
        rings = far.ring(cells, torch.tensor([cell]))[:, 0]
        expected = torch.bincount(rings, minlength=len(RING_KM) + 2)[: len(RING_KM) + 1]
        assert torch.equal(counts[cell], expected)


@pytest.mark.parametrize("grid", [Grid(30, 20, 0.5), Grid(30, 20, 0.2), Grid(9, 40, 1.7)], ids=str)
def test_visits_near_a_place_and_the_home_are_those_of_every_pair_of_cells(grid):
    config = STMoEBertConfig(**(PORTABLE | {"grid_width": grid.width, "grid_height": grid.height}))
    config.cell_km = grid.cell_km
    features = STMoEBertRecordFeatures(config)
    random = np.random.default_rng(0)
    cell = torch.from_numpy(np.sort(random.choice(grid.num_cells, (3, 60)), axis=1))
    visits, nights = (torch.from_numpy(random.integers(1, 20, (3, 60)).astype(np.float32)) for _ in range(2))

    def proximity(to: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        apart = torch.stack([to % grid.width - of % grid.width, to // grid.width - of // grid.width]).abs()
        apart = apart * (grid.cell_km / 0.5)
        return torch.exp(-0.5 * torch.hypot(*apart)) * (apart <= NEAR_RADIUS).all(0)

    near, home = features._around(visits, nights, cell)
    expected = (proximity(cell[:, :, None], cell[:, None, :]) * visits[:, None]).sum(-1)
    assert torch.allclose(near, expected, rtol=1e-5)
    everywhere = torch.arange(grid.num_cells)[None, :, None]
    worth = (proximity(everywhere, cell[:, None, :]) * (nights + 1e-3 * visits)[:, None]).sum(-1)
    x, y = everywhere % grid.width, everywhere // grid.width
    beside = ((x - cell[:, None] % grid.width).abs() <= 1) & ((y - cell[:, None] // grid.width).abs() <= 1)
    assert torch.equal(home[:, 0], worth.masked_fill(~beside.any(-1), 0).argmax(1))


def test_a_moved_configuration_is_saved_and_read_with_what_it_was_trained_on(tmp_path):
    model = moved(portable_model(), Grid(60, 50, 0.25), Calendar(0, 90, 96))
    model.save_pretrained(tmp_path)
    again = STMoEBertForMobility.from_pretrained(tmp_path)
    assert again.config.trained_num_slots == 48
    assert again.config.trained_cell_km == 0.5
    back = again.config.for_data(GRID, CALENDAR)
    assert (back.num_slots, back.cell_km) == (48, 0.5)
    assert copy.deepcopy(back).differs_from_training == ""
