import numpy as np
import pandas as pd
import pytest

from stmoe_hf.__main__ import main
from stmoe_hf.data.city import open_city
from stmoe_hf.data.errors import DataError
from stmoe_hf.data.statistics import TARGETS, statistics
from stmoe_hf.data.synthetic import generate, synthesize


def table(city="A", users=300, **options):
    return pd.concat([pd.DataFrame(part) for part in generate(city, users, **options)], ignore_index=True)


def test_the_statistics_are_those_of_the_real_cities():
    found = statistics(table())
    assert set(found) == set(TARGETS)
    outside = {name: found[name] for name, t in TARGETS.items() if not t.low <= found[name] <= t.high}
    assert not outside


def test_the_statistics_are_what_they_say():
    """Two people: one stays, one steps back and forth and has a new cell in the end."""
    records = pd.DataFrame(
        [(0, d, t, 5, 5) for d in (0, 60) for t in (4, 5)]
        + [(1, 0, 15, 5, 5), (1, 0, 16, 6, 5), (1, 0, 18, 9, 9), (1, 60, 15, 5, 5), (1, 60, 16, 20, 5)],
        columns=["uid", "d", "t", "x", "y"],
    )
    found = statistics(records)
    assert (found["records_a_user"], found["fewest_records"], found["most_records"]) == (4.5, 4, 5)
    assert found["missing"] == pytest.approx(1 - 9 / (2 * 2 * 48))
    assert (found["same_cell"], found["within_one_cell"]) == (2 / 4, 3 / 4)
    assert found["distinct_cells"] == 2.5
    assert found["revisits"] == 3 / 4


def test_people_keep_the_rhythm_of_the_week():
    records = table(users=100)
    day = records[records["t"].between(20, 33)]
    place = day.groupby(["uid", day["d"] % 7 == 3])[["x", "y"]].median()
    home = records[records["t"] < 12].groupby("uid")[["x", "y"]].median()
    wednesday = np.hypot(*(place.xs(True, level=1) - home).to_numpy().T)
    sunday = records[(records["d"] % 7 == 0) & records["t"].between(20, 33)].groupby("uid")[["x", "y"]].median()
    assert np.median(wednesday) > 2 * np.median(np.hypot(*(sunday - home).to_numpy().T))


def test_a_person_depends_on_city_seed_and_uid_alone():
    few, many = table(users=20), table(users=700)
    pd.testing.assert_frame_equal(few, many[many["uid"] < 20])
    assert not table(users=20, seed=1).equals(few)
    assert not table("B", users=20).equals(few)


def test_masked_people_are_the_last_ones_from_the_cut_day_on(tmp_path):
    path = synthesize("B", 10, seed=3, output_dir=tmp_path, masked=4)
    assert path.name == "cityB_challengedata.csv.gz"
    records, truth = pd.read_csv(path), table("B", users=10, seed=3)
    hidden = (truth["uid"] >= 6) & (truth["d"] >= 60)
    assert (records.loc[hidden, ["x", "y"]] == 999).all(axis=None)
    pd.testing.assert_frame_equal(records[~hidden], truth[~hidden].astype("int64"))
    city = open_city("B", tmp_path, cache_dir=tmp_path / "cache")
    assert city.num_masked == hidden.sum()
    assert (city.masked_counts > 0).sum() == 4


def test_the_days_and_uids_of_2025_begin_at_one(tmp_path):
    path = synthesize("C", 5, output_dir=tmp_path, edition="humob2025", masked=1)
    records = pd.read_csv(path)
    assert path.name == "city_C_challengedata.csv.gz"
    assert records["uid"].unique().tolist() == [1, 2, 3, 4, 5]
    assert records["d"].min() == 1
    assert records["d"].max() == 75
    assert set(records.loc[records["x"] == 999, "d"]) <= set(range(61, 76))
    assert 450 < len(records) / 5 < 800


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"city": "X", "users": 5}, "its cities are A, B, C, D"),
        ({"city": "A", "users": 0}, "cannot be generated"),
        ({"city": "A", "users": 5, "masked": 6}, "cannot be generated"),
        ({"city": "A", "users": 5, "edition": "2024"}, "there is no edition"),
    ],
)
def test_what_cannot_be_generated_is_refused(tmp_path, options, text):
    with pytest.raises(DataError, match=text):
        synthesize(**options, output_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path, capsys):
    assert main(["synthesize", "--city", "A", "--users", "3", "--output_dir", str(tmp_path)]) == 0
    assert "cityA_groundtruthdata.csv.gz" in capsys.readouterr().out
