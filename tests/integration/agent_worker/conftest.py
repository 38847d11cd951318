"""What the worker's integration tests run on: a simulator, and a stage on the real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx2
import psycopg
import pytest

from tests.integration.agent_worker.world import FIRST, SECOND, THIRD, World, world_of
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
        _price(made)
        yield made


def _price(stage: Stage) -> None:
    """Give the models of this process's own the price of one that has one."""
    with psycopg.connect(stage.admin_dsn) as connection:
        for provider, name in (("anthropic", FIRST), ("openai", SECOND), ("openai", THIRD)):
            connection.execute(
                "INSERT INTO billing.prices (provider, model, valid_from, input_mtok, cache_read_mtok,"
                " cache_write_5m_mtok, cache_write_1h_mtok, output_mtok, source)"
                " SELECT %s, %s, valid_from, input_mtok, cache_read_mtok, cache_write_5m_mtok, cache_write_1h_mtok,"
                " output_mtok, source FROM billing.prices WHERE model = 'claude-haiku-4-5'",
                (provider, name),
            )


@pytest.fixture
async def world(stage: Stage, simulator: str) -> AsyncIterator[World]:
    async with world_of(stage, simulator) as made:
        yield made
