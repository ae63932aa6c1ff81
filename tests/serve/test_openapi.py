"""The server against its own OpenAPI (schemathesis): what it says of itself is true, also for
requests that are wrong in one place."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from amodal.serve import Limits, app

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.unsupported_method,
]
"""Not positive_data_acceptance: what is base64 need not be a picture, and a label is only known to
the index."""

ROUTES = (
    "POST /embed",
    "POST /search",
    "POST /predict",
    "GET /records",
    "GET /records/{key}",
    "GET /model",
    "GET /health",
    "GET /metrics",
)
NOTHING_TO_GET_WRONG = ("GET /records/{key}", "GET /model", "GET /health", "GET /metrics")
EXAMPLES = 20


@pytest.fixture(scope="module")
def described(model):
    # more records than are read at once are refused as too large, which is no default of the check
    refusals = ["400", "401", "403", "404", "406", "413", "422", "428", "5xx"]
    config = {"checks": {"negative_data_rejection": {"expected-statuses": refusals}}}
    return schemathesis.openapi.from_asgi(
        "/openapi.json",
        app(model, limits=Limits(seconds=60)),
        config=schemathesis.Config.from_dict(config),
    )


@pytest.mark.parametrize("mode", GenerationMode, ids=lambda mode: mode.value)
@pytest.mark.parametrize("name", ROUTES)
def test_it_keeps_its_word(described, name, mode):
    verb, path = name.split()
    operation = described[path][verb]
    if mode is GenerationMode.NEGATIVE and name in NOTHING_TO_GET_WRONG:
        return

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def tried(case):
        case.call_and_validate(checks=CHECKS)

    tried()


def test_every_route_is_described(described):
    documented = {
        f"{route.ok().method.upper()} {route.ok().path}" for route in described.get_all_operations()
    }
    assert documented == set(ROUTES)
