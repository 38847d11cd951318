"""What parking is tested on: workers and their tasks, and a waker beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from common.messaging.publisher import RabbitPublisher, publisher
from common.messaging.topology import PERSISTER
from tests.integration.agent_worker.world import World, world_of
from tests.servers import Servers
from tests.stage import Stage, staged


@pytest.fixture(scope="session")
def stage(servers: Servers) -> Iterator[Stage]:
    with staged(servers) as made:
        yield made


@pytest.fixture
async def world(stage: Stage) -> AsyncIterator[World]:
    async with world_of(stage, "http://no-simulator.invalid") as made:
        await made.owner.execute("DELETE FROM runtime.parked")
        yield made


@pytest.fixture
async def resender(stage: Stage) -> AsyncIterator[RabbitPublisher]:
    """The persister's way to the lanes."""
    async with publisher(stage.rabbit(PERSISTER), PERSISTER) as made:
        yield made
