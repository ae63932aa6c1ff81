"""A stand-in of the Hub for the tests of this folder."""

import pytest

from tests.export.hub_server import hub_server


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub, and this process as if HF_ENDPOINT and HF_HUB_CACHE had been set before it began."""
    from huggingface_hub import constants

    with hub_server() as server:
        files = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
        yield server
