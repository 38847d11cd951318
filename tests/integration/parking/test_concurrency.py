"""Under any concurrency: no cap and no key is exceeded, nothing deadlocks, and nobody waits while there is room."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from uuid import UUID

import pytest

from agent_worker.repository import RunRepository
from common import postgres
from common.contracts import TaskSubmitted
from common.contracts.base import now
from common.lifecycle import stop
from common.postgres import Pool
from tests.integration.agent_worker.world import World
from tests.integration.parking.yard import cap
from tests.stage import Stage, eventually

_READY = "SELECT task_id, message, ready_at FROM runtime.parked WHERE ready_at IS NOT NULL AND published_at IS NULL"


@pytest.fixture
async def workers(stage: Stage) -> AsyncIterator[list[RunRepository]]:
    """Four workers' ways to the database, each with batches of its own."""
    async with AsyncExitStack() as stack:
        settings = stage.postgres("laneway_worker").model_copy(update={"timeout": 30.0})
        pools = [await stack.enter_async_context(postgres.pool(settings, "test-worker")) for _ in range(4)]
        yield [RunRepository(pool, 30, timedelta(minutes=1)) for pool in pools]


class Field:
    """Tasks that are brought to workers again and again, as the lanes and the waker do."""

    def __init__(self, owner: Pool, workers: list[RunRepository]) -> None:
        self._owner = owner
        self._workers = workers
        self._chance = random.Random(7)
        self.ended: Counter[UUID] = Counter()
        self.running: Counter[tuple[UUID, str | None]] = Counter()
        self.most: Counter[tuple[UUID, str | None]] = Counter()

    async def bring(self, task: TaskSubmitted) -> None:
        """One delivery: acquire, and run for a moment; what parks is brought again by `wake`."""
        worker = self._chance.choice(self._workers)
        message = task.encode() if task.conditional else None
        found = await worker.acquire(task, "w", message)
        if found.decision == "full":
            found = await worker.acquire(task, "w", task.encode())
        if found.decision != "acquired":
            assert found.decision == "parked"
            return
        places = {(task.tenant_id, None), (task.tenant_id, task.concurrency_key)}
        self.running.update(places)
        self.most |= self.running
        await asyncio.sleep(self._chance.uniform(0, 0.01))
        self.running.subtract(places)
        assert await worker.finish(task.task_id, found.fence, "completed", b"{}", now())
        self.ended[task.task_id] += 1

    async def wake(self) -> None:
        """As the waker does, with each message twice now and then."""
        while True:
            await self._owner.execute("SELECT runtime.wake(100)")
            rows = await self._owner.fetch(_READY)
            tasks = [TaskSubmitted.decode(row["message"]) for row in rows]
            await self._owner.execute(
                "SELECT runtime.note_published($1, $2)", [r["task_id"] for r in rows], [r["ready_at"] for r in rows]
            )
            await asyncio.gather(*map(self.bring, tasks))


async def test_caps_and_keys_hold_and_every_task_is_run_once(world: World, workers: list[RunRepository]) -> None:
    """Batches of four workers meet over three tenants: with a cap, with keys, and with both; and some with neither."""
    capped, keyed, both, free = (world.stage.new_tenant() for _ in range(4))
    await cap(world, capped, 3)
    await cap(world, both, 2)
    tasks = [world.task(tenant_id=capped) for _ in range(40)]
    tasks += [world.task(tenant_id=keyed, concurrency_key=f"k{n % 3}") for n in range(40)]
    tasks += [world.task(tenant_id=both, concurrency_key=f"k{n % 2}", concurrency_limit=2) for n in range(40)]
    tasks += [world.task(tenant_id=free) for _ in range(40)]
    random.Random(7).shuffle(tasks)
    field = Field(world.owner, workers)
    before = await _deadlocks(world.owner)
    waking = asyncio.create_task(field.wake())

    async def over() -> bool:
        if waking.done():
            waking.result()
        return len(field.ended) == len(tasks)

    try:
        async with asyncio.timeout(60):
            await asyncio.gather(*map(field.bring, tasks))
            await eventually(over, 60)
    finally:
        await stop(waking)
    assert set(field.ended.values()) == {1}
    assert field.most[capped, None] == 3
    assert field.most[both, None] == 2
    assert {field.most[keyed, f"k{n}"] for n in range(3)} == {1}
    assert await _deadlocks(world.owner) == before
    assert await world.owner.fetchval("SELECT count(*) FROM runtime.parked") == 0


async def _deadlocks(owner: Pool) -> int:
    query = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    return int(await owner.fetchval(query))
