import pytest
from fastapi.testclient import TestClient

from amodal.serve import app
from tests.serve.runs import served


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return served(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def client(model):
    with TestClient(app(model)) as client:
        yield client
