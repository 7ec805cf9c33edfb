"""Exactness of the metrics against the official scores, and every refusal."""

import json
import logging
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from stmoe_hf.__main__ import main
from stmoe_hf.data.description import Description
from stmoe_hf.data.submission import read_table
from stmoe_hf.metrics import EDITIONS, accuracy, dtw, dtw_matrix, geobleu, geobleu_matrix, score
from stmoe_hf.model.spacetime import Calendar, Grid

DATA = Path(__file__).parents[1] / "fixtures"
SYSTEMS = [(city, system) for city in "BD" for system in ("lpbert", "llama3mob")]
# GEO-BLEU, DTW of both editions and accuracy of the published predictions, as the official package scores them.
PUBLISHED = {
    ("B", "llama3mob"): (0.3541, 25.39, 0.2378, 49.13, 0.312),
    ("D", "llama3mob"): (0.3217, 31.94, 0.2201, 79.66, 0.270),
    ("B", "lpbert"): (0.3093, 23.30, 0.2018, 45.49, 0.254),
    ("D", "lpbert"): (0.3033, 38.89, 0.2009, 76.79, 0.240),
}


def cases(edition):
    return json.loads((DATA / f"days_{edition}.json").read_text())["cases"]


def days(random, count, records=None, size=30):
    """Pairs of days [n, 2] of the same length on a small grid, so that ties are many."""
    for _ in range(count):
        n = records or int(random.integers(1, 25))
        yield random.integers(1, size, (2, n, 2))


@pytest.mark.parametrize("edition", EDITIONS)
def test_every_official_score_is_reproduced_to_the_last_bit(edition):
    for case in cases(edition):
        ours, theirs = (np.array(case[side])[:, -2:] for side in ("generated", "reference"))
        assert geobleu(ours, theirs, edition) == case["geobleu"], case["kind"]
        assert dtw(ours, theirs, edition) == case["dtw"], case["kind"]


@pytest.mark.parametrize(("city", "system"), SYSTEMS)
@pytest.mark.parametrize("edition", EDITIONS)
def test_published_predictions_for_real_users_score_as_officially(shared, edition, city, system):
    prediction = pd.read_csv(shared / "metric_vectors" / f"city{city}_pred_{system}.csv.gz")
    truth = pd.read_csv(shared / "humob" / f"city{city}-dataset.csv.gz")
    official = pd.read_csv(shared / "metric_vectors" / f"official_{edition}_city{city}_{system}.csv.gz")
    scores = score(prediction, truth[truth["d"] >= 60], edition)
    both = scores.per_day.merge(official, on=["uid", "d"], suffixes=("", "_official"), how="outer")
    assert len(both) == len(official) == scores.days
    assert (both["records"] == both["n"]).all()
    for name in ("geobleu", "dtw"):
        np.testing.assert_allclose(both[name], both[f"{name}_official"], rtol=1e-12)
    of_2024, of_2025 = PUBLISHED[city, system][:2], PUBLISHED[city, system][2:4]
    expected = of_2024 if edition == "humob2024" else of_2025
    assert (round(scores.geobleu, 4), round(scores.dtw, 2)) == expected
    assert scores.accuracy == pytest.approx(PUBLISHED[city, system][4], abs=0.001)


def test_the_official_package_agrees_on_random_days():
    official = pytest.importorskip("geobleu", reason="the official package is not installed (extra: geobleu)")
    random = np.random.default_rng(0)
    edition = "humob2025" if official.calc_geobleu_orig.__defaults__[0] == 5 else "humob2024"
    for ours, theirs in days(random, 50):
        expected = official.calc_geobleu_orig(ours.tolist(), theirs.tolist())
        assert geobleu(ours, theirs, edition) == pytest.approx(expected, rel=1e-12)
        expected = official.calc_dtw_orig(ours.tolist(), theirs.tolist(), scale_factor=2.0)
        assert dtw(ours, theirs, edition) == pytest.approx(expected, rel=1e-12)


