"""Fixtures that every test may use."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real users and official scores beside the project; tests that need it skip where it is missing."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "humob").is_dir():
        pytest.skip("the folder of real users, published predictions and weights beside the checkout is missing")
    return folder
