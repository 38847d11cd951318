"""Replays a schedule on running services, and reads from the record what became of it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from benchmarks.fairness.ground import Tenant, clear, ended_between, new_tenant
from benchmarks.load import Timed, head, post_all, post_timed
from benchmarks.replay.population import Schedule
from benchmarks.replay.summary import Ended
from benchmarks.replay.trace import Request
from tests.acceptance.stack import TIERS, Stack
from tests.stage import eventually

FIRST_TOKEN_SECONDS = 0.1
TOKENS_PER_SECOND = 100
"""How fast the simulator answers."""
_CLIENTS = 128
_DEADLINE = 300
_FILLED_SECONDS = 5.0

_ENDED = """
SELECT t.tenant_id, t.tier, t.status,
  extract(epoch FROM t.started_at - t.submitted_at)::float8 AS wait,
  extract(epoch FROM e.at - t.submitted_at)::float8 AS first_token,
  extract(epoch FROM t.finished_at - t.started_at)::float8 AS ran,
  t.finished_at <= $2 AS in_time
FROM history.tasks t
LEFT JOIN LATERAL (SELECT min(at) AS at FROM history.events WHERE task_id = t.task_id AND type = 'token') e ON true
WHERE t.task_id = ANY($1) AND t.status <> 'queued' AND t.submitted_at IS NOT NULL
"""


@dataclass(frozen=True)
class Account:
    """What became of one replay."""

    ended: tuple[Ended, ...]
    refused: dict[str, int]
    """By tier: answers that were not 202."""
    lost: int
    """Accepted, and without an end though all had time for it."""
    failed: int
    """Ended otherwise than well."""


@dataclass(frozen=True)
class Sender:
    """A tenant of the population, in the stack."""

    tier: str
    tenant: Tenant


def body(request: Request) -> bytes:
    """A task with as many tokens in its input as the request had, that is answered with as many."""
    spoken = f"[[sim tokens={request.generated} ttft={FIRST_TOKEN_SECONDS:g} tps={TOKENS_PER_SECOND}]]"
    return json.dumps({"input": f"{'word' * request.context} {spoken}"}).encode()


async def capacity(stack: Stack, requests: Sequence[Request], seconds: float) -> float:
    """Requests a second that the stack ends while every lane has more than enough of them."""
    tenants = {tier: new_tenant(stack, tier) for tier in TIERS}
    tasks = [list(tenants.values())[place % len(tenants)].task(body(each)) for place, each in enumerate(requests)]
    await post_all(stack.url, tasks, _CLIENTS)
    await asyncio.sleep(_FILLED_SECONDS)
    counts, _ = await ended_between(stack, tenants, seconds)
    [found] = await stack.rows(
        "SELECT count(*) AS n FROM runtime.runs WHERE tenant_id = ANY($1)", [each.id for each in tenants.values()]
    )
    assert found["n"] < len(requests), "the lanes ran dry while the capacity was measured"
    await clear(stack)
    return sum(counts.values()) / seconds


async def replay(stack: Stack, schedule: Schedule, senders: Sequence[Sender]) -> Account:
    """Send all at their times, and wait for the end of all that was accepted."""
    sent_by = [senders[each.tenant] for each in schedule.sendings]
    requests = [
        Timed(each.at, head("POST", "/v1/tasks", sender.tenant.key), body(each.request))
        for each, sender in zip(schedule.sendings, sent_by, strict=True)
    ]
    answers = await post_timed(stack.url, requests, _CLIENTS)
    [clock] = await stack.rows("SELECT clock_timestamp() AS now")
    accepted = [UUID(json.loads(content)["id"]) for status, content in answers if status == 202]
    refused = Counter(sender.tier for sender, (status, _) in zip(sent_by, answers, strict=True) if status != 202)
    await _until_ended(stack, accepted)
    rows = await stack.rows(_ENDED, accepted, clock["now"])
    ended = tuple(
        Ended(row["tenant_id"], row["tier"], row["wait"], row["first_token"], row["ran"], row["in_time"])
        for row in rows
        if row["wait"] is not None
    )
    failed = sum(row["status"] != "completed" for row in rows)
    return Account(ended, dict(refused), lost=len(accepted) - len(rows), failed=failed)


async def _until_ended(stack: Stack, accepted: Sequence[UUID]) -> None:
    """Wait for the ends, and no longer than for what was lost to be lost."""

    async def all_ended() -> bool:
        [found] = await stack.rows(
            "SELECT count(*) AS n FROM history.tasks"
            " WHERE task_id = ANY($1) AND status <> 'queued' AND submitted_at IS NOT NULL",
            accepted,
        )
        return bool(found["n"] == len(accepted))

    try:
        await eventually(all_ended, _DEADLINE)
    except TimeoutError:
        return
