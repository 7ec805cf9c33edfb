"""The processor: the same inputs from every form of a trajectory, saving, and refusals in words."""

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoProcessor

from stmoe_hf import Calendar, Grid, MobilityProcessor, STMoEBertConfig

from ..helpers import small_model

PROCESSOR = MobilityProcessor(grid_width=20, grid_height=10)
TABLE = pd.DataFrame(
    {
        "uid": [7, 7, 7, 3, 3],
        "d": [0, 0, 6, 1, 1],
        "t": [47, 12, 0, 5, 6],
        "x": [1, 20, 999, 2, 999],
        "y": [1, 10, 999, 1, 999],
    }
)


def test_columns_are_day_slot_weekday_day_off_delta_cell():
    inputs = PROCESSOR(TABLE)["inputs"]
    assert inputs[0].tolist() == [
        [0, 12, 6, 1, 0, 199],  # put in time order; day 0 is a Sunday
        [0, 47, 6, 1, 35, 0],
        [6, 0, 5, 1, 5 * 48 + 1, 200],  # a Saturday, asked for
    ]
    assert inputs[1].tolist()[:2] == [[1, 5, 0, 1, 0, 1], [1, 6, 0, 1, 1, 200]]  # day 1 is a holiday
    assert PROCESSOR(TABLE)["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert inputs[1, 2, -1] == PROCESSOR.grid.pad_id


def test_tables_arrow_rows_and_plain_lists_give_the_same():
    lists = [[(0, 12, 20, 10), (0, 47, 1, 1), (6, 0, None, None)], [(1, 5, 2, 1), (1, 6, 999, 999)]]
    rows = [
        {"uid": 7, "day": [0, 0, 6], "slot": [12, 47, 0], "cell": [199, 0, 200]},
        {"uid": 3, "day": [1, 1], "slot": [5, 6], "cell": [1, 200]},
    ]
    expected = PROCESSOR(TABLE)["inputs"]
    assert torch.equal(PROCESSOR(lists)["inputs"], expected)
    assert torch.equal(PROCESSOR(rows)["inputs"], expected)
    assert torch.equal(PROCESSOR(rows[0])["inputs"][0], expected[0])
    assert np.array_equal(PROCESSOR(lists, return_tensors="np")["inputs"], expected.numpy())


def test_the_calendar_of_2025_starts_on_day_1_a_saturday():
    processor = MobilityProcessor.for_data(Grid(), Calendar(first_day=1, first_weekday=5))
    inputs = processor([[(1, 0, 5, 5), (3, 0, 5, 5), (75, 0, 5, 5)]])["inputs"]
    assert inputs[0, :, :4].tolist() == [[0, 0, 5, 1], [2, 0, 0, 0], [74, 0, 2, 0]]


def test_saved_beside_a_model_and_found_by_the_auto_class(tmp_path):
    processor = MobilityProcessor(30, 40, 1.0, 1, 20, 24, 5, [3])
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is MobilityProcessor
    assert loaded.grid == Grid(30, 40, 1.0) and loaded.calendar == Calendar(1, 20, 24, 5, (3,))


def test_cells_go_back_to_x_and_y():
    cells = np.arange(PROCESSOR.grid.num_cells)
    x, y = PROCESSOR.cells_to_xy(cells)
    assert (x.min(), x.max(), y.min(), y.max()) == (1, 20, 1, 10)
    assert np.array_equal(PROCESSOR.grid.cell(x, y), cells)


def test_on_a_large_grid_999_is_a_cell():
    processor = MobilityProcessor(grid_width=1200, grid_height=1200)
    assert processor([[(0, 0, 999, 999)]])["inputs"][0, 0, -1] == processor.grid.cell(999, 999)


@pytest.mark.parametrize(
    "records, said",
    [
        ([(0, 0, 21, 1)], r"day 0, slot 0: cell \(21, 1\) lies outside the grid of 20 x 10"),
        ([(0, 0, 0, 1)], r"cell \(0, 1\) lies outside"),
        ([(0, 0, 999, 3)], "only one of x and y is masked"),
        ([(75, 0, 1, 1)], r"day 75 lies outside 0\.\.74"),
        ([(0, 48, 1, 1)], r"slot 48 lies outside 0\.\.47"),
        ([(0, 5, 1, 1), (0, 5, 2, 2)], "two records on day 0, slot 5"),
        ([(0, 0.5, 1, 1)], r"row 0 \(uid 0, d 0\): t is 0.5, which is no whole number"),
        ([(0, 0, 1.5, 1)], "x is 1.5, which is no whole number"),
        ([(None, 0, 1, 1)], "d is missing"),
    ],
)
def test_bad_records_are_refused_with_their_place(records, said):
    with pytest.raises(ValueError, match=said):
        PROCESSOR([records])


def test_a_table_without_a_column_and_an_empty_list_are_refused():
    with pytest.raises(ValueError, match=r"lacks the columns \['t'\]"):
        PROCESSOR(TABLE.drop(columns="t"))
    with pytest.raises(ValueError, match="no trajectory"):
        PROCESSOR([])


def test_no_windows_make_an_empty_batch_that_a_network_takes():
    processor = MobilityProcessor(grid_width=20, grid_height=10)
    found = processor.pad([])
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
        "inputs": (0, 0, 6),
        "attention_mask": (0, 0),
    }
    model = small_model(grid_width=20, grid_height=10, num_days=75, num_slots=48, cell_head=False)
    assert model(**found).logits.shape[0] == 0


