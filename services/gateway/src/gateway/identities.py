"""SQL on schema `identity`: who may ask, and the administration of it."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import asyncpg

from gateway.database import Database
from gateway.keys import ApiKey

# Who asks is only the first thing that a request needs to know.
_LOOK_UP_SECONDS = 1.0

_PRINCIPAL = "SELECT * FROM identity.principal($1)"
_HAS_TENANT = "SELECT EXISTS (SELECT FROM identity.tenants WHERE tenant_id = $1)"
_USER_TIER = "SELECT tier FROM identity.users WHERE user_id = $1"
_INSERT_TENANT = "INSERT INTO identity.tenants (tenant_id, name, plan) VALUES ($1, $2, $3)"
_INSERT_KEY = "INSERT INTO identity.api_keys (key_id, tenant_id, secret_hash, name) VALUES ($1, $2, $3, $4)"
_PUT_USER = """
INSERT INTO identity.users (tenant_id, user_id, tier) VALUES ($1, $2, $3)
ON CONFLICT (tenant_id, user_id) DO UPDATE SET tier = excluded.tier
"""
_LIMITS = """
SELECT t.max_outstanding, t.max_running, t.plan, p.max_outstanding AS plan_max_outstanding,
       p.max_running AS plan_max_running
FROM identity.tenants t JOIN identity.plans p ON p.name = t.plan WHERE t.tenant_id = $1
"""
_PUT_LIMITS = """
UPDATE identity.tenants t SET max_outstanding = $2, max_running = $3
FROM identity.plans p WHERE t.tenant_id = $1 AND p.name = t.plan
RETURNING t.max_outstanding, t.max_running, t.plan, p.max_outstanding AS plan_max_outstanding,
          p.max_running AS plan_max_running
"""
_REVOKE_KEY = "SELECT identity.revoke_key($1)"


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as it is stored, with its tenant's plan."""

    tenant_id: UUID
    secret_hash: bytes
    revoked: bool
    tier: str
    requests_per_minute: int
    max_outstanding: int
    allowed_models: tuple[str, ...] | None = None
    allowed_agents: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a tenant may: its own limits, None where its plan's count, and those."""

    max_outstanding: int | None
    max_running: int | None
    plan: str
    plan_max_outstanding: int
    plan_max_running: int | None


class Identities:
    """Keys, tenants and users. Every call raises `StoreUnavailable` where PostgreSQL does not answer in time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def key(self, key_id: str) -> KeyRow | None:
        """A key, revoked or not."""
        return await self._database.within(self._key(key_id), _LOOK_UP_SECONDS)

    async def _key(self, key_id: str) -> KeyRow | None:
        async with self._database.statement() as connection:
            row = await connection.fetchrow(_PRINCIPAL, key_id)
        if row is None:
            return None
        return KeyRow(
            row["tenant_id"],
            row["secret_hash"],
            row["revoked"],
            row["tier"],
            row["requests_per_minute"],
            row["max_outstanding"],
            _names(row["allowed_models"]),
            _names(row["allowed_agents"]),
        )

    async def user_tier(self, tenant_id: UUID, user_id: str) -> str | None:
        """The tier of one user, where the tenant has set one."""
        return await self._database.within(self._user_tier(tenant_id, user_id), _LOOK_UP_SECONDS)

    async def _user_tier(self, tenant_id: UUID, user_id: str) -> str | None:
        async with self._database.as_tenant(tenant_id) as connection:
            tier: str | None = await connection.fetchval(_USER_TIER, user_id)
            return tier

    async def has_tenant(self, tenant_id: UUID) -> bool:
        """Whether there is such a tenant."""
        return await self._database.within(self._has_tenant(tenant_id))

    async def _has_tenant(self, tenant_id: UUID) -> bool:
        async with self._database.as_tenant(tenant_id) as connection:
            return bool(await connection.fetchval(_HAS_TENANT, tenant_id))

    async def add_tenant(self, tenant_id: UUID, name: str, plan: str) -> bool:
        """False where there is no such plan."""
        return await self._insert(tenant_id, _INSERT_TENANT, tenant_id, name, plan)

    async def add_key(self, tenant_id: UUID, key: ApiKey, name: str) -> bool:
        """False where there is no such tenant."""
        return await self._insert(tenant_id, _INSERT_KEY, key.key_id, tenant_id, key.secret_hash, name)

    async def put_user(self, tenant_id: UUID, user_id: str, tier: str) -> bool:
        """False where there is no such tenant."""
        return await self._insert(tenant_id, _PUT_USER, tenant_id, user_id, tier)

    async def limits(self, tenant_id: UUID) -> Limits | None:
        """What a tenant may. None where there is no such tenant."""
        return await self._database.within(self._limits(_LIMITS, tenant_id))

    async def put_limits(self, tenant_id: UUID, max_outstanding: int | None, max_running: int | None) -> Limits | None:
        """Set a tenant's own limits; None: its plan's. What it may now; None where there is no such tenant."""
        return await self._database.within(self._limits(_PUT_LIMITS, tenant_id, max_outstanding, max_running))

    async def _limits(self, statement: str, tenant_id: UUID, *own: int | None) -> Limits | None:
        async with self._database.as_tenant(tenant_id) as connection:
            row = await connection.fetchrow(statement, tenant_id, *own)
        return None if row is None else Limits(**dict(row))

    async def _insert(self, tenant_id: UUID, statement: str, *arguments: object) -> bool:
        return await self._database.within(self._inserted(tenant_id, statement, arguments))

    async def _inserted(self, tenant_id: UUID, statement: str, arguments: tuple[object, ...]) -> bool:
        try:
            async with self._database.as_tenant(tenant_id) as connection:
                await connection.execute(statement, *arguments)
        except asyncpg.ForeignKeyViolationError:
            return False
        return True

    async def revoke_key(self, key_id: str) -> UUID | None:
        """The tenant whose key it was. Revoking again changes nothing."""
        return await self._database.within(self._revoke_key(key_id))

    async def _revoke_key(self, key_id: str) -> UUID | None:
        async with self._database.statement() as connection:
            tenant_id: UUID | None = await connection.fetchval(_REVOKE_KEY, key_id)
            return tenant_id


def _names(listed: list[str] | None) -> tuple[str, ...] | None:
    return None if listed is None else tuple(listed)
