"""Days that a model was trained on are told where they are predicted."""

import json

import numpy as np

from stmoe_hf.data.city import open_city
from stmoe_hf.data.windows import PredictionWindows, WindowShape
from stmoe_hf.model.processing_stmoe_bert import MobilityProcessor
from stmoe_hf.prediction.trained_on import describe_trained_on, trained_until, warn_of_days_trained_on

from ..helpers import write_city


def test_who_was_trained_on_until_when_is_kept_and_said(tmp_path, caplog):
    city = open_city("B", write_city(tmp_path, users=6), cache_dir=tmp_path / "cache")
    until = np.array([75, 75, 60, 75, 60, 45])
    record = json.loads(json.dumps({"trained_on": [describe_trained_on(city, until)]}))
    assert record["trained_on"][0]["until"] == {"45": "5", "60": "2,4", "75": "0-1,3"}
    assert trained_until(record, city).tolist() == until.tolist()
    processor = MobilityProcessor.for_data(city.grid, city.calendar)
    windows = PredictionWindows(city, np.arange(6), 60, WindowShape(), processor)
    assert warn_of_days_trained_on(record, windows) == 3
    assert "3 of the 6 people to predict, first uid 0 from day 60 on, were trained on in these days" in caplog.text
    caplog.clear()
    held_out = PredictionWindows(city, np.array([2, 4, 5]), 60, WindowShape(), processor)
    assert warn_of_days_trained_on(record, held_out) == warn_of_days_trained_on({}, windows) == 0
    assert not caplog.text


def test_people_are_known_again_in_a_file_of_another_name_and_others_are_not(tmp_path):
    city = open_city("B", write_city(tmp_path / "one", users=4), cache_dir=tmp_path / "cache")
    record = {"trained_on": [describe_trained_on(city, np.full(4, 75))]}
    write_city(tmp_path / "other", city="C", users=4)
    renamed = open_city("C", tmp_path / "other", cache_dir=tmp_path / "cache")
    assert (trained_until(record, renamed) == 75).all()
    write_city(tmp_path / "third", city="D", users=4, seed=1)
    others = open_city("D", tmp_path / "third", cache_dir=tmp_path / "cache")
    assert (trained_until(record, others) == 0).all()
