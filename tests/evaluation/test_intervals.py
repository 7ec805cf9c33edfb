"""Intervals over people, and the sentence that says what a run has shown."""

import numpy as np
import pandas as pd
import pytest

from stmoe_hf.evaluation.baselines import BASELINES
from stmoe_hf.evaluation.intervals import bootstrap
from stmoe_hf.evaluation.verdict import ahead_of_counting, results_table, verdict
from stmoe_hf.metrics import EDITIONS, score


def test_an_interval_covers_the_true_mean_as_often_as_it_says():
    random = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        interval = bootstrap(random.normal(1.0, 2.0, 60), draws=500, seed=trial)
        hits += interval.low <= 1.0 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


def test_an_interval_is_the_same_every_time_and_says_how_many_people():
    values = np.arange(12.0)
    assert bootstrap(values) == bootstrap(values)
    interval = bootstrap(values)
    assert (interval.mean, interval.people) == (5.5, 12)
    assert interval.low < 5.5 < interval.high and interval.differs_from_zero
    assert not bootstrap(values[:9] + 1).differs_from_zero  # of so few people nothing is said
    assert not bootstrap(values - 5.5).differs_from_zero
    for wrong in (np.empty(0), np.ones((2, 2))):
        with pytest.raises(ValueError, match="one value of each person"):
            bootstrap(wrong)


def scored(truth: pd.DataFrame, wrong_every: int) -> dict:
    predicted = truth.copy()
    predicted.loc[predicted.index % wrong_every == 0, "x"] += 3
    return {edition: score(predicted, truth, edition) for edition in EDITIONS}


@pytest.fixture
def truth() -> pd.DataFrame:
    random = np.random.default_rng(0)
    rows = [
        (uid, 60 + day, slot, *random.integers(50, 60, 2)) for uid in range(12) for day in (0, 1) for slot in range(9)
    ]
    return pd.DataFrame(rows, columns=["uid", "d", "t", "x", "y"])


@pytest.mark.parametrize(
    "users, wrong_every, said",
    [(12, 9, "ahead of"), (12, 2, "behind"), (2, 9, "on 2 people: proves nothing, fewer than 10 people")],
)
def test_a_run_is_ahead_of_counting_or_behind_or_proves_nothing(truth, users, wrong_every, said):
    truth = truth[truth["uid"] < users].reset_index(drop=True)
    ours, counted = scored(truth, wrong_every), {name: scored(truth, 4) for name in BASELINES}
    results = {"city": "B", "edition": "humob2024", "cut_day": 60, "test_users": users, "seed": 1, "decoder": "day"}
    for name, scores in (("test", ours), *counted.items()):
        results[f"{name}_accuracy"] = scores["humob2024"].accuracy
        for edition, of_edition in scores.items():
            results |= {f"{name}_{edition}_geobleu": of_edition.geobleu, f"{name}_{edition}_dtw": of_edition.dtw}
    lines = verdict(ahead_of_counting(ours, counted, results)).splitlines()
    assert len(lines) == 2 and all(said in line for line in lines)
    if users == 12:
        better = "better" if said == "ahead of" else "worse"
        assert all(line.endswith(f"{better} than counting") for line in lines)
    of_model = next(line for line in results_table(results).splitlines() if line.startswith("this model"))
    assert of_model.count("*") == (5 if said != "behind" else 0)
