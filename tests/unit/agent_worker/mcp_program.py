"""A real MCP server, made with the official package: `python mcp_program.py stdio [many]`, or `http <port> [many]`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import ToolAnnotations

server = MCPServer("test")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


@server.tool()
def send(to: str) -> str:
    """Send a letter."""
    return f"sent to {to}"


@server.tool()
def environment() -> str:
    """What the program is told."""
    return " ".join(sorted(os.environ))


@server.tool()
def who(context: Context) -> str:
    """Who asks, as the headers say."""
    request: Any = context.request_context.request
    return " ".join(str(request.headers.get(name)) for name in ("authorization", "x-api-key"))


@server.tool()
async def slow() -> str:
    """Never ends."""
    await asyncio.Event().wait()
    return "never"


@server.tool()
def big() -> str:
    """Says too much."""
    return "x" * 100_000


@server.tool()
def huge() -> str:
    """Says far too much."""
    return "x" * 6_000_000


@server.tool()
def broken() -> str:
    """Fails."""
    raise ValueError("the stamp is missing")


@server.tool(name="a name with blanks")
def odd() -> str:
    """Cannot be named."""
    return "odd"


def crowd() -> None:
    for number in range(100):
        server.tool(name=f"t{number}")(add)


if __name__ == "__main__":
    if "many" in sys.argv:
        crowd()
    if "garbage" in sys.argv:
        sys.stdout.write("this is no JSON\n" * 10)
        sys.stdout.flush()
        sys.stdin.read()
    elif sys.argv[1] == "stdio":
        server.run()
    else:
        Path(sys.argv[3]).touch()
        server.run("streamable-http", port=int(sys.argv[2]), host="127.0.0.1")
