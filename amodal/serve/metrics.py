"""What Prometheus may know of a server."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from starlette.types import Scope

METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
RECORDS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """One registry for each application, so that a process may hold several."""

    def __init__(self):
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = Counter(
            "amodal_requests", "Requests answered", ["route", "method", "status"], **own
        )
        self.seconds = Histogram(
            "amodal_request_seconds",
            "From the request to its answer",
            ["route"],
            buckets=SECONDS,
            **own,
        )
        self.working = Gauge("amodal_requests_at_work", "Requests that are being worked on", **own)
        self.batches = Histogram(
            "amodal_batch_records", "Records in one run of the network", buckets=RECORDS, **own
        )
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def asked(self, scope: Scope, status: int, seconds: float) -> None:
        """Paths and methods are named as the routes name them: what clients make up would grow
        without end."""
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.requests.labels(route, method, str(status or 499)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)
