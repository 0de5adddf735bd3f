"""A service's metrics for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sgt_modules.kinds import FREE, KINDS, NONE

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_TABLE_KINDS = {*KINDS, NONE, FREE}


class Metrics:
    """Requests by route and status, their seconds, how many are under way, and supplements by kind.

    Kinds that the generator invents are counted as `other`, so that it cannot create new time series.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("sgt_requests", "Requests.", ["route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "sgt_request_seconds", "Seconds until an answer's end.", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.under_way = Gauge("sgt_requests_under_way", "Requests under way.", registry=self.registry)
        self._supplements = Counter("sgt_supplements", "Supplements.", ["kind"], registry=self.registry)
        self.unwritten = Counter(
            "sgt_supplements_failed", "Chats without a supplement because the generator failed.", registry=self.registry
        )

    def count_supplement(self, kind: str) -> None:
        """Count a supplement."""
        self._supplements.labels(kind if kind in _TABLE_KINDS else "other").inc()

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)
