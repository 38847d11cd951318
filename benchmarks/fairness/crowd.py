"""A crowd waits, and one task comes: how long it waits beside the crowd, against how long it waits without."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.distributions import cumulated, percentile
from benchmarks.fairness.ground import (
    RUN_SECONDS,
    begun,
    body,
    clear,
    ground,
    new_tenant,
    poisson,
    submissions,
    submit,
    submit_at,
    until_recorded,
    waits,
)
from benchmarks.figures import Figure, Panel, within
from benchmarks.stand import RUNS, run
from tests.acceptance.stack import Stack
from tests.servers import Servers

CROWD = 20_000
RATE = 15.0
"""Tasks a second of the one whose waits are measured: 3 of its slots on average."""
SECONDS = 12.0


@dataclass(frozen=True)
class Crowd:
    """Who floods which lane, and who is to wait no longer for it."""

    name: str
    title: str
    crowded_tier: str
    quiet_tier: str
    times: float
    slack: float
    aim: float


def free_flood(servers: Servers, logs: Path) -> list[Figure]:
    """The free lane is full, and enterprise goes on as before."""
    crowd = Crowd(
        "20,000 free tasks queued: enterprise p99 wait",
        "20,000 free tasks queued: waits of enterprise",
        "free",
        "enterprise",
        times=2,
        slack=0.05,
        aim=1.2,
    )
    return _measure(crowd, servers, logs)


def tenant_flood(servers: Servers, logs: Path) -> list[Figure]:
    """One tenant floods the lane that another tenant uses too."""
    crowd = Crowd(
        "one tenant floods its lane with 20,000: another's p99 wait",
        "A tenant floods its lane: another's waits there",
        "pro",
        "pro",
        times=3,
        slack=RUN_SECONDS,
        aim=1.5,
    )
    return _measure(crowd, servers, logs)


def _measure(crowd: Crowd, servers: Servers, logs: Path) -> list[Figure]:
    alone, beside = [], []
    everything: dict[str, list[float]] = {"alone": [], "beside them": []}
    with ground(servers, logs) as stack:
        run(_waits(stack, crowd.quiet_tier, 0))  # warm
        for number in range(1, RUNS + 1):
            without, with_crowd = run(_one(stack, crowd, number))
            alone.append(percentile(without, 99))
            beside.append(percentile(with_crowd, 99))
            everything["alone"] += without
            everything["beside them"] += with_crowd
    panel = Panel(
        crowd.title,
        "wait in ms",
        "% of tasks",
        {name: cumulated([wait * 1000 for wait in found]) for name, found in everything.items()},
        logarithmic=True,
    )
    return [
        within(crowd.name, beside, alone, times=crowd.times, slack=crowd.slack, aim=crowd.aim, panel=panel),
        Figure("…, beside them", "ms", tuple(wait * 1000 for wait in beside), better="less"),
        Figure("…, alone", "ms", tuple(wait * 1000 for wait in alone), better="less"),
    ]


async def _one(stack: Stack, crowd: Crowd, number: int) -> tuple[list[float], list[float]]:
    """Waits without the crowd, and the same arrivals with it."""
    without = await _waits(stack, crowd.quiet_tier, number)
    flooding = new_tenant(stack, crowd.crowded_tier)
    before = await submissions(stack)
    await submit(stack, [flooding] * CROWD, body())
    await until_recorded(stack, before + CROWD)
    with_crowd = await _waits(stack, crowd.quiet_tier, number)
    left = CROWD - (await begun(stack, {"crowd": flooding}))["crowd"]
    assert left > CROWD / 2, f"the crowd was gone while it was measured: {left} left"
    await clear(stack)
    return without, with_crowd


async def _waits(stack: Stack, tier: str, seed: int) -> list[float]:
    tasks = await submit_at(stack, new_tenant(stack, tier), poisson(RATE, SECONDS, seed), body())
    return await waits(stack, tasks)
