"""Two tenants of a lane, one of which asks for ten times as much: what the smaller one gets of the lane.

Once with all tasks waiting before the first is run, and once while both go on submitting more than the lane can take.
"""

from __future__ import annotations

import asyncio
from itertools import accumulate
from pathlib import Path

from benchmarks.distributions import shares
from benchmarks.fairness.ground import (
    WORKER,
    Tenant,
    begun,
    body,
    clear,
    ended_between,
    ground,
    new_tenant,
    submit,
    submit_at,
)
from benchmarks.figures import Figure, Panel
from benchmarks.stand import RUNS, run
from tests.acceptance.stack import Stack
from tests.servers import Servers
from tests.stage import eventually

TIER = "pro"
SMALL, LARGE = "smaller", "larger"
DEMAND = {SMALL: 300, LARGE: 3000}
SECONDS = 8.0
"""Of watching, while both go on submitting."""
SLOW_RUN_SECONDS = 0.5
"""While both go on submitting: slots are then scarce at a rate that the machine takes in with ease."""
RATES = {SMALL: 40.0, LARGE: 400.0}
"""Tasks a second. The smaller demand alone is as much as the lane can take: 20 slots for 0.5 s."""
_SETTLED = 50
"""Runs until a share means something."""
_DEADLINE = 60


def measure(servers: Servers, logs: Path) -> list[Figure]:
    """The smaller one's share for as long as it has a backlog; and in the second case the share of who gets less."""
    queued, lowest, arriving = [], [], []
    order: list[str] = []
    with ground(servers, logs) as stack:
        for _ in range(RUNS):
            order = run(_all_queued(stack))
            queued.append(order.count(SMALL) / len(order) * 100)
            lowest.append(min(share for _, share in _share_so_far(order)))
        for _ in range(RUNS):
            arriving.append(shares(run(_still_coming(stack)))[SMALL] * 100)
    panel = Panel(
        "Demand of 10 : 1, both backlogged: the smaller one",
        "runs begun",
        "% of the runs so far",
        {"its share": _share_so_far(order), "even": [(float(_SETTLED), 50.0), (float(len(order)), 50.0)]},
    )
    name = "tenants with 10 : 1 demand, both backlogged: share of the smaller one"
    return [
        Figure(name, "%", tuple(queued), must=40, aim=50, panel=panel),
        Figure("…, at its lowest", "%", tuple(lowest)),
        Figure("…, while both still submit more than the lane takes", "%", tuple(arriving)),
        Figure("…, share of the one that then gets less", "%", tuple(min(share, 100 - share) for share in arriving)),
    ]


async def _all_queued(stack: Stack) -> list[str]:
    """Whose each run was, in the order in which they began, until the smaller one had no more to begin.

    The worker comes when all is submitted.
    """
    stack.terminate(WORKER)
    tenants = _tenants(stack)
    await submit(stack, [tenants[SMALL], *[tenants[LARGE]] * 10] * DEMAND[SMALL], body())
    stack.start(WORKER)
    stack.until_ready()

    async def smaller_is_served() -> bool:
        return (await begun(stack, tenants))[SMALL] == DEMAND[SMALL]

    await eventually(smaller_is_served, _DEADLINE)
    rows = await stack.rows(
        "SELECT tenant_id FROM runtime.runs WHERE tenant_id = ANY($1) ORDER BY started_at",
        [tenant.id for tenant in tenants.values()],
    )
    await clear(stack)
    order = [SMALL if row["tenant_id"] == tenants[SMALL].id else LARGE for row in rows]
    last = len(order) - order[::-1].index(SMALL)
    assert order[:last].count(LARGE) < DEMAND[LARGE], "the larger one was done before the end"
    return order[:last]


def _share_so_far(order: list[str]) -> list[tuple[float, float]]:
    """How many had begun, and the smaller one's percentage of them."""
    counted = accumulate(name == SMALL for name in order)
    return [(float(n), count / n * 100) for n, count in enumerate(counted, 1) if n >= _SETTLED and n % 10 == 0]


async def _still_coming(stack: Stack) -> dict[str, int]:
    """Evenly spaced submissions of both, watched once the lane has filled."""
    tenants, filling = _tenants(stack), 2.0
    async with asyncio.TaskGroup() as submitting:
        for name, tenant in tenants.items():
            times = [place / RATES[name] for place in range(int(RATES[name] * (filling + SECONDS)))]
            submitting.create_task(submit_at(stack, tenant, times, body(SLOW_RUN_SECONDS)))
        await asyncio.sleep(filling)
        counts, _ = await ended_between(stack, tenants, SECONDS)
    await clear(stack)
    return counts


def _tenants(stack: Stack) -> dict[str, Tenant]:
    return {name: new_tenant(stack, TIER) for name in (SMALL, LARGE)}
