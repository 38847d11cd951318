"""A stream in which nothing happens, by a clock that jumps: how long its client hears nothing."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any, cast
from uuid import uuid4

import pytest

from common import streams as log
from common.redis import Client
from gateway.hub import Hub
from gateway.metrics import Metrics
from gateway.sse import PING, PREAMBLE
from gateway.streams import Streams
from gateway.tasks import Tasks
from tests.unit.agent_worker.virtual_time import in_virtual_time

PINGS = 20
LONGEST = 15.0


class Silent:
    """A log and a record that have nothing."""

    async def xrange(self, *_: Any, **__: Any) -> list[Any]:
        return []

    async def state(self, *_: Any) -> None:
        return None

    async def events(self, *_: Any) -> list[Any]:
        return []


async def silences(*, heard: bool, stirred: float | None = None) -> list[float]:
    """Seconds before each sign of life; `stirred` is how often the reader is woken for nothing."""
    clock, tenant, task = asyncio.get_running_loop().time, uuid4(), uuid4()
    hub = Hub(cast(Client, Silent()), Metrics())
    if heard:
        hub._subscribed.add(log.key(tenant, task))
    made = Streams(cast(Client, Silent()), hub, cast(Tasks, Silent()), Metrics())
    waking = asyncio.create_task(_stir(hub, stirred)) if stirred else None
    found: list[float] = []
    async with aclosing(made.frames(tenant, task)) as frames:
        assert await anext(frames) == PREAMBLE
        last = clock()
        while len(found) < PINGS:
            assert await anext(frames) == PING
            found.append(clock() - last)
            last = clock()
    if waking is not None:
        waking.cancel()
    return found


async def _stir(hub: Hub, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        for subscription in hub._all():
            subscription.wake()


@pytest.mark.parametrize("heard", [True, False], ids=["heard", "while Redis is away"])
@pytest.mark.parametrize("stirred", [None, 1.0, 11.0])
def test_no_silence_is_longer_than_a_proxy_bears(heard: bool, stirred: float | None) -> None:
    found = in_virtual_time(silences(heard=heard, stirred=stirred))
    assert max(found) <= LONGEST + 1e-6
    assert min(found) >= LONGEST / 2, "a sign of life is not to cost more than it is worth"