def test_a_model_of_another_grid_is_refused_by_name():
    with pytest.raises(ValueError, match="grid_width is 20 in the data and 200 in the model"):
        PROCESSOR.refuse_other_model(STMoEBertConfig())


def test_labels_are_the_cells_that_are_hidden_from_a_day_on():
    batch = PROCESSOR(TABLE.assign(x=[1, 20, 4, 2, 3], y=[1, 10, 2, 1, 1]), cut_day=1)
    assert batch["labels"].tolist() == [[-100, -100, 23], [1, 2, -100]]
    assert batch["inputs"][:, :, -1].tolist() == [[199, 0, 200], [200, 200, 201]]
    with pytest.raises(ValueError, match="no person has a known cell from day 70 on"):
        PROCESSOR(TABLE, cut_day=70)


def test_labels_are_the_true_cells_of_what_is_asked_for():
    truth = pd.DataFrame({"uid": [3, 7, 7], "d": [1, 6, 0], "t": [6, 0, 47], "x": [4, 5, 6], "y": [1, 1, 1]})
    batch = PROCESSOR(TABLE, labels=truth)
    assert batch["labels"].tolist() == [[-100, -100, 4], [-100, 3, -100]]  # day 0, slot 47 of uid 7 was not asked for
    assert torch.equal(batch["inputs"], PROCESSOR(TABLE)["inputs"])
    with pytest.raises(ValueError, match="no person has an asked-for record with a label"):
        PROCESSOR(TABLE, labels=truth.assign(uid=9))
    with pytest.raises(ValueError, match="cut_day or labels, not both"):
        PROCESSOR(TABLE, labels=truth, cut_day=3)


def test_rows_of_people_are_taken_as_lists_of_cells_or_of_x_and_y():
    people = [{"uid": u, **{k: p[k].tolist() for k in "dtxy"}} for u, p in TABLE.groupby("uid", sort=False)]
    expected = PROCESSOR(TABLE, cut_day=0)
    for rows in (people, datasets.Dataset.from_list(people), tuple(people)):
        found = PROCESSOR(list(rows), cut_day=0)
        assert torch.equal(found["inputs"], expected["inputs"]) and torch.equal(found["labels"], expected["labels"])
    with pytest.raises(ValueError, match=r"uid 7: the lists d, t, x, y have different lengths"):
        PROCESSOR([people[0] | {"d": [1]}])
    with pytest.raises(ValueError, match=r"uid 3, record 1: cell 'a' is no whole number"):
        PROCESSOR([{"uid": 3, "day": [1, 1], "slot": [5, 6], "cell": [1, "a"]}])


def test_a_processor_that_was_not_saved_is_not_made_up(tmp_path):
    STMoEBertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no processor_config\.json that says which grid and calendar"):
        AutoProcessor.from_pretrained(tmp_path)
