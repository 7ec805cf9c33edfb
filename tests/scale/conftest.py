import pytest

from .fixtures import write_model


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp("portable"))
