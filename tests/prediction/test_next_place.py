"""The next place: ranked places with probabilities, from the order of visits to cells or to ids without geometry."""

import numpy as np
import pandas as pd
import pytest
import torch

import stmoe_hf
from stmoe_hf.__main__ import main
from stmoe_hf.evaluation.next_place import counting_baselines, rank_of_truth, ranks, scores
from stmoe_hf.prediction.next_place import (
    FEATURES,
    Crowd,
    NextPlace,
    Question,
    Visits,
    candidates,
    fit,
    next_of_visits,
    training_questions,
)

from ..helpers import people


def visits(*place: int, minute: int = 600) -> Visits:
    count = len(place)
    return Visits(np.array(place), (np.arange(count) * 97 + minute) % 1440, np.arange(count) % 7)


def feature(question: Question, crowd: Crowd, name: str) -> dict[int, float]:
    places, features = candidates(question, crowd)
    return dict(zip(places.tolist(), features[:, FEATURES.index(name)].tolist(), strict=True))


def test_it_counts_what_followed_the_last_place():
    past = visits(1, 2, 3, 1, 2, 1, 4, 1)
    followed = feature(Question(past, 600, 0), Crowd([]), "followed")
    assert np.exp(followed[2]) == pytest.approx(2.1) and np.exp(followed[4]) == pytest.approx(1.1)
    assert np.exp(followed[1]) == pytest.approx(0.1)
    two = feature(Question(visits(3, 1, 2, 5, 1, 4, 3, 1), 600, 0), Crowd([]), "followed_two")
    assert np.exp(two[2]) == pytest.approx(1.1) and np.exp(two[4]) == pytest.approx(0.1)  # 3, 1 -> 2; 5, 1 -> 4


def test_the_last_visit_of_a_place_counts_as_its_latest():
    since = feature(Question(visits(7, 8, 7, 9), 600, 0), Crowd([]), "visits_since")
    assert np.allclose([np.exp(since[place]) for place in (9, 7, 8)], [1, 2, 3])


def test_a_persons_own_visits_are_no_part_of_what_the_others_say():
    own, other = visits(1, 2, 1, 2, 1, 5), visits(1, 3, 1, 3)
    crowd = Crowd([own, other])
    question = Question(own.before(5), 600, 0, 0)
    assert feature(question, crowd, "followed_of_others") == {
        place: pytest.approx(np.log1p(2 if place == 3 else 0)) for place in feature(question, crowd, "visits")
    }
    assert 5 not in feature(question, crowd, "visits")  # what comes later in the own past
    without = feature(question, Crowd([Visits(*(np.zeros(0, np.int64),) * 3), other]), "visits_of_others")
    assert feature(question, crowd, "visits_of_others") == without


def test_ranks_are_scored_as_the_field_does():
    assert scores([1, 2, 4, float("inf")]) == {"acc@1": 0.25, "acc@5": 0.75, "acc@10": 0.75, "mrr": 0.4375}
    places, values = np.array([3, 5, 9]), np.array([1.0, 2.0, 1.0])
    assert [rank_of_truth(places, values, truth) for truth in (5, 3, 9, 4)] == [1, 2, 3, float("inf")]


def test_a_network_learns_a_round_that_counting_visits_misses():
    rounds = [visits(*([10 * person + step for step in (0, 1, 2, 3)] * 12)) for person in range(4)]
    crowd = Crowd(rounds)
    train = training_questions(rounds, [30] * 4)
    network = fit(train, crowd, seed=1, epochs=8)
    test = [Question(own.before(41), 0, 0, person, int(own.place[41])) for person, own in enumerate(rounds)]
    systems = counting_baselines() | {"network": lambda f: network(torch.from_numpy(f)).detach().numpy()}
    found = {name: scores(values)["acc@1"] for name, values in ranks(test, crowd, systems).items()}
    assert found["network"] == found["Markov, then frequency"] == 1.0 > found["frequency"]
    _, probability = network.ranked(test[0], crowd)
    assert probability.sum() == pytest.approx(1.0, abs=1e-5) and (np.diff(probability) <= 0).all()
    with pytest.raises(ValueError, match="nothing to learn"):
        fit([Question(visits(1, 2), 0, 0, None, 77)], Crowd([]), 1)


def test_a_saved_network_gives_the_same_ranks(tmp_path):
    network = NextPlace.load()
    network.save(tmp_path / "next.safetensors")
    question = Question(visits(1, 2, 3, 1, 2, 1), 700, 3)
    one, other = (n.ranked(question, Crowd([])) for n in (network, NextPlace.load(tmp_path / "next.safetensors")))
    assert np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


def test_next_places_of_records_and_a_person_of_whom_nothing_is_known_is_left_out():
    table = people(users=5, masked=1)
    table.loc[table["uid"] == 4, ["x", "y"]] = 999
    found = stmoe_hf.forecast(table, next=True, top_k=3)
    assert list(found.columns) == ["uid", "d", "t", "rank", "x", "y", "probability"]
    assert set(found["uid"]) == {0, 1, 2, 3} and (found.groupby("uid").size() == 3).all()
    last = table[table["uid"] == 0].sort_values(["d", "t"]).iloc[-1]
    after = found[found["uid"] == 0].iloc[0]
    assert after["d"] * 48 + after["t"] == last["d"] * 48 + last["t"] + 1
    with pytest.raises(ValueError, match="next=True"):
        stmoe_hf.forecast(table, next=True, samples=2)


def shops(days: int = 20) -> pd.DataFrame:
    time = pd.date_range("2024-05-06 08:00", periods=3 * days, freq="8h")
    return pd.DataFrame({"uid": "ann", "time": time, "place": ["home", "mill", "shop"] * days})


def test_next_places_of_ids_without_geometry(tmp_path, capsys):
    found = next_of_visits(shops(), top_k=2, fitted=True)
    assert found["place"].iloc[0] == "home" and list(found["rank"]) == [1, 2]
    file, output = tmp_path / "visits.csv", tmp_path / "next.csv"
    shops().to_csv(file, index=False)
    assert main(["next", "--visits", str(file), "--top_k", "2", "--output", str(output)]) == 0
    assert list(pd.read_csv(output).columns) == ["uid", "rank", "place", "probability"]
    for wrong, text in (
        (shops().drop(columns="place"), "visits need the columns uid, time, place"),
        (shops().assign(time="noon-ish"), "row 0 of the visits: 'noon-ish' is no time"),
        (shops().assign(place=None), "row 0 of the visits lacks"),
    ):
        wrong.to_csv(file, index=False)
        assert main(["next", "--visits", str(file), "--output", str(output)]) == 1
        assert text in capsys.readouterr().err


def test_the_command_ranks_cells_of_records(tmp_path):
    people(users=4).to_csv(tmp_path / "cityB_challengedata.csv.gz", index=False)
    options = ["--city", "B", "--data_dir", str(tmp_path), "--cache_dir", str(tmp_path / "cache")]
    assert main(["next", *options, "--top_k", "2", "--output", str(tmp_path / "next.csv")]) == 0
    assert len(pd.read_csv(tmp_path / "next.csv")) == 8
