"""How late the event loop is: by as much comes every answer, lease and heartbeat of its process."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common.lifecycle import stop

LOOK_SECONDS = 0.5
_LOOKS = 3


class LoopLag(Collector):
    """Measured twice a second. `run` is its background task."""

    def __init__(self) -> None:
        self._late = deque([0.0] * _LOOKS, maxlen=_LOOKS)

    @property
    def seconds(self) -> float:
        """What the last three looks have in common: a single pause, as of a machine that stood still, is no lag."""
        return min(self._late)

    def note(self, late: float) -> None:
        """One look came so many seconds after its time."""
        self._late.append(max(0.0, late))

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: several services of one process, as in tests, each have their own."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """For Prometheus."""
        described = "By how many seconds the event loop is late, look after look"
        yield GaugeMetricFamily("laneway_event_loop_lag_seconds", described, self.seconds)

    async def run(self) -> None:
        """Look until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + LOOK_SECONDS
            await asyncio.sleep(LOOK_SECONDS)
            self.note(clock() - due)


@asynccontextmanager
async def measuring_lag(registry: CollectorRegistry) -> AsyncIterator[LoopLag]:
    """Measure, and show it, while the context lasts."""
    lag = LoopLag()
    registry.register(lag)
    looking = asyncio.create_task(lag.run(), name="loop-lag")
    try:
        yield lag
    finally:
        registry.unregister(lag)
        await stop(looking)
