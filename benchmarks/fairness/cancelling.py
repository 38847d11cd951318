"""A running task is cancelled: how long its provider still sends tokens, each of which is paid for."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from time import time
from uuid import UUID

from benchmarks.distributions import cumulated, percentile
from benchmarks.fairness.ground import SLOTS, Tenant, ground, new_tenant, submit
from benchmarks.figures import Figure, Panel
from benchmarks.load import connected, head
from benchmarks.stand import RUNS, run
from tests.acceptance.stack import Stack
from tests.servers import Servers
from tests.stage import eventually

WAVES = 6
"""Of as many tasks as there are slots: 120 cancels a run."""
TOKENS_PER_SECOND = 100
SPEAKING = json.dumps({"input": f"Speak. [[sim tokens=4000 tps={TOKENS_PER_SECOND}]]"}).encode()
_DEADLINE = 60


def measure(servers: Servers, logs: Path) -> list[Figure]:
    """From the request's first byte to the last token that the simulator sent, by its own audit."""
    tails, everything = [], []
    with ground(servers, logs) as stack:
        for number in range(RUNS):
            source = random.Random(number)
            found = [seconds * 1000 for _ in range(WAVES) for seconds in run(_wave(stack, source))]
            tails.append(percentile(found, 99))
            everything += found
    panel = Panel("Cancel: request to last token bought", "ms", "% of cancels", {"cancelled": cumulated(everything)})
    name = "cancel of a running task: request to last token bought, p99"
    return [Figure(name, "ms", tuple(tails), better="less", must=1000, aim=200, panel=panel)]


async def _wave(stack: Stack, source: random.Random) -> list[float]:
    """Seconds, of as many tasks as there are slots, each cancelled at some moment of its answer."""
    tenant = new_tenant(stack, "enterprise")
    tasks = await submit(stack, [tenant] * SLOTS, SPEAKING)

    async def speaking() -> bool:
        return bool((await stack.audit())["in_flight"] == SLOTS)

    await eventually(speaking, _DEADLINE)
    pauses = [source.uniform(0.1, 1.0) for _ in tasks]
    asked = dict(
        zip(tasks, await asyncio.gather(*map(_cancel, [stack] * SLOTS, [tenant] * SLOTS, tasks, pauses)), strict=True)
    )
    last = await _last_tokens(stack, tasks)
    return [max(0.0, last[task] - asked[task]) for task in tasks]


async def _cancel(stack: Stack, tenant: Tenant, task: UUID, pause: float) -> float:
    """When it was asked for."""
    async with connected(stack.url, 1) as [connection]:
        await asyncio.sleep(pause)
        asked = time()
        await connection.exchange(head("POST", f"/v1/tasks/{task}/cancel", tenant.key), b"")
        return asked


async def _last_tokens(stack: Stack, tasks: list[UUID]) -> dict[UUID, float]:
    """When each task's last token was sent: its usage record names the provider's request, and the audit its end."""

    async def all_billed() -> bool:
        [found] = await stack.rows("SELECT count(*) AS n FROM billing.usage WHERE task_id = ANY($1)", tasks)
        return bool(found["n"] == len(tasks))

    await eventually(all_billed, _DEADLINE)
    rows = await stack.rows(
        "SELECT u.task_id, u.provider_request_id, r.status FROM billing.usage u JOIN runtime.runs r USING (task_id)"
        " WHERE task_id = ANY($1)",
        tasks,
    )
    assert all(row["status"] == "cancelled" for row in rows), "a run ended otherwise than by its cancel"
    sent = {call["request_id"]: call["last_token_at"] for call in await stack.audited_calls()}
    return {row["task_id"]: sent[row["provider_request_id"]] for row in rows}
