"""The common ground of these measurements: slots that are scarce, runs of a known length, tenants that come and go.

A run is a model call that is silent for a while and then answers with one token, so the slots are taken and the
processor is not: with 20 slots and runs of 0.2 s the worker ends at most 100 runs a second.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx2

from benchmarks.load import Failed, Timed, head, post_all, post_timed
from benchmarks.stand import empty_lanes, stack_of
from common.messaging.topology import lane
from deploy.local.ports import HOST
from tests.acceptance.stack import TIERS, Settings, Stack
from tests.servers import Servers
from tests.stage import eventually

SLOTS = 20
RUN_SECONDS = 0.2
WORKER = "agent-worker-1"
SERVICES = ("simulator", "gateway", WORKER, "persister", "billing")
_CLIENTS = 64
_DEADLINE = 120


@dataclass(frozen=True)
class Tenant:
    """A tenant and its way in."""

    id: UUID
    key: str

    def task(self, body: bytes) -> tuple[bytes, bytes]:
        """A submission of its own, as `post_all` takes it."""
        return head("POST", "/v1/tasks", self.key), body


def ground(
    servers: Servers, logs: Path, slots: int = SLOTS, settings: Settings | None = None
) -> AbstractContextManager[Stack]:
    """Every service once, with so many slots in the worker."""
    return stack_of(servers, logs, SERVICES, {WORKER: {"LANEWAY_SLOTS": str(slots)}, **(settings or {})})


def new_tenant(stack: Stack, tier: str) -> Tenant:
    """One that nobody has seen: nothing of an earlier run counts against it."""
    stack.new_tenant(tier)
    return Tenant(stack.tenants[tier], stack.keys[tier])


def body(seconds: float = RUN_SECONDS) -> bytes:
    """A task whose run takes so long."""
    return json.dumps({"input": f"Wait. [[sim ttft={seconds:g} tokens=1]]"}).encode()


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Times at which so many a second come independently of each other; the same for the same seed."""
    source, times, now = random.Random(seed), [], 0.0
    while (now := now + source.expovariate(rate)) < seconds:
        times.append(now)
    return times


async def submit(stack: Stack, tenants: Iterable[Tenant], of: bytes) -> list[UUID]:
    """One task for each of these tenants, in about this order, as fast as can be."""
    _, answers = await post_all(stack.url, [tenant.task(of) for tenant in tenants], _CLIENTS)
    return [_id(answer) for answer in answers]


async def submit_at(stack: Stack, tenant: Tenant, times: Sequence[float], of: bytes) -> list[UUID]:
    """A task of the tenant at each of these times, in seconds from now."""
    request_head = head("POST", "/v1/tasks", tenant.key)
    answers = await post_timed(stack.url, [Timed(at, request_head, of) for at in times], _CLIENTS)
    for status, content in answers:
        if status != 202:
            raise Failed(f"{status}: {content[:300]!r}")
    return [_id(content) for _, content in answers]


async def waits(stack: Stack, tasks: Sequence[UUID]) -> list[float]:
    """Seconds from each one's submission to the beginning of its run, once all have ended well."""

    async def all_recorded() -> bool:
        [found] = await stack.rows(
            "SELECT count(*) AS n FROM history.tasks"
            " WHERE task_id = ANY($1) AND status = 'completed' AND submitted_at IS NOT NULL",
            tasks,
        )
        return bool(found["n"] == len(tasks))

    await eventually(all_recorded, _DEADLINE)
    rows = await stack.rows(
        "SELECT extract(epoch FROM started_at - submitted_at)::float8 AS wait FROM history.tasks"
        " WHERE task_id = ANY($1)",
        tasks,
    )
    return [row["wait"] for row in rows]


async def until_recorded(stack: Stack, tasks: int) -> None:
    """Wait until the persister has caught up with so many submissions: it takes no part in what follows."""

    async def caught_up() -> bool:
        [found] = await stack.rows("SELECT count(*) AS n FROM history.tasks WHERE submitted_at IS NOT NULL")
        return bool(found["n"] >= tasks)

    await eventually(caught_up, _DEADLINE)


async def submissions(stack: Stack) -> int:
    """How many are recorded."""
    [found] = await stack.rows("SELECT count(*) AS n FROM history.tasks WHERE submitted_at IS NOT NULL")
    return int(found["n"])


async def begun(stack: Stack, tenants: Mapping[str, Tenant]) -> dict[str, int]:
    """How many runs of each tenant have begun, by the tenant's name here."""
    rows = await stack.rows(
        "SELECT tenant_id, count(*) AS n FROM runtime.runs WHERE tenant_id = ANY($1) GROUP BY tenant_id",
        [tenant.id for tenant in tenants.values()],
    )
    found = {row["tenant_id"]: int(row["n"]) for row in rows}
    return {name: found.get(tenant.id, 0) for name, tenant in tenants.items()}


async def ended_between(
    stack: Stack, tenants: Mapping[str, Tenant], seconds: float
) -> tuple[dict[str, int], dict[str, list[float]]]:
    """Watch for so long: how many runs of each tenant ended, and when, in seconds from the beginning."""
    [clock] = await stack.rows("SELECT clock_timestamp() AS now")
    await asyncio.sleep(seconds)
    rows = await stack.rows(
        "SELECT tenant_id, extract(epoch FROM finished_at - $2)::float8 AS at FROM runtime.runs"
        " WHERE tenant_id = ANY($1) AND status = 'completed' AND finished_at >= $2"
        " AND finished_at < $2 + make_interval(secs => $3) ORDER BY finished_at",
        [tenant.id for tenant in tenants.values()],
        clock["now"],
        seconds,
    )
    ends = {name: [row["at"] for row in rows if row["tenant_id"] == tenant.id] for name, tenant in tenants.items()}
    return {name: len(times) for name, times in ends.items()}, ends


async def held(client: httpx2.AsyncClient, stack: Stack) -> float:
    """Slots of the worker in which a run is, by its own metric."""
    text = (await client.get(f"http://{HOST}:{stack.port(WORKER)}/metrics")).text
    lines = (line for line in text.splitlines() if line.startswith("laneway_worker_runs_held{"))
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


async def clear(stack: Stack) -> None:
    """Throw away what waits, and let end what runs."""
    empty_lanes(stack.stage, *(lane(tier) for tier in TIERS))
    async with httpx2.AsyncClient(timeout=10) as client:

        async def idle() -> bool:
            return await held(client, stack) == 0

        await eventually(idle, _DEADLINE)


def _id(answer: bytes) -> UUID:
    return UUID(json.loads(answer)["id"])