def straight_geobleu(ours, theirs, rules, beta=0.5):
    """GEO-BLEU written out: all pairs, sorted; for orders, betas and lengths that no vector has."""
    logs = []
    for size in range(1, min(rules.order, len(ours), len(theirs)) + 1):
        pairs = []
        for i in range(len(ours) - size + 1):
            for j in range(len(theirs) - size + 1):
                # Not numpy's exp: its last bit, which decides near ties, differs between versions.
                value = 1.0
                for dx, dy in (ours[i : i + size] - theirs[j : j + size]).tolist():
                    value *= math.exp(-beta * math.sqrt(dx * dx + dy * dy))
                pairs.append((value, i, j))
        pairs.sort(key=lambda pair: -pair[0])
        rows, columns, taken = set(), set(), []
        for value, i, j in pairs:
            if i not in rows and j not in columns:
                rows.add(i)
                columns.add(j)
                taken.append(value)
        grams = len(ours) - size + 1
        logs.append(np.log(sum(taken) / (grams if rules.by_generated else len(taken))))
    brevity = 1.0 if len(ours) > len(theirs) else np.exp(1 - len(theirs) / len(ours))
    return brevity * np.exp(np.mean(logs))


@pytest.mark.parametrize("edition", EDITIONS)
def test_other_orders_betas_and_lengths(edition):
    random = np.random.default_rng(1)
    for _ in range(60):
        ours, theirs = (random.integers(1, 8, (int(random.integers(1, 14)), 2)) for _ in range(2))
        for order, beta in ((1, 0.5), (4, 0.2), (7, 1.0)):
            rules = EDITIONS[edition].__class__(order, EDITIONS[edition].by_generated, False)
            expected = straight_geobleu(ours, theirs, rules, beta)
            assert geobleu(ours, theirs, edition, order=order, beta=beta) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("edition", EDITIONS)
def test_properties(edition):
    random = np.random.default_rng(2)
    for ours, theirs in days(random, 30):
        value = geobleu(ours, theirs, edition)
        assert 0 < value <= 1
        assert geobleu(ours, ours, edition) == pytest.approx(1, abs=1e-12)
        assert dtw(ours, ours, edition) == 0
        shift = np.array([11, -5])
        assert geobleu(ours + shift, theirs + shift, edition) == value
        assert dtw(ours + shift, theirs + shift, edition) == dtw(ours, theirs, edition)
        assert dtw(ours, theirs, edition, cell_km=1.0) == pytest.approx(2 * dtw(ours, theirs, edition))
    assert dtw(ours, theirs, "humob2024") <= dtw(ours, theirs, "humob2025")


@pytest.mark.parametrize("edition", EDITIONS)
def test_the_matrices_are_the_scores_of_the_pairs(edition):
    random = np.random.default_rng(3)
    lengths = random.integers(1, 20, 30)
    ragged = [random.integers(1, 30, (n, 2)) for n in lengths]
    for ours, theirs in (
        (random.integers(1, 30, (5, 12, 2)), random.integers(1, 30, (7, 12, 2))),
        (ragged[:20], ragged[20:]),  # more pairs than one thread takes
    ):
        found, km = geobleu_matrix(ours, theirs, edition), dtw_matrix(ours, theirs, edition)
        assert found.shape == km.shape == (len(ours), len(theirs))
        for i in range(len(ours)):
            for j in range(len(theirs)):
                assert found[i, j] == geobleu(ours[i], theirs[j], edition)
                assert km[i, j] == dtw(ours[i], theirs[j], edition)
    with pytest.raises(ValueError, match="no generated day"):
        geobleu_matrix([], theirs, edition)
    with pytest.raises(ValueError, match=r"must be \[n, 2\] cells"):
        dtw_matrix([[[1, 1]], []], theirs, edition)


def records(users=3, seed=0):
    random = np.random.default_rng(seed)
    rows = [
        (uid, d, t, *random.integers(1, 201, 2))
        for uid in range(users)
        for d in (60, 61)
        for t in np.sort(random.choice(48, 5, replace=False))
    ]
    return pd.DataFrame(rows, columns=["uid", "d", "t", "x", "y"]).astype("int64")


def test_score_averages_over_days_then_users():
    truth = records()
    prediction = truth.assign(x=(truth["x"] + truth["uid"]).clip(upper=200))
    scores = score(prediction, truth, "humob2024")
    assert (scores.users, scores.days, scores.records) == (3, 6, 30)
    expected = []
    for uid in range(3):
        of_days = []
        for d in (60, 61):
            sides = [s[(s["uid"] == uid) & (s["d"] == d)][["x", "y"]].to_numpy() for s in (prediction, truth)]
            of_days.append(geobleu(*sides, "humob2024"))
        expected.append(np.mean(of_days))
    assert scores.geobleu == pytest.approx(np.mean(expected), rel=1e-14)
    assert scores.per_user["accuracy"].iloc[0] == 1
    assert scores.accuracy == pytest.approx(accuracy(prediction[["x", "y"]], truth[["x", "y"]]))
    assert scores.to_dict().keys() == {"edition", "users", "days", "records", "geobleu", "dtw", "accuracy"}


