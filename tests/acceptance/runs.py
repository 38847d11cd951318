"""What the record has of runs: who ran them, when they began and ended, and how many run at this moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg

from common.contracts.runs import TERMINAL
from common.lifecycle import stop
from tests.acceptance.stack import Stack
from tests.stage import eventually

_RUNS = """
SELECT task_id::text AS id, tenant_id, tier, status, attempts, worker, started_at, finished_at FROM runtime.runs
WHERE task_id = ANY ($1) ORDER BY started_at, task_id
"""
_RUNNING = """
SELECT tier, count(*) AS n FROM runtime.runs WHERE status = 'running' AND lease_until > clock_timestamp() GROUP BY tier
"""
RUNNING_OF_TENANT = """
SELECT count(*) FROM runtime.runs WHERE tenant_id = $1 AND status = 'running' AND lease_until > clock_timestamp()
"""
RUNNING_WITH_KEY = f"{RUNNING_OF_TENANT} AND concurrency_key = $2"


async def runs(stack: Stack, tasks: Sequence[str]) -> list[asyncpg.Record]:
    """Those of the tasks that have a run, in the order in which they began."""
    return await stack.rows(_RUNS, [UUID(task) for task in tasks])


async def all_ended(stack: Stack, tasks: Sequence[str], deadline: float = 60) -> list[asyncpg.Record]:
    """The same, once all of them have ended."""

    async def look() -> list[asyncpg.Record]:
        found = await runs(stack, tasks)
        return found if len(found) == len(tasks) and all(run["status"] in TERMINAL for run in found) else []

    return await eventually(look, deadline)


async def begun_in_order(stack: Stack, tasks: Sequence[str]) -> list[str]:
    """The tasks in the order in which they began, once all of them have completed."""
    found = await all_ended(stack, tasks)
    assert {run["status"] for run in found} == {"completed"}
    return [run["id"] for run in found]


async def running_by_tier(stack: Stack) -> dict[str, int]:
    """How many run now."""
    return {row["tier"]: row["n"] for row in await stack.rows(_RUNNING)}


async def runs_by_tier(stack: Stack, **expected: int) -> None:
    """Wait until so many run, and of other tiers none."""

    async def as_expected() -> bool:
        return await running_by_tier(stack) == expected

    await eventually(as_expected, 30)


@asynccontextmanager
async def watching(stack: Stack, query: str, *arguments: object) -> AsyncIterator[list[int]]:
    """Counts again and again meanwhile; the list has each number that was seen."""
    seen: list[int] = []
    connection = await asyncpg.connect(stack.stage.admin_dsn)

    async def look() -> None:
        while True:
            seen.append(await connection.fetchval(query, *arguments))
            await asyncio.sleep(0.02)

    looking = asyncio.create_task(look())
    try:
        yield seen
        assert not looking.done(), "nobody has looked all the time"
    finally:
        await stop(looking)
        await connection.close()
