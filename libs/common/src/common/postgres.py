"""PostgreSQL: a pool with deadlines, and transactions whose passing failures have one name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

import asyncpg
import orjson
import structlog

from common.errors import ConfigurationError, PoisonError, StoreContended, StoreUnavailable
from common.settings import Postgres
from common.storable import storable_json

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

_log = structlog.get_logger(__name__)

# An administrator has every role.
_HAS_ROLE = """
SELECT to_regnamespace('identity') IS NOT NULL AS migrated,
       EXISTS (SELECT FROM pg_roles WHERE rolname = $1 AND pg_has_role(oid, 'MEMBER')) AS ours
"""
# A deadlock's victim, or one that waited too long for a lock.
CONTENDED = (asyncpg.TransactionRollbackError, asyncpg.LockNotAvailableError)
# What may be different the next time: the server is away, restarting, out of connections.
TRANSIENT = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    # Rights and relations that are missing are an operator's to mend; no message is at fault.
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedFunctionError,
    asyncpg.InvalidAuthorizationSpecificationError,
)


@asynccontextmanager
async def pool(settings: Postgres, name: str, role: str | None = None) -> AsyncIterator[Pool]:
    """A pool for one process. It opens lazily: a database that is away makes no process fail to start.

    Raises `ConfigurationError` where the database answers, but not to this role.
    """
    created = asyncpg.create_pool(
        settings.dsn.get_secret_value(),
        min_size=0,
        max_size=settings.pool_size,
        command_timeout=settings.timeout,
        timeout=settings.timeout,
        max_inactive_connection_lifetime=300,
        server_settings={"application_name": name, "jit": "off"},
        init=_init,
        # Nothing here leaves state in a session, so there is nothing to reset, and a round trip less for each use.
        reset=_keep,
    )
    try:
        async with asyncio.timeout(10):
            await created
    except TRANSIENT as error:
        raise StoreUnavailable(f"PostgreSQL cannot be reached: {error!r}") from error
    try:
        if role is not None:
            await _check_role(created, settings.timeout, role)
        yield created
    finally:
        try:
            async with asyncio.timeout(5):
                await created.close()
        except TimeoutError:
            created.terminate()


async def _check_role(source: Pool, timeout: float, role: str) -> None:
    try:
        async with asyncio.timeout(2 * timeout), acquire(source, timeout) as connection:
            (found,) = await connection.fetch(_HAS_ROLE, role)
    except asyncpg.InvalidCatalogNameError as error:
        raise ConfigurationError(f"LANEWAY_POSTGRES_DSN cannot be used: {error}.") from error
    except (StoreUnavailable, TimeoutError) as error:
        if isinstance(error.__cause__, asyncpg.InvalidAuthorizationSpecificationError):
            raise ConfigurationError(f"LANEWAY_POSTGRES_DSN cannot be used: {error.__cause__}.") from error
        _log.warning("postgres.unavailable", error=repr(error))
        return
    if not found["migrated"]:
        raise ConfigurationError("LANEWAY_POSTGRES_DSN names a database without our schemas: run `deploy.migrations`.")
    if not found["ours"]:
        raise ConfigurationError(f"LANEWAY_POSTGRES_DSN names a role that is not {role}, this service's own.")


async def _init(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    for kind in ("json", "jsonb"):
        await connection.set_type_codec(kind, encoder=to_json, decoder=orjson.loads, schema="pg_catalog")


async def _keep(_: asyncpg.Connection[asyncpg.Record]) -> None:
    """Give the connection back as it is."""


def to_json(value: object) -> str:
    """JSON as PostgreSQL stores it. For a parameter of several documents: as `text[]`, cast in the statement, since
    the driver would take a list within a `jsonb[]` for another dimension of the array.
    """
    return storable_json(orjson.dumps(value)).decode()


@asynccontextmanager
async def acquire(source: Pool, timeout: float) -> AsyncIterator[Connection]:
    """A connection outside of a transaction, for a single statement. Raises `StoreUnavailable` or `PoisonError`."""
    try:
        async with source.acquire(timeout=timeout) as connection:
            yield connection
    except CONTENDED as error:
        raise StoreContended(f"PostgreSQL gave a statement up: {error!r}") from error
    except TRANSIENT as error:
        # A value that fits no column is an InterfaceError to the driver, but no later try helps.
        if isinstance(error, ValueError):
            raise PoisonError(f"PostgreSQL cannot store a value: {error}") from error
        raise StoreUnavailable(f"PostgreSQL did not answer: {error!r}") from error
    except asyncpg.DataError as error:
        raise PoisonError(f"PostgreSQL cannot store a value: {error}") from error


@asynccontextmanager
async def transaction(source: Pool, timeout: float, tenant_id: UUID | None = None) -> AsyncIterator[Connection]:
    """A transaction; with a tenant it sees that tenant's rows alone. Raises as `acquire` does."""
    async with acquire(source, timeout) as connection, connection.transaction():
        if tenant_id is not None:
            await connection.execute("SELECT set_config('app.tenant_id', $1, true)", str(tenant_id))
        yield connection


async def answers(source: Pool, timeout: float) -> bool:
    """Whether the database does, for the health checks. Raises `StoreUnavailable` where it does not."""
    async with acquire(source, timeout) as connection:
        return bool(await connection.fetchval("SELECT 1") == 1)