def test_tables_arrays_and_any_order_give_the_same():
    truth, prediction = records(), records(seed=0).assign(x=7)
    expected = score(prediction, truth, "humob2025").to_dict()
    shuffled = prediction.sample(frac=1, random_state=1)
    for ours in (shuffled, pa.Table.from_pandas(shuffled), shuffled.to_numpy(), shuffled.to_dict("list")):
        assert score(ours, truth, "humob2025").to_dict() == expected
    assert score(prediction.astype(float), truth, "humob2025").to_dict() == expected


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda p, t: (p.iloc[1:], t), r"lacks 1 of the reference's .* of 1 users, first \(uid, d, t\) \[\(0, 60"),
        (lambda p, t: (p, t[t["uid"] > 0]), "has 10 records that the reference lacks"),
        (lambda p, t: (pd.concat([p, p[:2]]), t), "the prediction has 2 records twice"),
        (lambda p, t: (p, pd.concat([t, t[:1]])), "the reference has 1 records twice"),
        (lambda p, t: (p, t.assign(x=999, y=999)), r"30 records of the reference are masked, first .* \[\(0, 60"),
        (lambda p, t: (p, t.assign(y=999)), "30 records of the reference are masked"),
        (
            lambda p, t: (p.assign(x=p["x"] + 0.5), t),
            r"row 0 \(uid 0, d 60, t \d+\): x is .*\.5, .*\(30 such",
        ),
        (lambda p, t: (p.assign(y=np.nan), t), r"the prediction, row 0 \(uid 0, d 60, t \d+\): y is missing"),
        (lambda p, t: (p.assign(d=np.nan), t), r"row 0 \(uid 0\): d is missing"),
        (lambda p, t: (p.assign(y="a"), t), "y is 'a', which is no whole number"),
        (lambda p, t: (p[:0], t), "the prediction holds no record"),
        (lambda p, t: (p.drop(columns="t"), t), r"lacks the columns \['t'\]"),
        (lambda p, t: (p, t.assign(uid=t["uid"] + 1)), "lacks 29 of .* has 29 records"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_its_keys(change, text):
    with pytest.raises(ValueError, match=text):
        score(*change(records(), records(seed=0)), "humob2024")


def test_an_unknown_edition_and_wrong_days_are_refused():
    with pytest.raises(ValueError, match="the editions are humob2024, humob2025"):
        score(records(), records(), "2024")
    with pytest.raises(ValueError, match=r"must be \[n, 2\] cells"):
        geobleu([], [[1, 1]], "humob2024")
    with pytest.raises(ValueError, match=r"the generated day, row 0: 1\.5 is no whole number"):
        dtw([[1.5, 1]], [[1, 1]], "humob2024")
    with pytest.raises(ValueError, match="at least 1 record"):
        geobleu([[1, 1]], [[1, 1]], "humob2024", order=0)


def test_a_prediction_outside_the_grid_is_scored_with_a_warning(caplog):
    truth = records()
    with caplog.at_level(logging.WARNING):
        scores = score(truth.assign(x=250), truth, "humob2024", grid=Grid())
    assert "30 predicted records lie outside the grid" in caplog.text
    assert scores.dtw > 0


def test_the_score_command_ends_with_one_json_object(tmp_path, capsys):
    truth = records()
    truth.assign(x=3).to_csv(tmp_path / "p.csv.gz", index=False)
    pd.concat([truth, truth.assign(d=truth["d"] - 20)]).to_csv(tmp_path / "t.csv", index=False)
    options = ["--prediction", str(tmp_path / "p.csv.gz"), "--reference", str(tmp_path / "t.csv")]
    assert main(["score", *options, "--edition", "humob2025", "--per_user", str(tmp_path / "u.csv")]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1]) == score(truth.assign(x=3), truth, "humob2025").to_dict()
    assert "30 records of the reference are left out: they lie outside the predicted days 60..61" in captured.err
    assert pd.read_csv(tmp_path / "u.csv")["uid"].tolist() == [0, 1, 2]


