"""A gateway of one's own on a stage: in this process, on a real port, with tenants that nobody else has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import aio_pika
import asyncpg
import httpx2
import pytest
from aio_pika.abc import AbstractIncomingMessage
from pydantic import SecretStr

from common import redis
from common.messaging.topology import TASKS
from common.redis import Client
from common.settings import Postgres, Rabbit, Redis
from gateway.bootstrap import Gateway, bootstrap
from gateway.keys import ApiKey
from gateway.server import Server
from gateway.settings import CatalogueFiles, Http, Settings
from gateway.streams import Pace
from tests.integration.gateway.relay import Relay, relaying
from tests.servers import Servers
from tests.stage import CATALOGUE, Stage, eventually, staged

ADMIN_KEY = "an-admin-key-of-the-tests"
_DEADLINES = (
    "gateway.submission._DEADLINE_SECONDS",
    "gateway.batch_submission._DECIDE_SECONDS",
    "gateway.identities._LOOK_UP_SECONDS",
    "gateway.outstanding._PAGE_SECONDS",
    "gateway.outstanding._WAIT_SECONDS",
    "gateway.cancelling_many._SECONDS",
)
QUICK = Pace(subscribe=1.0, quiet=0.5, deaf=0.2, patience=1.0)


@dataclass(frozen=True)
class Tenant:
    """A tenant and its way in."""

    id: UUID
    key: str

    @property
    def headers(self) -> dict[str, str]:
        """What its requests carry."""
        return {"Authorization": f"Bearer {self.key}"}


@dataclass(frozen=True)
class Running:
    """A gateway that serves."""

    gateway: Gateway
    client: httpx2.AsyncClient
    stage: Stage
    database: asyncpg.Connection[asyncpg.Record]
    """As the administrator."""

    async def tenant(self, plan: str = "pro", **limits: int) -> Tenant:
        """A new tenant; with limits it has a plan of its own."""
        if limits:
            plan = await self._plan(plan, limits)
        # Not by the admin API: the bell that it rings would be heard at any moment of the test.
        tenant, key = uuid4(), ApiKey.mint()
        await self.database.execute("INSERT INTO identity.tenants VALUES ($1, 'test', $2)", tenant, plan)
        await self.database.execute(
            "INSERT INTO identity.api_keys VALUES ($1, $2, $3, 'test')", key.key_id, tenant, key.secret_hash
        )
        return Tenant(tenant, key.token)

    async def _plan(self, like: str, limits: dict[str, int]) -> str:
        name = f"plan-{uuid4()}"
        await self.database.execute(
            "INSERT INTO identity.plans SELECT $1, tier, coalesce($3, requests_per_minute),"
            " coalesce($4, max_outstanding), run_cap_usd, user_day_cap_usd, tenant_day_cap_usd, tenant_month_cap_usd"
            " FROM identity.plans WHERE name = $2",
            name,
            like,
            limits.get("requests_per_minute"),
            limits.get("max_outstanding"),
        )
        return name

    async def submit(self, tenant: Tenant, *, key: str | None = None, **fields: Any) -> httpx2.Response:
        """Submit a task."""
        headers = tenant.headers | ({"Idempotency-Key": key} if key is not None else {})
        return await self.client.post("/v1/tasks", json={"input": "What is AI?"} | fields, headers=headers)


@pytest.fixture(scope="session")
def stage(servers: Servers) -> Iterator[Stage]:
    with staged(servers) as made:
        yield made


def settings_of(stage: Stage, **urls: str) -> Settings:
    """Settings of a gateway on the stage; some servers may be reached another way."""
    return Settings.model_construct(
        rabbit=Rabbit(url=SecretStr(urls.get("rabbit", stage.rabbit("gateway").url.get_secret_value()))),
        postgres=_postgres(stage, urls.get("postgres")),
        redis=_redis(stage, urls.get("redis")),
        catalogue=CatalogueFiles(dir=CATALOGUE),
        http=Http(host="127.0.0.1", port=0, drain_seconds=0),
        admin_key=SecretStr(ADMIN_KEY),
        simulated=True,
    )


def _postgres(stage: Stage, url: str | None) -> Postgres:
    """Only one that is reached another way may be slow: a test is not about how busy the machine is."""
    if url is None:
        return Postgres(dsn=SecretStr(stage.login("gateway")), timeout=10)
    return Postgres(dsn=SecretStr(url), timeout=1.5)


def _redis(stage: Stage, url: str | None) -> Redis:
    return stage.redis if url is None else Redis(state_url=SecretStr(url))


@asynccontextmanager
async def running(stage: Stage, pace: Pace = QUICK, **urls: str) -> AsyncIterator[Running]:
    """Start a gateway, and stop it with the context."""
    settings = settings_of(stage, **urls)
    async with bootstrap(settings, pace) as gateway:
        server = Server(gateway.app, settings.http)
        serving = asyncio.create_task(server.serve_forever())

        async def started() -> bool:
            return server.started

        await eventually(started)
        port = server.servers[0].sockets[0].getsockname()[1]
        database = await asyncpg.connect(stage.admin_dsn)
        try:
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=15) as client:
                yield Running(gateway, client, stage, database)
        finally:
            await database.close()
            gateway.hub.close()
            await server.close(serving)


@pytest.fixture(autouse=True)
def patience(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway's own deadlines, where no server is made slow: tests of outages go by those that it ships with."""
    if "fragile" not in request.fixturenames:
        for deadline in _DEADLINES:
            monkeypatch.setattr(deadline, 20.0)


