"""The provider limiter: what it costs where there is no limit, and what a free flood does to enterprise calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import quantiles
from uuid import uuid4

from agent_worker.limiter.provider_limits import CallLimit, ProviderLimits
from agent_worker.limiter.script import key_of
from agent_worker.providers.base import CallMeter
from benchmarks.figures import Figure
from benchmarks.stand import RUNS, run
from common import redis
from common.catalogue import Agent, Catalogue, Model, Price, Tier
from common.contracts.usage import Usage
from common.lifecycle import stop
from common.pipelining import Pipelined
from tests.servers import Servers

CALLS = 20_000
WORKERS = 2
LIMIT = 1_200
"""Requests a minute: twenty a second."""
DEMAND = 100
"""Calls a second, of which the provider serves a fifth."""
ENTERPRISE = 10
"""Every so many-th call is enterprise's."""
SECONDS = 6.0
TIERS = tuple(Tier(name=name, weight=1) for name in ("enterprise", "pro", "free"))


def measure(servers: Servers, _: Path) -> list[Figure]:
    """Microseconds of a call's part in the limiter; milliseconds that enterprise waits, at the 99th percentile."""
    url = servers.redis_state_url
    idle = [run(_idle(url)) for _ in range(RUNS)]
    limited = [run(_flooded(url)) for _ in range(RUNS)]
    return [
        Figure("limiter, a call of a model without limits", "µs", tuple(idle), "less", must=20, aim=5),
        Figure(
            "provider at 20 % of demand: enterprise p99 wait", "ms", tuple(p99 for p99, _ in limited), "less", must=100
        ),
        Figure("the same flood: calls that were let through", "/s", tuple(rate for _, rate in limited)),
    ]


@asynccontextmanager
async def _processes(url: str, **limits: int) -> AsyncIterator[list[tuple[ProviderLimits, Model]]]:
    """As many as there are workers, each with a connection of its own, over one bucket."""
    name, price = f"bench-{uuid4().hex[:8]}", Price(provider="scripted", model="none")
    model = Model.model_validate(
        {
            "name": name,
            "provider": "scripted",
            "api": "scripted",
            "window": 200_000,
            "max_output": 4_096,
            "class": "simple",
            "price": price,
            **limits,
        }
    )
    agent = Agent(name="default", version=1, system="", model=name)
    catalogue = Catalogue(tiers=TIERS, models=(model,), agents=(agent,))
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(WORKERS):
            client = await stack.enter_async_context(redis.client(url, timeout=2.0, connections=2))
            limits_ = ProviderLimits(Pipelined(client, 2.0), catalogue, WORKERS)
            stack.push_async_callback(client.delete, key_of(model.provider, name))
            stack.push_async_callback(stop, asyncio.create_task(limits_.run()))
            made.append((limits_, model))
        yield made


async def _idle(url: str) -> float:
    async with _processes(url) as ((limits, model), *_):
        limit, meter = limits.of("free", model), CallMeter(usage=Usage(output_tokens=1))
        began = time.perf_counter()
        for _ in range(CALLS):
            limit.settle(await limit.reserve(1_000, _nobody), meter)
        return (time.perf_counter() - began) / CALLS * 1e6


async def _flooded(url: str) -> tuple[float, float]:
    async with _processes(url, requests_per_minute=LIMIT) as made:
        calls: set[asyncio.Task[None]] = set()
        waits: dict[str, list[float]] = {"enterprise": [], "free": []}

        async def call(limit: CallLimit, tier: str) -> None:
            asked = time.perf_counter()
            reservation = await limit.reserve(1_000, _nobody)
            waits[tier].append(time.perf_counter() - asked)
            limit.settle(reservation, CallMeter(usage=Usage(output_tokens=1_000)))

        def start(number: int, tier: str) -> None:
            limits, model = made[number % WORKERS]
            calls.add(asyncio.create_task(call(limits.of(tier, model), tier)))

        for number in range(LIMIT):  # the flood has been there for a while: what free may have is gone
            start(number, "free")
        await asyncio.sleep(2.0)
        before = len(waits["free"])
        began = time.perf_counter()
        for number in range(int(DEMAND * SECONDS)):
            start(number, "enterprise" if number % ENTERPRISE == 0 else "free")
            await asyncio.sleep(max(0.0, began + (number + 1) / DEMAND - time.perf_counter()))
        through = len(waits["enterprise"]) + len(waits["free"]) - before
        rate = through / (time.perf_counter() - began)
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        return quantiles(waits["enterprise"], n=100, method="inclusive")[98] * 1_000, rate


def _nobody() -> None:
    """Nobody is told of waits."""
