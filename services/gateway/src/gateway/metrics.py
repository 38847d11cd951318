"""What operators see of a gateway in Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """One process's numbers, in a registry of their own: nothing is registered at import."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.requests = Counter(
            "laneway_http_requests", "Requests answered", ("route", "status"), registry=self.registry
        )
        self.admissions = Counter(
            "laneway_admissions", "Submissions by outcome", ("tier", "outcome"), registry=self.registry
        )
        self.publishing = Histogram(
            "laneway_publish_seconds", "Publish until the broker's confirm", registry=self.registry, buckets=_FAST
        )
        self.streams = Gauge("laneway_streams_open", "Event streams open now", registry=self.registry)
        self.events = Counter("laneway_stream_events", "Events sent to clients", registry=self.registry)
        self.gaps = Counter("laneway_stream_gaps", "Gaps told to clients", registry=self.registry)
        self.reconnects = Counter(
            "laneway_stream_resubscriptions", "Times the live connection to Redis was made", registry=self.registry
        )
