"""What schedules are tested on: a gateway that makes them, and an ear for what is published."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from common import redis
from common.messaging.publisher import RabbitPublisher, publisher
from common.messaging.topology import PERSISTER, TASKS
from common.redis import Client
from tests.integration.gateway.conftest import Running, Tap, running, tapping
from tests.servers import Servers
from tests.stage import Stage, staged


@pytest.fixture(scope="session")
def stage(servers: Servers) -> Iterator[Stage]:
    with staged(servers) as made:
        yield made


@pytest.fixture
async def gateway(stage: Stage) -> AsyncIterator[Running]:
    async with running(stage) as made:
        await made.database.execute("DELETE FROM runtime.schedules")
        yield made


@pytest.fixture
async def tap(stage: Stage) -> AsyncIterator[Tap]:
    """Sees what is submitted."""
    async with tapping(stage, TASKS) as made:
        yield made


@pytest.fixture
async def sender(stage: Stage) -> AsyncIterator[RabbitPublisher]:
    """The persister's way to the lanes."""
    async with publisher(stage.rabbit(PERSISTER), PERSISTER) as made:
        yield made


@pytest.fixture
async def state(stage: Stage) -> AsyncIterator[Client]:
    async with redis.client(stage.servers.redis_state_url, timeout=10, connections=4) as client:
        yield client
