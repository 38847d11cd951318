"""What billing's tests run on: a stage, pools in two roles, and a call to settle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from uuid import uuid4

import pytest

from billing.console import main
from common import postgres
from common.postgres import Pool
from tests.integration.billing.calls import Call
from tests.servers import Servers
from tests.stage import CATALOGUE, Stage, staged

Command = Callable[..., Awaitable[tuple[int, str]]]


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


@pytest.fixture
def command(stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs `laneway-billing` as billing; its exit code, and what it said."""
    monkeypatch.setenv("LANEWAY_POSTGRES_DSN", stage.login("billing"))
    monkeypatch.setenv("LANEWAY_CATALOGUE_DIR", str(CATALOGUE))

    async def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = await asyncio.to_thread(main, arguments)
        return code, "".join(capsys.readouterr())

    return run
