"""What operators see of a gateway in Prometheus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

_LANE_GAUGES = {
    "queued": "Tasks that nobody has begun",
    "running": "Runs that go on",
    "parked": "Runs that are parked, whatever they wait for",
    "parked_ready": "Those of them that were woken and wait for a worker",
    "work": "Queued, running and parked_ready: what to scale workers by",
    "oldest_seconds": "Age of the oldest of this work, without the time for which it was parked",
    "workers": "Workers that serve the lane",
    "slots": "Slots of those workers",
    "slots_free": "Tasks of the lane that could begin now",
    "ready": "Messages in the lane's queue, as the broker tells",
    "consumers": "Consumers of the lane's queue, as the broker tells",
    "paused": "1 where an operator has stopped the lane's tier, or everything",
    "unserved": "1 where the lane has work and nobody serves it",
}
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
        self.batches = Counter(
            "laneway_batches", "Batches by outcome of admission", ("outcome",), registry=self.registry
        )
        self.publishing = Histogram(
            "laneway_publish_seconds", "Publish until the broker's confirm", registry=self.registry, buckets=_FAST
        )
        self.streams = Gauge("laneway_streams_open", "Event streams open now", registry=self.registry)
        self.events = Counter("laneway_stream_events", "Events sent to clients", registry=self.registry)
        self.gaps = Counter("laneway_stream_gaps", "Gaps told to clients", registry=self.registry)
        self.lanes = {
            name: Gauge(f"laneway_lane_{name}", help_, ("lane",), registry=self.registry)
            for name, help_ in _LANE_GAUGES.items()
        }
        self.reconnects = Counter(
            "laneway_stream_resubscriptions", "Times the live connection to Redis was made", registry=self.registry
        )

    def show_lanes(self, lanes: Sequence[Mapping[str, Any]]) -> None:
        """Each lane's numbers, instead of those before; none where another process shows them, or nobody knows."""
        for name, gauge in self.lanes.items():
            gauge.clear()
            for numbers in lanes:
                if numbers[name] is not None:
                    gauge.labels(numbers["lane"]).set(float(numbers[name]))
