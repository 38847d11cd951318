"""SQL of the MCP servers that tenants name for their own runs."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from agent_worker.mcp.server import Auth, Registered, Server
from common import postgres
from common.postgres import Pool

_OF_TENANT = "SELECT * FROM runtime.mcp_servers_of($1)"


class McpRecords:
    """What tenants have registered. Raises `StoreUnavailable` where PostgreSQL does not answer."""

    def __init__(self, pool: Pool, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout

    async def of(self, tenant_id: UUID) -> tuple[Registered, ...]:
        """All of a tenant's, by their names."""
        async with postgres.acquire(self._pool, self._timeout) as connection:
            rows = await connection.fetch(_OF_TENANT, tenant_id)
        return tuple(_registered(tenant_id, dict(row)) for row in rows)


def _registered(tenant_id: UUID, row: dict[str, Any]) -> Registered:
    auth = Auth(row["auth_header"], row["auth_value"]) if row["auth_header"] is not None else None
    server = Server(
        name=Server.name_of_tenants(row["name"]),
        timeout_seconds=row["timeout_seconds"],
        url=row["url"],
        auth=auth,
        tools=tuple(row["tools"]) if row["tools"] is not None else None,
        trusted=row["trust_annotations"],
        ask=row["ask"],
        tenant_id=tenant_id,
    )
    return Registered(server, frozenset(row["agents"]))
