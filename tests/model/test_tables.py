"""Tables at every door: every kind is taken or told, every whole number is one, and nothing else passes."""

import decimal

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from stmoe_hf import MobilityProcessor
from stmoe_hf.metrics import score
from stmoe_hf.model.tables import record_columns, to_table, whole

TABLE = pd.DataFrame({"uid": [7, 7], "d": [0, 1], "t": [1, 2], "x": [85, 86], "y": [1, 2]})
KINDS = {
    "DataFrame": lambda t: t,
    "other index": lambda t: t.set_index(pd.Index([5, 3])),
    "Arrow table": pa.Table.from_pandas,
    "Arrow reader": lambda t: pa.Table.from_pandas(t).to_reader(),
    "Dataset": datasets.Dataset.from_pandas,
    "streamed Dataset": lambda t: datasets.Dataset.from_pandas(t).to_iterable_dataset(),
    "rows": lambda t: t.to_dict("records"),
    "generator of rows": lambda t: iter(t.to_dict("records")),
    "dict of columns": lambda t: t.to_dict("list"),
    "dict of tensors": lambda t: {name: torch.tensor(values.to_numpy()) for name, values in t.items()},
    "list of frames": lambda t: [t[:1], t[1:]],
    "generator of frames": lambda t: (t[row : row + 1] for row in range(len(t))),
    "array": lambda t: t.to_numpy(),
    "records of numpy": lambda t: t.to_records(index=False),
    "lists": lambda t: t.to_numpy().tolist(),
    "named tuples": lambda t: list(t.itertuples(index=False)),
    "other names": lambda t: t.rename(columns={"uid": "UID", "d": " d"}),
}
TYPES = {
    "text": lambda t: t.astype(str),
    "floats": lambda t: t.astype(float),
    "text of floats": lambda t: t.astype(float).astype(str),
    "nullable": lambda t: t.astype("Int64"),
    "bytes": lambda t: t.astype("uint8"),
    "categories": lambda t: t.astype("category"),
    "decimals": lambda t: t.map(decimal.Decimal),
    "objects": lambda t: t.astype(object),
    "Arrow": lambda t: t.astype("int64[pyarrow]"),
    "text with spaces": lambda t: " " + t.astype(str) + "\t",
}


@pytest.mark.parametrize("kind", [*KINDS, *TYPES])
def test_every_kind_of_table_and_of_whole_number_is_taken_at_every_door(kind):
    table = (KINDS | TYPES)[kind](TABLE)
    pd.testing.assert_frame_equal(record_columns(to_table(table)), TABLE)
    table = (KINDS | TYPES)[kind](TABLE)  # a generator is read once
    processor = MobilityProcessor()
    assert torch.equal(processor(table)["inputs"], processor(TABLE)["inputs"])
    table = (KINDS | TYPES)[kind](TABLE)
    assert score(table, TABLE, "humob2024").accuracy == 1


def test_frames_of_polars_are_taken():
    polars = pytest.importorskip("polars")
    frame = polars.from_pandas(TABLE)
    for table in (frame, frame.lazy(), [frame, frame]):
        found = record_columns(to_table(table))
        assert found[:2].equals(TABLE)


@pytest.mark.parametrize(
    "value", [3, None, "records.csv", TABLE["x"], np.zeros((2, 3)), [1, 2], [(1, 2)], pd.DataFrame]
)
def test_what_is_no_table_is_told_which_kinds_are_taken(value):
    with pytest.raises(ValueError, match=r"this is no table but .*; taken are a DataFrame of pandas or polars"):
        to_table(value)


def test_columns_of_other_lengths_and_dicts_of_data_sets_are_told():
    with pytest.raises(ValueError, match="the columns uid, d make no table"):
        to_table({"uid": [1], "d": [1, 2]})
    with pytest.raises(ValueError, match="give one of them: train"):
        to_table(datasets.DatasetDict(train=datasets.Dataset.from_pandas(TABLE)))
    with pytest.raises(ValueError, match="two columns called 'x'"):
        to_table(pd.concat([TABLE, TABLE[["x"]]], axis=1))
    with pytest.raises(ValueError, match=r"lacks the columns \['x', 'y'\]"):
        record_columns(TABLE[["uid", "d", "t"]])


NO_WHOLE_NUMBERS = {
    "a half": 85.5,
    "hexadecimal": "0x10",
    "a plus": "+3",
    "an underscore": "1_0",
    "full-width digits": "\uff11",
    "Arabic digits": "\u0661",
    "a bool": True,
    "infinite": np.inf,
    "too large": 2**70,
    "5,000 digits": "1" * 5000,
    "no number": "abc",
    "a list": [1],
    "bytes": b"3",
    "a date": pd.Timestamp("2026-01-01"),
}


@pytest.mark.parametrize("column", ["uid", "d", "t", "x", "y"])
@pytest.mark.parametrize("kind", NO_WHOLE_NUMBERS)
def test_anything_else_is_refused_by_column_row_and_value_at_every_door(column, kind):
    value = NO_WHOLE_NUMBERS[kind]
    table = TABLE.astype(object)
    table.at[1, column] = value
    doors = (lambda: MobilityProcessor()(table), lambda: score(TABLE, table, "humob2024"))
    for door in doors:
        with pytest.raises(ValueError, match=f"row 1.*: {column} is .*, which is no whole number") as raised:
            door()
        assert len(str(raised.value)) < 200
    assert whole([value])[2].all()


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, "", "  "])
def test_a_missing_person_day_or_slot_is_refused_and_a_missing_cell_is_asked_for(missing):
    for column in ("uid", "d", "t"):
        table = TABLE.astype(object)
        table.at[1, column] = missing
        with pytest.raises(ValueError, match=f"row 1.*: {column} is missing"):
            record_columns(to_table(table), missing_cells=True)
    table = TABLE.astype(object)
    table.loc[1, ["x", "y"]] = missing
    assert record_columns(table, missing_cells=True)["x"].isna().tolist() == [False, True]
    assert MobilityProcessor()(table)["inputs"][0, 1, -1] == MobilityProcessor().grid.mask_id


def test_large_numbers_stay_exact():
    large = [2**63 - 1, -(2**63), 2**53 + 1]
    for values in (large, list(map(str, large)), pd.Series(large, dtype="Int64"), [*map(decimal.Decimal, large)]):
        assert whole(values)[0].tolist() == large
    assert whole(pd.Series([2**63], dtype="uint64"))[2].all()
    assert whole([float(2**53)])[2].tolist() == [True]  # the float next to it would be the same
