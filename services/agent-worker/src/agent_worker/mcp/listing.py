"""What an MCP server offers, as tools of ours: as many, and as large, as a model's window has room for."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from mcp.types import CallToolResult, TextContent
from mcp.types import Tool as Offered
from pydantic import BaseModel

from agent_worker.mcp.server import Server
from agent_worker.providers.base import ToolSpec
from agent_worker.tools.base import Tool
from agent_worker.tools.signature import Signature, ToolError

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
MOST_TOOLS = 64
_LARGEST_SCHEMA = 16 * 1024
_LARGEST_TOGETHER = 128 * 1024
_LONGEST_DESCRIPTION = 4_000
_OUTPUT_LIMIT = 32_000

Call = Callable[[Server, str, dict[str, Any]], Awaitable[str]]


@dataclass(frozen=True)
class Listing:
    """A server's tools, and what of it cannot be used."""

    tools: Mapping[str, Tool]
    missing: tuple[dict[str, str], ...] = ()


@dataclass(frozen=True)
class _Foreign(Signature):
    """Arguments that the server itself checks: its schema may say anything, and cost anything to follow."""

    def checked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See `Signature.checked`."""
        return {"arguments": dict(arguments)}


def listing_of(server: Server, offered: Iterable[Offered], call: Call) -> Listing:
    """The server's tools by the names that models are told."""
    tools: dict[str, Tool] = {}
    missing: list[dict[str, str]] = []
    together = 0
    for one in offered:
        if server.tools is not None and one.name not in server.tools:
            continue
        size = len(json.dumps(one.input_schema))
        name = f"{server.name}__{one.name}"
        reason = _why_not(name, one, size, together, len(tools), taken=name in tools)
        if reason is not None:
            missing.append({"server": server.name, "tool": one.name[:100], "reason": reason})
            continue
        together += size
        tools[name] = _tool(server, name, one, call)
    known = {entry["tool"] for entry in missing} | {name.partition("__")[2] for name in tools}
    missing += [
        {"server": server.name, "tool": name, "reason": "the server has no such tool"}
        for name in server.tools or ()
        if name not in known
    ]
    return Listing(tools, tuple(missing[:MOST_TOOLS]))


def joined(own: Mapping[str, Tool], listings: Iterable[tuple[Server, Listing]]) -> Listing:
    """An agent's own tools with those of servers: none in the place of another, and of all servers of a tenant together
    as many as one may have."""
    tools = dict(own)
    missing: list[dict[str, str]] = []
    count = size = 0
    for server, listing in listings:
        missing += listing.missing
        for name, tool in listing.tools.items():
            reason = "another tool has this name" if name in tools else None
            if reason is None and server.tenant_id is not None:
                count, size = count + 1, size + len(json.dumps(tool.spec.schema))
                if count > MOST_TOOLS or size > _LARGEST_TOGETHER:
                    reason = f"the tenant's servers together have more than {MOST_TOOLS} tools, or too large ones"
            if reason is None:
                tools[name] = tool
            else:
                missing.append({"server": server.name, "tool": name.partition("__")[2], "reason": reason})
    return Listing(tools, tuple(missing[:MOST_TOOLS]))


def _why_not(name: str, one: Offered, size: int, together: int, count: int, *, taken: bool) -> str | None:
    if not _NAME.fullmatch(name):
        return "no model can be told its name: up to 64 letters, digits, `_` and `-`, with the server's"
    if taken:
        return "the server has two tools of this name"
    if one.input_schema.get("type") != "object":
        return "its schema is not that of an object"
    if size > _LARGEST_SCHEMA or together + size > _LARGEST_TOGETHER:
        return "its schema is too large"
    return f"the server has more than {MOST_TOOLS} tools" if count >= MOST_TOOLS else None


def _tool(server: Server, name: str, one: Offered, call: Call) -> Tool:
    description = (one.description or one.title or one.name)[:_LONGEST_DESCRIPTION]
    reads_only = server.trusted and one.annotations is not None and one.annotations.read_only_hint is True
    return Tool(
        spec=ToolSpec(name, description, one.input_schema),
        function=partial(_called, call, server, one.name),
        signature=_Foreign(one.input_schema, None, (), BaseModel),
        timeout=server.timeout_seconds,
        side_effect=not reads_only,
        ask=server.ask and not reads_only,
        output_limit=_OUTPUT_LIMIT,
    )


async def _called(call: Call, server: Server, name: str, *, arguments: dict[str, Any]) -> str:
    return await call(server, name, arguments)


def text_of(result: CallToolResult) -> str:
    """What a model is told of a result. Raises `ToolError` where the tool says that it failed."""
    parts = [part.text if isinstance(part, TextContent) else f"[{part.type}: not shown]" for part in result.content]
    if not parts and result.structured_content is not None:
        parts = [json.dumps(result.structured_content)]
    text = "\n".join(parts)
    if result.is_error:
        raise ToolError(text[:_OUTPUT_LIMIT] or "the tool failed, and did not say why")
    return text
