"""What billing's tests run on: a stage, pools in two roles, and a call to settle."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest

from common import postgres
from common.postgres import Pool
from tests.integration.billing.calls import Call
from tests.servers import Servers
from tests.stage import Stage, staged


@pytest.fixture(scope="session")
def stage(servers: Servers) -> Iterator[Stage]:
    with staged(servers) as made:
        yield made


@pytest.fixture
async def pool(stage: Stage) -> AsyncIterator[Pool]:
    """As the billing service."""
    async with postgres.pool(stage.postgres("laneway_billing"), "test") as made:
        yield made


@pytest.fixture
async def owner(stage: Stage) -> AsyncIterator[Pool]:
    """As the schema's owner, who may look at everything and call `billing.reserve`."""
    async with postgres.pool(stage.postgres("laneway_owner"), "test-owner") as made:
        yield made


@pytest.fixture
def call(stage: Stage) -> Call:
    """A call of a new tenant's new task."""
    return Call(stage.new_tenant(), uuid4(), user_id="anna")
