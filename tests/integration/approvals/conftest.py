"""What approvals are tested on: a worker whose tool does something, a waker, and a gateway for people to decide at."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from common.messaging.publisher import RabbitPublisher, publisher
from common.messaging.topology import PERSISTER
from tests.integration.agent_worker.world import World, world_of
from tests.integration.gateway.conftest import Running, running
from tests.integration.parking.yard import waking
from tests.servers import Servers
from tests.stage import Stage, staged


@pytest.fixture(scope="session")
def stage(servers: Servers) -> Iterator[Stage]:
    with staged(servers) as made:
        yield made


@pytest.fixture
async def resender(stage: Stage) -> AsyncIterator[RabbitPublisher]:
    """The persister's way to the lanes."""
    async with publisher(stage.rabbit(PERSISTER), PERSISTER) as made:
        yield made


@pytest.fixture
async def world(stage: Stage, resender: RabbitPublisher) -> AsyncIterator[World]:
    """With a waker beside it."""
    async with world_of(stage, "http://no-simulator.invalid") as made:
        await made.owner.execute("DELETE FROM runtime.parked")
        async with waking(made, resender):
            yield made


@pytest.fixture
async def gateway(stage: Stage) -> AsyncIterator[Running]:
    async with running(stage) as made:
        yield made
