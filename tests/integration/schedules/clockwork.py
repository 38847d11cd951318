"""What tests of schedules do again and again. Ticks are set near in the database: nobody waits for a full minute."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from common.lifecycle import stop
from common.messaging.publisher import Publisher
from common.pipelining import Pipelined
from persister.waker import Waker
from tests.integration.gateway.conftest import Running, Tenant
from tests.stage import Stage, eventually

YEARLY = "0 0 1 1 *"
"""Has no tick of its own in the time that a test takes, except at New Year."""


@asynccontextmanager
async def waking(stage: Stage, sender: Publisher, redis: Pipelined) -> AsyncIterator[None]:
    """A waker beside the test."""
    task = asyncio.create_task(Waker(stage.postgres("laneway_persister"), sender, redis).run())
    try:
        yield
    finally:
        await stop(task)


class Process:
    """A persister of its own process."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it; it is up once it leads, or stands by to."""
        stage = self._stage
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LANEWAY_")}
        environment |= {
            "LANEWAY_RABBIT_URL": stage.rabbit("persister").url.get_secret_value(),
            "LANEWAY_POSTGRES_DSN": stage.login("persister"),
            "LANEWAY_REDIS_STATE_URL": stage.servers.redis_state_url,
            "LANEWAY_HEALTH_HOST": "127.0.0.1",
            "LANEWAY_HEALTH_PORT": "0",
        }
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "persister", env=environment, stdout=asyncio.subprocess.DEVNULL
        )

    async def kill(self) -> None:
        """With no time for last words."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)
            await self._process.wait()


@asynccontextmanager
async def persisters(stage: Stage, count: int) -> AsyncIterator[Sequence[Process]]:
    """So many of them."""
    processes = [Process(stage) for _ in range(count)]
    try:
        for process in processes:
            await process.start()
        yield processes
    finally:
        for process in processes:
            await process.kill()


async def leader(gateway: Running) -> int:
    """The backend of the connection that leads, once there is one."""
    statement = """
    SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database
    WHERE l.locktype = 'advisory' AND l.granted AND l.objid = 7316003 AND d.datname = current_database()
    """

    async def found() -> int | None:
        pid: int | None = await gateway.database.fetchval(statement)
        return pid

    pid = await eventually(found, 40)
    assert pid is not None
    return pid


async def make(gateway: Running, tenant: Tenant, cron: str = YEARLY, **fields: Any) -> UUID:
    """A schedule, made over HTTP."""
    body = {"cron": cron, "task": {"input": "What is new?"}} | fields
    answer = await gateway.client.post("/v1/schedules", json=body, headers=tenant.headers)
    assert answer.status_code == 201, answer.text
    return UUID(answer.json()["id"])


async def due(gateway: Running, schedule: UUID, at: datetime) -> datetime:
    """Make its first open tick be at that time."""
    await gateway.database.execute(
        "UPDATE runtime.schedules SET next_at = $2, due_at = $2, waiting = NULL WHERE schedule_id = $1", schedule, at
    )
    return at


async def due_now(gateway: Running, schedule: UUID) -> datetime:
    """Make it due at this moment."""
    return await due(gateway, schedule, datetime.now(UTC))


async def read(gateway: Running, tenant: Tenant, schedule: UUID) -> dict[str, Any]:
    """As its tenant sees it."""
    answer = await gateway.client.get(f"/v1/schedules/{schedule}", headers=tenant.headers)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def ticked(
    gateway: Running, tenant: Tenant, schedule: UUID, count: int = 1, deadline: float = 20.0
) -> list[dict[str, Any]]:
    """Its ticks, newest first, once there are so many."""

    async def enough() -> list[dict[str, Any]]:
        ticks: list[dict[str, Any]] = (await read(gateway, tenant, schedule))["ticks"]
        return ticks if len(ticks) >= count else []

    return await eventually(enough, deadline)


def half_past(now: datetime) -> tuple[str, datetime]:
    """An hourly expression whose last tick was half an hour ago, and that tick."""
    last = now.replace(second=0, microsecond=0) - timedelta(minutes=30)
    return f"{last.minute} * * * *", last
