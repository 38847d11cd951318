"""Only the free tier has work: whether it is lent every slot that nobody else needs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from statistics import fmean
from time import perf_counter

import httpx2

from benchmarks.fairness.ground import SLOTS, begun, body, clear, ground, held, new_tenant, submit
from benchmarks.figures import Figure, Panel
from benchmarks.stand import RUNS, run
from tests.acceptance.stack import Stack
from tests.servers import Servers

QUEUED = 1500
SECONDS = 10.0
LOOK_SECONDS = 0.043
"""Between looks; no part of a run's length, so that looks and runs do not fall into step."""


def measure(servers: Servers, logs: Path) -> list[Figure]:
    """Slots in use by the worker's own metric, looked at some 20 times a second."""
    found, looks = [], []
    with ground(servers, logs) as stack:
        for _ in range(RUNS):
            looks = run(_in_use(stack))
            found.append(fmean(share for _, share in looks))
    panel = Panel("Only free has work: slots in use", "seconds", f"% of {SLOTS} slots", {"free": looks[::4]})
    return [Figure("only free has work: slots in use", "%", tuple(found), must=95, aim=99, panel=panel)]


async def _in_use(stack: Stack) -> list[tuple[float, float]]:
    """Seconds, and the percentage of slots that were in use then."""
    tenant = new_tenant(stack, "free")
    await submit(stack, [tenant] * QUEUED, body())
    looks: list[tuple[float, float]] = []
    async with httpx2.AsyncClient(timeout=10) as client:
        began = perf_counter()
        while (now := perf_counter() - began) < SECONDS:
            looks.append((now, await held(client, stack) / SLOTS * 100))
            await asyncio.sleep(LOOK_SECONDS)
    left = QUEUED - (await begun(stack, {"free": tenant}))["free"]
    assert left > SLOTS, f"the lane ran dry while it was measured: {left} left"
    await clear(stack)
    return looks
