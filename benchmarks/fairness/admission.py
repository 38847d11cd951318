"""What admitting a task costs Redis, for a tenant with 100,000 outstanding tasks and for one with 10."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import time
from typing import cast
from uuid import uuid4

from benchmarks.figures import Figure
from benchmarks.stand import RUNS, run
from common import redis
from common.admission import OUTSTANDING_SECONDS, outstanding_key, rate_key, whole_key
from common.pipelining import Pipelined
from common.postgres import Pool
from common.redis import Client
from gateway.admission import Admission, Candidate, Outcome
from gateway.background import Background
from gateway.database import Database
from gateway.outstanding import Outstanding
from gateway.outstanding_records import OpenTasks
from gateway.principals import Principal
from tests.servers import Servers

FEW, MANY = 10, 100_000
TENANTS = 5
"""Of each kind: the one side's keys are to be no more at hand than the other's."""
PRIORITY = 5
ROUNDS = 200
_CHUNK = 5_000


def measure(servers: Servers, logs: Path) -> list[Figure]:  # noqa: ARG001 - no service has a part in it
    """Redis's own time for the admission script, one side after the other, round by round."""
    found = run(_microseconds(servers))
    few, many = (tuple(each[side] for each in found) for side in (0, 1))
    return [
        Figure(
            "cost of admission (Lua) at 100,000 outstanding tasks of a tenant, against 10",
            "×",
            tuple(b / a for a, b in zip(few, many, strict=True)),
            better="less",
            must=1.3,
            aim=1.1,
        ),
        Figure("…, at 100,000", "µs", many, better="less"),
        Figure("…, at 10", "µs", few, better="less"),
    ]


async def _microseconds(servers: Servers) -> list[tuple[float, float]]:
    """In each run the median round's time for one script: with few outstanding tasks, and with many."""
    async with redis.client(servers.redis_state_url, timeout=5, connections=2) as client:
        quiet, busy = ([_tenant() for _ in range(TENANTS)] for _ in range(2))
        try:
            for tenants, tasks in ((quiet, FEW), (busy, MANY)):
                for tenant in tenants:
                    await _fill(client, tenant, tasks)
            pipelined, nobody = Pipelined(client, 5), Database(cast(Pool, None), 5)  # nothing is to be counted anew
            admission = Admission(pipelined, Outstanding(OpenTasks(nobody), pipelined, Background()), replicas=1)
            await _round(client, admission, quiet + busy)  # warm: the script is known from here on
            return [await _medians(client, admission, quiet, busy) for _ in range(RUNS)]
        finally:
            for tenant in quiet + busy:
                keys = rate_key, whole_key, partial(outstanding_key, priority=PRIORITY)
                await client.unlink(*(key(tenant.tenant_id) for key in keys))


async def _medians(
    client: Client, admission: Admission, quiet: Sequence[Principal], busy: Sequence[Principal]
) -> tuple[float, float]:
    rounds = [(await _round(client, admission, quiet), await _round(client, admission, busy)) for _ in range(ROUNDS)]
    return median(few for few, _ in rounds), median(many for _, many in rounds)


async def _round(client: Client, admission: Admission, tenants: Sequence[Principal]) -> float:
    """Redis's microseconds for each admission; all are taken back, so that the next round finds what this one did."""
    candidates = [(tenant, _candidate()) for tenant in tenants]
    calls, spent = await _scripts(client)
    for tenant, candidate in candidates:
        decision = await admission.admit(tenant, candidate)
        assert decision.recorded, "Redis took no part"
        assert decision.outcome is Outcome.ADMITTED, decision
    calls_after, spent_after = await _scripts(client)
    for tenant, candidate in candidates:
        await admission.undo(tenant, candidate)
    return (spent_after - spent) / (calls_after - calls)


async def _scripts(client: Client) -> tuple[int, int]:
    """How many scripts Redis has run by their name, and its microseconds in them."""
    found = (await client.info("commandstats")).get("cmdstat_evalsha", {"calls": 0, "usec": 0})
    return found["calls"], found["usec"]


async def _fill(client: Client, tenant: Principal, tasks: int) -> None:
    """Outstanding tasks, as admissions leave them."""
    expires = (time() + OUTSTANDING_SECONDS) * 1000
    key = outstanding_key(tenant.tenant_id, PRIORITY)
    await client.set(whole_key(tenant.tenant_id), "1", ex=OUTSTANDING_SECONDS)
    for start in range(0, tasks, _CHUNK):
        await client.zadd(key, {str(uuid4()): expires for _ in range(min(_CHUNK, tasks - start))})


def _tenant() -> Principal:
    return Principal(uuid4(), "pro", requests_per_minute=100_000_000, max_outstanding=100_000_000)


def _candidate() -> Candidate:
    return Candidate(uuid4(), PRIORITY, keyed=False, request_hash="0" * 64, owner=str(uuid4()), answer=b"{}" * 100)
