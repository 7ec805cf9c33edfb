"""The pipeline: any table in, as many answers as questions out, and never on another grid than the model's."""

import datasets
import numpy as np
import pandas as pd
import pytest
from transformers import pipeline

from stmoe_hf import Calendar, Grid, MobilityProcessor

from ..helpers import small_model

PROCESSOR = MobilityProcessor.for_data(Grid(12, 10), Calendar(0, 20, 24))
RECORDS = pd.DataFrame(
    {
        "uid": [9, 9, 9, 9, 4, 4, 4],
        "d": [10, 2, 9, 11, 3, 5, 15],
        "t": [2, 10, 9, 1, 7, 6, 0],
        "x": [999, 3, 4, 999, 1, 999, 999],
        "y": [999, 5, 6, 999, 2, 999, 999],
    }
)


@pytest.fixture(scope="module")
def predict():
    return pipeline("mobility-prediction", model=small_model(), processor=PROCESSOR)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.astype(str),
        lambda t: t.astype(float),
        lambda t: t.astype({"x": "Int64", "y": "Int64"}).replace(999, pd.NA),
        lambda t: t.sample(frac=1, random_state=0),
        datasets.Dataset.from_pandas,
        lambda t: t.to_dict("list"),
        lambda t: t.to_dict("records"),
        lambda t: [t[t["uid"] == 9], t[t["uid"] == 4]],
    ],
    ids=["text", "floats", "missing cells", "any order", "Dataset", "columns", "rows", "frames"],
)
def test_every_kind_of_table_is_answered_alike(predict, change):
    pd.testing.assert_frame_equal(predict(change(RECORDS), top_k=2), predict(RECORDS, top_k=2), atol=1e-6)


def test_there_are_as_many_answers_as_questions(predict):
    assert predict(RECORDS)[["uid", "d", "t"]].to_numpy().tolist() == [[4, 5, 6], [4, 15, 0], [9, 10, 2], [9, 11, 1]]
    with pytest.raises(ValueError, match="row 3: uid is missing"):
        predict(RECORDS.assign(uid=[9, 9, 9, None, 4, 4, 4]))
    with pytest.raises(ValueError, match=r"row 1 \(uid 9, d 2, t 10\): x is 3.5, which is no whole number"):
        predict(RECORDS.assign(x=[999, 3.5, 4, 999, 1, 999, 999]))


def test_a_saved_pipeline_comes_back_with_its_grid_and_calendar(predict, tmp_path):
    predict.save_pretrained(tmp_path)
    loaded = pipeline("mobility-prediction", model=str(tmp_path), trust_remote_code=True)
    assert loaded.processor.grid == PROCESSOR.grid and loaded.processor.calendar == PROCESSOR.calendar
    assert np.allclose(loaded(RECORDS)["probability"], predict(RECORDS)["probability"])
    (tmp_path / "processor_config.json").unlink()
    with pytest.raises(ValueError, match=r"has no processor_config\.json"):
        pipeline("mobility-prediction", model=str(tmp_path), trust_remote_code=True)


def test_a_processor_of_another_grid_or_calendar_is_refused():
    for change, text in (
        ((Grid(12, 11), Calendar(0, 20, 24)), "grid_height is 11 in the data and 10 in the model"),
        ((Grid(12, 10), Calendar(0, 20, 48)), "num_slots is 48 in the data and 24 in the model"),
    ):
        with pytest.raises(ValueError, match=text):
            pipeline("mobility-prediction", model=small_model(), processor=MobilityProcessor.for_data(*change))
