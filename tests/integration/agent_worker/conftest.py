"""What the worker's integration tests run on: a simulator, and a stage on the real servers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest

from tests.integration.agent_worker.world import World, world_of
from tests.servers import Servers
from tests.stage import Stage, staged


@pytest.fixture(scope="session")
def simulator() -> Iterator[str]:
    """The address of a simulator that this process has for itself."""
    command = [sys.executable, "-m", "simulator", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


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
