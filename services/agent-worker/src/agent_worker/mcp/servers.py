"""The tools of MCP servers, agents' and tenants': listed when a run needs them, remembered for a while, their failures
contained.

A server that is away, slow or talks nonsense costs a run its tools and a few seconds, once in a while: the run goes on
without them, and says so. What was listed before is used on while a server cannot be asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from mcp import Client
from mcp.types import Tool as Offered

from agent_worker.mcp.listing import MOST_TOOLS, Listing, joined, listing_of, text_of
from agent_worker.mcp.remembering import Remembering
from agent_worker.mcp.server import Registered, Server
from agent_worker.mcp.transport import connected
from agent_worker.metrics import MCP_FAILURES
from agent_worker.tools.base import Toolbox
from agent_worker.tools.guard import Guard
from agent_worker.tools.signature import ToolError
from common.catalogue import Agent
from common.errors import StoreUnavailable

_log = structlog.get_logger(__name__)
_FRESH_SECONDS = 300.0
_FAILED_SECONDS = 15.0
_LIST_SECONDS = 8.0
_MOST_PAGES = 10
_REGISTERED_SECONDS = 10.0
_MOST_LISTINGS = 256
_MOST_TENANTS = 10_000


@dataclass(frozen=True)
class Tenants:
    """What tenants have registered, and where that may lead."""

    registered: Callable[[UUID], Awaitable[tuple[Registered, ...]]]
    guard: Guard


class McpServers:
    """All that agents and tenants name, for one process."""

    def __init__(
        self,
        guard: Guard,
        list_seconds: float = _LIST_SECONDS,
        fresh_seconds: float = _FRESH_SECONDS,
        tenants: Tenants | None = None,
    ) -> None:
        self._guard = guard
        self._tenants = tenants
        self._list_seconds = list_seconds
        self._fresh_seconds = fresh_seconds
        self._listings: Remembering[Server, Listing] = Remembering(self._ask, _MOST_LISTINGS)
        self._registered: Remembering[UUID, tuple[Registered, ...]] = Remembering(self._look, _MOST_TENANTS)

    async def toolbox(self, agent: Agent, own: Toolbox, tenant_id: UUID | None = None) -> Toolbox:
        """The agent's own tools with those of its servers, and of the tenant's that are for this agent.

        Raises `StoreUnavailable` where it is not known which those are.
        """
        servers = [*map(Server.of_agent, agent.mcp), *await self._of_tenant(agent, tenant_id)]
        if not servers:
            return own
        listings = await asyncio.gather(*map(self._listings.get, servers))
        together = joined(own.tools, zip(servers, listings, strict=True))
        return Toolbox(together.tools, own.approvals, missing=together.missing)

    async def _of_tenant(self, agent: Agent, tenant_id: UUID | None) -> list[Server]:
        if self._tenants is None or tenant_id is None or not agent.tenant_mcp:
            return []
        registered = await self._registered.get(tenant_id)
        return [one.server for one in registered if agent.name in one.agents]

    async def _look(
        self, tenant_id: UUID, before: tuple[Registered, ...] | None
    ) -> tuple[float, tuple[Registered, ...]]:
        """What the tenant has registered; while PostgreSQL is away, what it had."""
        assert self._tenants is not None  # noqa: S101 - `_of_tenant` has looked
        try:
            return _REGISTERED_SECONDS, await self._tenants.registered(tenant_id)
        except StoreUnavailable:
            if before is None:
                raise
            return _FAILED_SECONDS, before

    def _guard_of(self, server: Server) -> Guard:
        return self._guard if self._tenants is None or server.tenant_id is None else self._tenants.guard

    async def _ask(self, server: Server, before: Listing | None) -> tuple[float, Listing]:
        """What it offers, and for how long that is believed."""
        try:
            async with (
                asyncio.timeout(self._list_seconds),
                connected(server, self._guard_of(server), self._list_seconds) as client,
            ):
                offered = await _all(client)
            listing = listing_of(server, offered, self.call)
        except Exception as error:  # noqa: BLE001 - whatever a foreign server does, the run goes on without it
            MCP_FAILURES.labels(server=server.counted_as).inc()
            reason = _reason(error)
            _log.warning("mcp.not_listed", **_named(server), reason=reason, error=repr(error)[:500])
            if before is not None and before.tools:
                return _FAILED_SECONDS, before
            return _FAILED_SECONDS, Listing({}, ({"server": server.name, "reason": reason},))
        if listing.missing:
            _log.warning("mcp.left_out", **_named(server), tools=list(listing.missing)[:10])
        return self._fresh_seconds, listing

    async def call(self, server: Server, name: str, arguments: dict[str, Any]) -> str:
        """Call a tool; its deadline is the caller's. Raises `ToolError`."""
        try:
            async with connected(server, self._guard_of(server), server.timeout_seconds) as client:
                result = await client.call_tool(name, arguments)
        except Exception as error:
            MCP_FAILURES.labels(server=server.counted_as).inc()
            _log.warning("mcp.call_failed", **_named(server), tool=name, error=repr(error)[:500])
            raise ToolError(f"the server {server.name} could not do it: {_reason(error)}") from error
        return text_of(result)


async def _all(client: Client) -> list[Offered]:
    """All tools, of which a few more than may be used are enough."""
    offered: list[Offered] = []
    cursor: str | None = None
    for _ in range(_MOST_PAGES):
        page = await client.list_tools(cursor=cursor)
        offered += page.tools
        cursor = page.next_cursor
        if cursor is None or len(offered) > 2 * MOST_TOOLS:
            break
    return offered[: 4 * MOST_TOOLS]


def _named(server: Server) -> dict[str, str | None]:
    """For the log, where two tenants' may have one name."""
    return {"server": server.name, "tenant_id": str(server.tenant_id) if server.tenant_id is not None else None}


def _reason(error: BaseException) -> str:
    """In words that a tenant may read: no address, no text of the server's."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ToolError):
        return "it is not on the public web, and may not be reached"
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if isinstance(error, FileNotFoundError | PermissionError):
        return "its program cannot be started"
    return f"it could not be reached, or its answer was not usable ({type(error).__name__})"
