"""Fixtures that every test may use."""

from pathlib import Path

import pandas as pd
import pytest

from stmoe_hf.hub.publish import export
from stmoe_hf.training.command_line import parse_arguments
from stmoe_hf.training.run import run

from .helpers import NO_CELL_HEAD, REPOSITORY, ROOT, SIZES, people, write_city


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real users and official scores beside the project; tests that need it skip where it is missing."""
    folder = ROOT.resolve().parent / "shared"
    if not (folder / "humob").is_dir():
        pytest.skip("the folder of real users, published predictions and weights beside the checkout is missing")
    return folder


@pytest.fixture(scope="session")
def records() -> pd.DataFrame:
    """Made-up people, of whom two have masked records."""
    return people(masked=2)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The folder of a finished run, with a city embedding."""
    folder = tmp_path_factory.mktemp("hub")
    data = write_city(folder / "data", masked=2)
    options = ["--city", "B", "--data_dir", str(data), "--cache_dir", str(folder / "cache"), *SIZES, *NO_CELL_HEAD]
    options += ["--output_dir", str(folder / "run"), "--num_train_epochs", "2", "--eval_fraction", "0.4"]
    run(*parse_arguments([*options, "--city_embedding", "true"]))
    return folder / "run"


@pytest.fixture(scope="session")
def exported(finished, tmp_path_factory) -> Path:
    """What would be published of that run."""
    return export(finished, tmp_path_factory.mktemp("export") / "model", REPOSITORY)
