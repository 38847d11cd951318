"""What tests of parking do again and again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from agent_worker.providers.base import TextDelta
from common.contracts import TaskSubmitted
from common.contracts.events import StreamEvent
from common.lifecycle import stop
from common.messaging.publisher import Publisher
from persister.waker import Waker
from tests.integration.agent_worker.world import World
from tests.stage import pipelined

ANSWER = (TextDelta("It is "), TextDelta("42."))


@asynccontextmanager
async def waking(world: World, resender: Publisher) -> AsyncIterator[None]:
    """A waker beside the test."""
    settings = world.stage.postgres("laneway_persister")
    task = asyncio.create_task(Waker(settings, resender, pipelined(world.state)).run())
    try:
        yield
    finally:
        await stop(task)


async def parked_row(world: World, task: TaskSubmitted) -> dict[str, Any]:
    """The row of a task that waits; empty where it does not."""
    row = await world.owner.fetchrow("SELECT * FROM runtime.parked WHERE task_id = $1", task.task_id)
    return dict(row) if row is not None else {}


async def until_parked(world: World, task: TaskSubmitted, reason: str) -> dict[str, Any]:
    """Wait until the task waits for this."""

    async def parked() -> dict[str, Any]:
        row = await parked_row(world, task)
        return row if row.get("reason") == reason and row["ready_at"] is None else {}

    await world.until(parked)
    return await parked_row(world, task)


async def cap(world: World, tenant_id: UUID, most: int | None) -> None:
    """Change the plan of a tenant: so many run at a time."""
    statement = """
    UPDATE identity.plans SET max_running = $2 WHERE name = (SELECT plan FROM identity.tenants WHERE tenant_id = $1)
    """
    await world.owner.execute(statement, tenant_id, most)


def told(events: list[StreamEvent]) -> list[tuple[str, str]]:
    """Ids and what they say, in short."""
    return [(str(event.id), event.data.get("reason") or event.type) for event in events]
