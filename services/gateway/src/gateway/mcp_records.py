"""SQL on the MCP servers of tenants, read and written as their tenant; what authenticates us there is only written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal
from uuid import UUID

from asyncpg import Record

from gateway.database import Database
from gateway.mcp_schemas import MOST_SERVERS, McpServerRequest

Verdict = Literal["added", "changed", "full"]

_PUT = "SELECT runtime.put_mcp_server($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
_VIEW = (
    "SELECT s.name, s.url, s.agents, s.tools, s.timeout_seconds, s.ask, s.trust_annotations, s.auth_header,"
    " s.created_at, s.updated_at FROM runtime.mcp_servers s"
)
_ALL = f"{_VIEW} ORDER BY s.name"
_ONE = f"{_VIEW} WHERE s.name = $1"
_DELETE = "DELETE FROM runtime.mcp_servers s WHERE s.name = $1 RETURNING s.name"


class McpServers:
    """Registers, reads and deletes them. Every call raises `StoreUnavailable` where PostgreSQL is too slow."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, tenant_id: UUID, name: str, server: McpServerRequest) -> Verdict:
        """Register it, in the place of the one with this name."""
        auth = (server.auth.header, server.auth.value) if server.auth is not None else (None, None)
        terms = (server.timeout_seconds, server.ask, server.trust_annotations)
        rows = await self._rows(
            tenant_id, _PUT, tenant_id, name, server.url, server.agents, server.tools, *terms, *auth, MOST_SERVERS
        )
        verdict: Verdict = rows[0][0]
        return verdict

    async def all(self, tenant_id: UUID) -> Sequence[Record]:
        """By their names."""
        return await self._rows(tenant_id, _ALL)

    async def find(self, tenant_id: UUID, name: str) -> Record | None:
        """One of them."""
        rows = await self._rows(tenant_id, _ONE, name)
        return rows[0] if rows else None

    async def delete(self, tenant_id: UUID, name: str) -> bool:
        """False where there is none."""
        return bool(await self._rows(tenant_id, _DELETE, name))

    async def _rows(self, tenant_id: UUID, statement: str, *arguments: object) -> Sequence[Record]:
        return await self._database.within(self._fetched(tenant_id, statement, *arguments))

    async def _fetched(self, tenant_id: UUID, statement: str, *arguments: object) -> Sequence[Record]:
        async with self._database.as_tenant(tenant_id) as connection:
            rows: Sequence[Record] = await connection.fetch(statement, *arguments)
            return rows
