"""A city as a dataset for the Hub."""

import datasets
import numpy as np
import pytest
from huggingface_hub import DatasetCard

from stmoe_hf.__main__ import main
from stmoe_hf.data.city import open_city
from stmoe_hf.data.editions import get_edition
from stmoe_hf.hub import dataset as export
from stmoe_hf.hub.dataset import export_city

from ..helpers import people, write_city


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    folder = write_city(tmp_path_factory.mktemp("data"), masked=2)
    return open_city("B", folder, cache_dir=folder / "cache")


def test_the_folder_loads_as_a_dataset_and_as_a_city(city, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "USERS_A_FILE", 5)
    monkeypatch.setattr(export, "USERS_A_GROUP", 2)
    folder = export_city(city, tmp_path / "export")
    parts = sorted(path.name for path in (folder / "data").iterdir())
    assert parts == [f"train-0000{n}-of-00003.parquet" for n in range(3)]
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "hub"))
    same = datasets.load_dataset(
        "parquet", data_files=str(folder / "data" / "*.parquet"), split="train", cache_dir=str(tmp_path / "hub")
    )
    for table in (loaded, same):
        assert table.to_pandas().astype("int64").equals(people(masked=2))
    again = open_city(path=folder, cache_dir=tmp_path / "cache")
    assert (again.name, again.edition.name, again.edition.cut_day) == ("B", "humob2024", 60)
    assert (again.grid, again.calendar) == (city.grid, city.calendar)
    assert np.array_equal(again.trajectory(3).cell, city.trajectory(3).cell)


def test_the_card_says_edition_columns_licence_and_privacy(city, tmp_path):
    text = (export_city(city, tmp_path / "B") / "README.md").read_text()
    card = DatasetCard(text)
    assert card.data.license == "unknown"
    assert card.data.size_categories == ["1K<n<10K"]
    assert "licence of these records is not known" in text
    for said in ("12 people", f"{city.num_records:,} records", "humob2024", "200 x 200 cells of 500 m", "x = y = 999"):
        assert said in text
    assert "Do not try to find out who these people are" in " ".join(text.split())
    old = city.select(np.arange(3))
    old.edition = get_edition("humob2023")
    assert DatasetCard((export_city(old, tmp_path / "old") / "README.md").read_text()).data.license == "cc-by-4.0"


def test_a_folder_that_holds_something_is_not_written_over(city, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        export_city(city, tmp_path)
    with pytest.raises(FileExistsError, match=r"note.txt is a file; give the name of a new folder"):
        export_city(city, tmp_path / "note.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_the_command(tmp_path, capsys):
    folder = write_city(tmp_path / "data")
    options = ["--city", "B", "--data_dir", str(folder), "--cache_dir", str(tmp_path / "cache")]
    options += ["--license", "cc-by-nc-4.0", "--title", "My city", "--output_dir", str(tmp_path / "out")]
    assert main(["export", *options]) == 0
    assert "hf upload NAME" in capsys.readouterr().out
    text = (tmp_path / "out" / "README.md").read_text()
    assert "# My city" in text and "license: cc-by-nc-4.0" in text
    assert main(["export", *options]) == 1
    assert "not empty" in capsys.readouterr().err
