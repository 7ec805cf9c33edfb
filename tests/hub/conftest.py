"""A Hub on this machine, which the client of the Hub takes for the real one."""

import pytest

from ..hub_server import HubServer


@pytest.fixture
def server(monkeypatch):
    with HubServer() as running:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", running.token)
        yield running
        running.shutdown()
