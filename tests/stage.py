"""A stage for the tests of one process: a database and a virtual host of their own, on the servers of the run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode, urlsplit
from uuid import UUID, uuid4

import httpx2
import psycopg
from psycopg.sql import SQL, Identifier
from pydantic import SecretStr

from billing.pricebook import bundled_prices
from common.catalogue import load_catalogue
from common.errors import Unavailable
from common.messaging.apply import ManagedRabbit, apply
from common.messaging.topology import SERVICES, topology
from common.pipelining import Pipelined
from common.redis import Client
from common.settings import Postgres, Rabbit, Redis
from deploy.migrations.__main__ import ManagedPostgres, migrate
from deploy.seed import seed
from tests.servers import Servers

CATALOGUE = Path(__file__).parents[1] / "deploy" / "catalogue"
_PASSWORD = SecretStr("test")
# Roles are the cluster's, and other runs use them too: their passwords are those of the development servers.
_ROLES = {"gateway": "gw", "agent_worker": "aw", "persister": "pe", "billing": "bi"}
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Stage:
    """Where a test finds its servers, as a service or as the owner of the schema."""

    name: str
    servers: Servers
    catalogue: Path = CATALOGUE

    @property
    def admin_dsn(self) -> str:
        """The database, as its administrator."""
        return _database(self.servers, self.name)

    def postgres(self, role: str) -> Postgres:
        """The database in a role, without need of its password."""
        return Postgres(dsn=SecretStr(f"{_database(self.servers, self.name)}?{urlencode({'role': role})}"), timeout=10)

    def login(self, service: str) -> str:
        """The database as a service reaches it: with its own role's password."""
        word = _ROLES[service.replace("-", "_")]
        role = "worker" if service == "agent-worker" else service
        address = urlsplit(self.admin_dsn)
        return address._replace(netloc=f"laneway_{role}:{word}@{address.hostname}:{address.port}").geturl()

    def rabbit(self, service: str) -> Rabbit:
        """The broker as a service's user."""
        address = urlsplit(self.servers.rabbit_url)
        user = f"{self.name}-{service}:{_PASSWORD.get_secret_value()}"
        return Rabbit(url=SecretStr(f"amqp://{user}@{address.hostname}:{address.port}/{self.name}"), publish_timeout=30)

    @property
    def redis(self) -> Redis:
        """Both instances, with the patience of a test that is not about a slow one."""
        state, cache = self.servers.redis_state_url, self.servers.redis_cache_url
        return Redis(state_url=SecretStr(state), cache_url=SecretStr(cache), timeout=10)

    def management(self) -> httpx2.Client:
        """The broker's management API, as its administrator."""
        return httpx2.Client(base_url=self.servers.rabbit_management_url, timeout=15)

    def new_tenant(self, since: date | None = None, /, **terms: str) -> UUID:
        """A tenant with a plan of its own; caps, markup, allowance and fee by the plan's columns."""
        tenant, plan = uuid4(), f"plan-{uuid4()}"
        caps = ("run_cap_usd", "user_day_cap_usd", "tenant_day_cap_usd", "tenant_month_cap_usd")
        columns = {**dict.fromkeys(caps, "1000"), **terms}
        with psycopg.connect(_database(self.servers, self.name)) as connection:
            connection.execute(
                SQL(
                    "INSERT INTO identity.plans (name, tier, requests_per_minute, max_outstanding, {})"
                    " VALUES (%s, 'free', 1000, 1000, {})"
                ).format(SQL(", ").join(map(Identifier, columns)), SQL(", ").join(SQL("%s") for _ in columns)),
                (plan, *columns.values()),
            )
            connection.execute(
                "INSERT INTO identity.tenants (tenant_id, name, plan, created_at)"
                " VALUES (%s, 'test', %s, coalesce(%s, now()))",
                (tenant, plan, since),
            )
        return tenant


@contextmanager
def staged(servers: Servers, catalogue_dir: Path = CATALOGUE) -> Iterator[Stage]:
    """A migrated, seeded database and a virtual host with the topology; both go with the context."""
    stage = Stage(f"test-{uuid4().hex[:12]}", servers, catalogue_dir)
    catalogue = load_catalogue(catalogue_dir)
    dsn = _database(servers, stage.name)
    migrate(
        ManagedPostgres(
            admin_dsn=SecretStr(dsn), **{f"password_{role}": SecretStr(word) for role, word in _ROLES.items()}
        )
    )
    with psycopg.connect(dsn) as connection:
        seed(connection, bundled_prices(catalogue))
    try:
        apply(
            ManagedRabbit(
                management_url=SecretStr(servers.rabbit_management_url),
                vhost=stage.name,
                user_prefix=f"{stage.name}-",
                **{f"password_{role}": _PASSWORD for role in _ROLES},
            ),
            topology(catalogue.tier_names),
        )
        yield stage
    finally:
        _clear(stage)


def _clear(stage: Stage) -> None:
    with stage.management() as client:
        client.delete(f"/api/vhosts/{stage.name}")
        for service in SERVICES:
            client.delete(f"/api/users/{stage.name}-{service}")
    with psycopg.connect(stage.servers.postgres_dsn, autocommit=True) as connection:
        connection.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(stage.name)))


def _database(servers: Servers, name: str) -> str:
    return urlsplit(servers.postgres_dsn)._replace(path=f"/{name}").geturl()


@cache
def pipelined(client: Client) -> Pipelined:
    """The one for this client: each keeps a connection."""
    return Pipelined(client, 10.0)


async def eventually(condition: Callable[[], Awaitable[Answer]], deadline: float = 30.0) -> Answer:
    """The condition's first true answer. Fails when there is none in time.

    A server that was too busy to answer has not answered yet: the machine may stand still for a moment.
    """
    async with asyncio.timeout(deadline):
        while True:
            with suppress(Unavailable):
                if answer := await condition():
                    return answer
            await asyncio.sleep(0.02)