@pytest.fixture
async def gateway(stage: Stage) -> AsyncIterator[Running]:
    async with running(stage) as made:
        yield made


@dataclass(frozen=True)
class Fragile:
    """A gateway whose every connection leads through a relay."""

    gateway: Running
    rabbit: Relay
    postgres: Relay
    redis: Relay

    def relays(self, names: str) -> list[Relay]:
        """Those that are named."""
        return [getattr(self, name) for name in names.split("+")]

    async def readiness(self) -> int:
        """What a balancer sees."""
        return (await self.gateway.client.get("/health/ready")).status_code


@pytest.fixture
async def fragile(stage: Stage) -> AsyncIterator[Fragile]:
    async with AsyncExitStack() as stack:
        rabbit, rabbit_url = await stack.enter_async_context(relaying(stage.rabbit("gateway").url.get_secret_value()))
        postgres, postgres_url = await stack.enter_async_context(relaying(stage.login("gateway")))
        redis, redis_url = await stack.enter_async_context(relaying(stage.servers.redis_state_url))
        gateway = await stack.enter_async_context(
            running(stage, rabbit=rabbit_url, postgres=postgres_url, redis=redis_url)
        )
        yield Fragile(gateway, rabbit, postgres, redis)


@pytest.fixture
async def state(stage: Stage) -> AsyncIterator[Client]:
    """Redis, as a worker sees it."""
    async with redis.client(stage.servers.redis_state_url, timeout=10, connections=4) as client:
        yield client


class Tap:
    """Sees every message that is published to an exchange, without taking it from anybody."""

    def __init__(self) -> None:
        self.seen: list[AbstractIncomingMessage] = []

    async def hear(self, message: AbstractIncomingMessage) -> None:
        """One message."""
        self.seen.append(message)

    async def messages(self, subject: str, count: int = 1) -> list[AbstractIncomingMessage]:
        """Those about a task, once there are so many."""

        async def enough() -> list[AbstractIncomingMessage]:
            found = [message for message in self.seen if message.correlation_id == subject]
            return found if len(found) >= count else []

        return await eventually(enough)


@asynccontextmanager
async def tapping(stage: Stage, exchange: str, routing_key: str = "#") -> AsyncIterator[Tap]:
    """Listen at an exchange."""
    address = urlsplit(stage.servers.rabbit_url)._replace(path=f"/{stage.name}").geturl()
    heard = Tap()
    # Whoever makes a virtual host over HTTP may enter it.
    connection = await aio_pika.connect(address)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True, auto_delete=True)
        await queue.bind(exchange, routing_key)
        await queue.consume(heard.hear, no_ack=True)
        yield heard


@pytest.fixture
async def tap(stage: Stage) -> AsyncIterator[Tap]:
    """Sees what is submitted."""
    async with tapping(stage, TASKS) as made:
        yield made


async def forget(state: Client, tenant: Tenant) -> None:
    """What a FLUSHALL does to one tenant."""
    keys = [key async for key in state.scan_iter(match=f"{{{tenant.id}}}:*", count=1000)]
    if keys:
        await state.delete(*keys)
