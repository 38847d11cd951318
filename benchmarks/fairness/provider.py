"""The provider takes a fifth of what is asked of it: how long an enterprise task's model call waits for its turn."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import httpx2

from benchmarks.distributions import cumulated, percentile
from benchmarks.fairness.ground import RUN_SECONDS, clear, ground, new_tenant, poisson, submit_at
from benchmarks.figures import Figure, Panel, within
from benchmarks.stand import RUNS, run
from tests.acceptance.stack import TIERS, Stack
from tests.servers import Servers
from tests.stage import eventually

MODEL = "claude-sonnet-5-5"
RATES = dict(zip(TIERS, (4.0, 12.0, 24.0), strict=True))
"""Calls a second that each tier asks for."""
LIMIT = int(sum(RATES.values()) / 5 * 60)
"""Calls a minute that the provider takes: a fifth of all, and twice what enterprise needs."""
SECONDS = 15.0
BODY = json.dumps({"input": f"Wait. [[sim ttft={RUN_SECONDS:g} tokens=1]]", "model": MODEL}).encode()
_DEADLINE = 150


def measure(servers: Servers, logs: Path) -> list[Figure]:
    """First without a limit and then with it: what a worker has learned of a limit it does not forget at once."""
    found: dict[bool, list[list[float]]] = {False: [], True: []}
    failed = []
    with ground(servers, logs) as stack:
        for limited in found:
            for number in range(RUNS):
                waited, without = run(_waits(stack, number, limited=limited))
                found[limited].append(waited)
                if limited:
                    failed.append(without * 100)
    free, bound = ([percentile(each, 99) for each in found[limited]] for limited in (False, True))
    panel = Panel(
        "Provider takes 20 % of the demand",
        "wait of enterprise calls in ms",
        "% of calls",
        {
            name: cumulated([wait * 1000 for each in found[limited] for wait in each])
            for name, limited in (("unlimited", False), ("limited", True))
        },
        logarithmic=True,
    )
    name = "provider limited to 20 % of demand: enterprise model calls' p99 wait"
    return [
        within(name, bound, free, times=2, slack=0.1, aim=1.2, panel=panel),
        Figure("…, limited", "ms", tuple(wait * 1000 for wait in bound), better="less"),
        Figure("…, unlimited", "ms", tuple(wait * 1000 for wait in free), better="less"),
        Figure("…, enterprise runs that failed for want of a call", "%", tuple(failed), better="less", must=0, aim=0),
    ]


async def _waits(stack: Stack, seed: int, *, limited: bool) -> tuple[list[float], float]:
    """Seconds from the beginning of an enterprise run to the call that was answered; the part of runs that had none."""
    async with httpx2.AsyncClient(base_url=stack.simulator, timeout=30) as simulator:
        (await simulator.put("/control/defaults", json={"rpm": LIMIT} if limited else {})).raise_for_status()
        if limited:
            await _use_up(simulator)
        tasks = await _submitted(stack, seed)
        found = await _calls(stack, tasks)
        # Who still waits for a call gets it, and the lanes are empty for the next.
        (await simulator.put("/control/defaults", json={})).raise_for_status()
    await clear(stack)
    return found, 1 - len(found) / len(tasks)


async def _use_up(simulator: httpx2.AsyncClient) -> None:
    """A minute's calls may come at once, and here they have: what is left is what comes in again."""
    call = {"model": MODEL, "max_tokens": 1, "messages": [{"role": "user", "content": "[[sim tokens=1]]"}]}

    async def until_refused() -> None:
        while (await simulator.post("/v1/messages", json=call, headers={"x-api-key": "measured"})).status_code == 200:
            pass

    async with asyncio.TaskGroup() as callers:
        for _ in range(8):
            callers.create_task(until_refused())


async def _submitted(stack: Stack, seed: int) -> Sequence[UUID]:
    """All tiers ask at once; the tasks of enterprise."""
    async with asyncio.TaskGroup() as asking:
        tasks = {
            tier: asking.create_task(
                submit_at(stack, new_tenant(stack, tier), poisson(rate, SECONDS, seed + place), BODY)
            )
            for place, (tier, rate) in enumerate(RATES.items())
        }
    return tasks["enterprise"].result()


async def _calls(stack: Stack, tasks: Sequence[UUID]) -> list[float]:
    """The waits of those runs that had an answer, by the simulator's own clock and audit."""

    async def all_ended() -> bool:
        [found] = await stack.rows(
            "SELECT count(*) AS n FROM runtime.runs WHERE task_id = ANY($1) AND finished_at IS NOT NULL", tasks
        )
        [billed] = await stack.rows(
            "SELECT count(DISTINCT task_id) AS n FROM billing.usage WHERE task_id = ANY($1)", tasks
        )
        return bool(found["n"] == billed["n"] == len(tasks))

    await eventually(all_ended, _DEADLINE)
    rows = await stack.rows(
        "SELECT extract(epoch FROM r.started_at)::float8 AS started_at, u.provider_request_id AS call"
        " FROM runtime.runs r JOIN billing.usage u USING (task_id) WHERE r.task_id = ANY($1)",
        tasks,
    )
    answered = {call["request_id"]: call["started_at"] for call in await stack.audited_calls() if call["status"] == 200}
    return [max(0.0, answered[row["call"]] - row["started_at"]) for row in rows if row["call"] in answered]
