"""What the persister's tests run on: a stage, pools in two roles, and the contracts of one task."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest

from common import postgres
from common.postgres import Pool
from tests.integration.persister.story import Story
from tests.servers import Servers
from tests.stage import Stage, staged


@pytest.fixture(scope="session")
def stage(servers: Servers) -> Iterator[Stage]:
    with staged(servers) as made:
        yield made


@pytest.fixture
async def pool(stage: Stage) -> AsyncIterator[Pool]:
    """As the persister."""
    async with postgres.pool(stage.postgres("laneway_persister"), "test") as made:
        yield made


@pytest.fixture
async def owner(stage: Stage) -> AsyncIterator[Pool]:
    """As the schema's owner, who may look at everything."""
    async with postgres.pool(stage.postgres("laneway_owner"), "test-owner") as made:
        yield made


@pytest.fixture
def story() -> Story:
    return Story(uuid4(), uuid4())