def test_users_that_were_not_predicted_are_refused_or_left_out_on_request(tmp_path, capsys):
    truth = records()
    truth[truth["uid"] == 1].to_csv(tmp_path / "p.csv", index=False)
    truth.to_csv(tmp_path / "t.csv", index=False)
    options = ["--prediction", str(tmp_path / "p.csv"), "--reference", str(tmp_path / "t.csv")]
    assert main(["score", *options, "--edition", "humob2024"]) == 1
    assert "2 users of the reference were not predicted; --only_predicted" in capsys.readouterr().err
    assert main(["score", *options, "--edition", "humob2024", "--only_predicted"]) == 0
    captured = capsys.readouterr()
    assert "2 users of the reference are left out" in captured.err
    assert json.loads(captured.out.splitlines()[-1])["users"] == 1


def test_a_bar_is_shown_where_scoring_takes_longer_than_two_seconds(capsys, monkeypatch):
    truth = records()
    score(truth, truth, "humob2024", progress=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.modules["stmoe_hf.metrics.score"], "SECONDS_WITHOUT_BAR", 0)
    score(truth, truth, "humob2024", progress=True)
    assert "days" in capsys.readouterr().err


def test_the_metric_of_evaluate_gives_the_same_and_loads_offline(tmp_path, monkeypatch):
    def no_network(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.getaddrinfo", no_network)
    monkeypatch.setattr("socket.socket.connect", no_network)
    evaluate = pytest.importorskip("evaluate")
    import stmoe_hf.metrics

    monkeypatch.chdir(tmp_path)  # it loads from anywhere
    metric = evaluate.load(stmoe_hf.metrics.METRIC, cache_dir=str(tmp_path))
    truth = records()
    prediction = truth.assign(x=7)
    found = metric.compute(
        predictions=prediction.to_numpy().tolist(), references=truth.to_numpy().tolist(), edition="humob2025"
    )
    assert found == score(prediction, truth, "humob2025").to_dict()
    tables = {"predictions": prediction[["y", "x", "t", "d", "uid"]], "references": truth}
    assert metric.compute(**tables, edition="humob2025") == found
    assert metric.citation.startswith("@inproceedings") and set(metric.features) == {"predictions", "references"}
    with pytest.raises(ValueError, match="the prediction holds no record"):
        metric.compute(predictions=[], references=[], edition="humob2025")
    with pytest.raises(TypeError, match="edition"):  # none is meant where none is named
        metric.compute(predictions=prediction.to_numpy().tolist(), references=truth.to_numpy().tolist())
    far = metric.compute(
        predictions=prediction.to_numpy().tolist(),
        references=truth.to_numpy().tolist(),
        edition="humob2025",
        cell_km=1,
    )
    assert far["dtw"] == pytest.approx(2 * found["dtw"])
    assert metric.compute(predictions=prediction, references=truth, edition="humob2025") == found
    metric.add_batch(predictions=prediction.to_numpy().tolist(), references=truth.to_numpy().tolist())
    assert metric.compute(edition="humob2025") == found


@pytest.fixture
def fine_city(tmp_path):
    """A folder with a city of cells of 250 m, its records and a prediction of them."""
    Description("fine", "records.csv", Grid(200, 200, 0.25), Calendar(), 60).write(tmp_path)
    records().to_csv(tmp_path / "records.csv", index=False)
    records().assign(x=3).to_csv(tmp_path / "p.csv", index=False)
    return tmp_path


def test_the_cell_size_is_that_of_the_city_json_beside_a_file(fine_city, tmp_path_factory, capsys):
    truth = records()
    expected = score(truth.assign(x=3), truth, "humob2024", grid=Grid(cell_km=0.25)).to_dict()
    assert score(fine_city / "p.csv", fine_city / "records.csv", "humob2024").to_dict() == expected
    assert score(truth.assign(x=3), str(fine_city / "records.csv"), "humob2024").to_dict() == expected
    assert score(read_table(fine_city / "p.csv"), truth, "humob2024").to_dict() == expected
    options = ["--prediction", str(fine_city / "p.csv"), "--reference", str(fine_city / "records.csv")]
    assert main(["score", *options, "--edition", "humob2024"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1]) == expected
    assert "200 x 200 cells of 0.25 km" in captured.err
    coarse = tmp_path_factory.mktemp("coarse")
    Description("coarse", "records.csv", Grid(), Calendar(), 60).write(coarse)
    truth.to_csv(coarse / "records.csv", index=False)
    with pytest.raises(ValueError, match=r"cells of 0.25 km, the reference of .* cells of 0.5 km"):
        score(fine_city / "p.csv", coarse / "records.csv", "humob2024")
    given = score(fine_city / "p.csv", coarse / "records.csv", "humob2024", grid=Grid(cell_km=0.25))
    assert given.to_dict() == expected
