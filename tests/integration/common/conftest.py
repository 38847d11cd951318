"""What the tests of the messaging layer run on: a stage and a publisher."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from common.messaging.publisher import RabbitPublisher, publisher
from common.messaging.topology import AGENT_WORKER
from tests.servers import Servers
from tests.stage import Stage, staged


@pytest.fixture(scope="session")
def stage(servers: Servers) -> Iterator[Stage]:
    with staged(servers) as made:
        yield made


@pytest.fixture
async def worker(stage: Stage) -> AsyncIterator[RabbitPublisher]:
    async with publisher(stage.rabbit(AGENT_WORKER), AGENT_WORKER) as made:
        yield made
