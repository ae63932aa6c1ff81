"""Metrics of a server for Prometheus."""

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
    """Counters in a registry of their own, so that a process may hold many applications."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "amodal_requests", "Requests answered", ["route", "method", "status"], registry=registry
        )
        self.seconds = Histogram(
            "amodal_request_seconds",
            "From the request to its answer",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self.working = Gauge(
            "amodal_requests_at_work", "Requests that are being worked on", registry=registry
        )
        self.batches = Histogram(
            "amodal_batch_records",
            "Records in one run of the network",
            buckets=RECORDS,
            registry=registry,
        )
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def observe(self, scope: Scope, status: int, seconds: float) -> None:
        """Count a request that was answered with `status` (0: not at all) after `seconds`."""
        # Labels are the routes' own: the paths that clients make up would grow without end.
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.requests.labels(route, method, str(status or 499)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
