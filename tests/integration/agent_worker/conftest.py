"""What the worker's integration tests run on: a simulator, and a stage on the real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest

from tests.integration.agent_worker.world import World, world_of
from tests.servers import Servers
from tests.stage import Stage, staged


@pytest.fixture
async def control(simulator: str) -> AsyncIterator[httpx2.AsyncClient]:
    """Its control endpoints, with nothing left of the tests before."""
    async with httpx2.AsyncClient(base_url=simulator) as client:
        await client.delete("/control/rules")
        yield client


@pytest.fixture(scope="session")
def stage(servers: Servers) -> Iterator[Stage]:
    with staged(servers) as made:
        yield made


@pytest.fixture
async def world(stage: Stage, simulator: str) -> AsyncIterator[World]:
    async with world_of(stage, simulator) as made:
        yield made
