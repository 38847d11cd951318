"""The tools of agents' MCP servers: listed when a run needs them, remembered for a while, their failures contained.

A server that is away, slow or talks nonsense costs a run its tools and a few seconds, once in a while: the run goes on
without them, and says so. What was listed before is used on while a server cannot be asked.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import structlog
from mcp import Client
from mcp.types import Tool as Offered

from agent_worker.mcp.listing import MOST_TOOLS, Listing, listing_of, text_of
from agent_worker.mcp.transport import connected
from agent_worker.metrics import MCP_FAILURES
from agent_worker.tools.base import Toolbox
from agent_worker.tools.guard import Guard
from agent_worker.tools.signature import ToolError
from common.catalogue import Agent, McpServer

_log = structlog.get_logger(__name__)
_FRESH_SECONDS = 300.0
_FAILED_SECONDS = 15.0
_LIST_SECONDS = 8.0
_MOST_PAGES = 10


class McpServers:
    """All that agents name, for one process."""

    def __init__(
        self, guard: Guard, list_seconds: float = _LIST_SECONDS, fresh_seconds: float = _FRESH_SECONDS
    ) -> None:
        self._guard = guard
        self._list_seconds = list_seconds
        self._fresh_seconds = fresh_seconds
        self._known: dict[McpServer, tuple[float, Listing]] = {}
        self._asking: defaultdict[McpServer, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def toolbox(self, agent: Agent, own: Toolbox) -> Toolbox:
        """The agent's own tools with those of its servers."""
        if not agent.mcp:
            return own
        listings = await asyncio.gather(*(self._listed(server) for server in agent.mcp))
        tools = dict(own.tools)
        for listing in listings:
            tools |= {name: tool for name, tool in listing.tools.items() if name not in own.tools}
        missing = tuple(one for listing in listings for one in listing.missing)
        return Toolbox(tools, own.approvals, missing=missing)

    async def _listed(self, server: McpServer) -> Listing:
        clock = asyncio.get_running_loop().time
        async with self._asking[server]:
            until, known = self._known.get(server, (0.0, None))
            if known is None or clock() >= until:
                seconds, known = await self._ask(server, known)
                self._known[server] = (clock() + seconds, known)
        return known

    async def _ask(self, server: McpServer, before: Listing | None) -> tuple[float, Listing]:
        """What it offers, and for how long that is believed."""
        try:
            async with (
                asyncio.timeout(self._list_seconds),
                connected(server, self._guard, self._list_seconds) as client,
            ):
                offered = await _all(client)
            listing = listing_of(server, offered, self.call)
        except Exception as error:  # noqa: BLE001 - whatever a foreign server does, the run goes on without it
            MCP_FAILURES.labels(server=server.name).inc()
            reason = _reason(error)
            _log.warning("mcp.not_listed", server=server.name, reason=reason, error=repr(error)[:500])
            if before is not None and before.tools:
                return _FAILED_SECONDS, before
            return _FAILED_SECONDS, Listing({}, ({"server": server.name, "reason": reason},))
        if listing.missing:
            _log.warning("mcp.left_out", server=server.name, tools=list(listing.missing)[:10])
        return self._fresh_seconds, listing

    async def call(self, server: McpServer, name: str, arguments: dict[str, Any]) -> str:
        """Call a tool; its deadline is the caller's. Raises `ToolError`."""
        try:
            async with connected(server, self._guard, server.timeout_seconds) as client:
                result = await client.call_tool(name, arguments)
        except Exception as error:
            MCP_FAILURES.labels(server=server.name).inc()
            _log.warning("mcp.call_failed", server=server.name, tool=name, error=repr(error)[:500])
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
