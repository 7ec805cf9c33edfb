"""`validate`: a right submission passes, and every kind of mistake is named with its first line."""

import gzip

import pandas as pd
import pytest

import stmoe_hf
from stmoe_hf.__main__ import main
from stmoe_hf.data.submission import read_table

from ..helpers import people, write_city


@pytest.fixture
def asked(tmp_path):
    write_city(tmp_path, masked=2)
    table = people(masked=2)
    return table[table["x"] == 999].assign(x=5, y=6)


def validate(folder, prediction, capsys, name="p.csv", data=None):
    path = folder / name
    if isinstance(prediction, pd.DataFrame):
        prediction = prediction.to_csv(index=False)
    content = prediction.encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    options = ["--prediction", str(path), "--data", str(data or folder), "--city", "B", "--edition", "humob2024"]
    code = main(["validate", *options])
    return code, capsys.readouterr().out


@pytest.mark.parametrize("name", ["p.csv", "p.csv.gz"])
def test_a_right_submission_is_valid_in_any_order(tmp_path, asked, capsys, name):
    code, out = validate(tmp_path, asked.sample(frac=1, random_state=0), capsys, name)
    assert code == 0
    assert "is a valid submission" in out


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t[["uid", "d", "t", "y", "x"]], "line 1: the columns are 'uid,d,t,y,x'"),
        (lambda t: t.iloc[1:], "uid 10, day 60, slot"),
        (lambda t: t[t["uid"] != 11], "uid 11 is missing"),
        (lambda t: pd.concat([t, t[:1]]), "was predicted before"),
        (lambda t: pd.concat([t, t[:1].assign(uid=3)]), "uid 3 is not asked for"),
        (lambda t: pd.concat([t, t[:1].assign(d=59)]), "day 59, slot .* is not asked for"),
        (lambda t: pd.concat([t, t[:1].assign(d=80)]), "d is 80; the days are 0..74"),
        (lambda t: pd.concat([t, t[:1].assign(t=48)]), "t is 48; the slots are 0..47"),
        (lambda t: t.assign(x=[201, *t["x"][1:]]), "line 2: x is 201; the grid has 1..200"),
        (lambda t: t.assign(y=[0, *t["y"][1:]]), "line 2: y is 0; the grid has 1..200"),
        (lambda t: t.assign(x=999, y=999), "line 2: x 999, y 999 is masked"),
        (lambda t: t.assign(x=["a", *t["x"][1:]]), "line 2: x is 'a', which is no whole number"),
        (lambda t: t.assign(x=t["x"] + 0.5), "line 2: x is '5.5', which is no whole number"),
        (lambda t: t.to_csv(index=False) + "1,2,3\n", "3 values in place of 5"),
        (lambda t: t.assign(x=201).to_csv(index=False).replace("\n", "\n\n", 1), "line 3: x is 201"),
        (lambda t: "uid,d,t,x,y\n", "holds no record"),
    ],
)
def test_each_kind_of_mistake_is_named(tmp_path, asked, capsys, change, text):
    code, out = validate(tmp_path, change(asked), capsys)
    assert code == 1
    assert pd.Series(out.splitlines()).str.contains(text).any(), out


def test_a_city_without_masked_records_asks_for_the_last_days(tmp_path, capsys):
    folder = write_city(tmp_path / "truth")
    table = people()
    code, out = validate(tmp_path, table[table["d"] >= 60], capsys, data=folder)
    assert code == 0
    assert "since none is masked" in out


def test_a_table_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_table(tmp_path / "none.csv")
    (tmp_path / "p.csv").write_text("uid,d,t,x\n1,2,3,4\n")
    with pytest.raises(ValueError, match="it lacks y"):
        read_table(tmp_path / "p.csv")
    (tmp_path / "p.csv.gz").write_bytes(gzip.compress(b"uid,d,t,x,y\n" * 500)[:-9])
    with pytest.raises(ValueError, match="no whole gzip file"):
        read_table(tmp_path / "p.csv.gz")


def test_a_table_is_validated_like_its_file(tmp_path, asked):
    where = {"city": "B", "data_dir": tmp_path, "edition": "humob2024"}
    assert stmoe_hf.validate(asked, **where) == []
    for wrong in (asked.assign(x=201), asked.assign(x=5.5), asked.drop(columns="y"), asked[:0]):
        wrong.to_csv(tmp_path / "p.csv", index=False)
        problems = stmoe_hf.validate(wrong, **where)
        of_file = stmoe_hf.validate(tmp_path / "p.csv", **where)
        assert problems and list(map(str, problems)) == [str(problem).replace("'5.5'", "5.5") for problem in of_file]
    with pytest.raises(ValueError, match="say which city asks"):
        stmoe_hf.validate(asked)
