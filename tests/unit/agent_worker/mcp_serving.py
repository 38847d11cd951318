"""The test's MCP server, as a process of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.stage import eventually

PROGRAM = str(Path(__file__).with_name("mcp_program.py"))


@asynccontextmanager
async def over_http(port: int, directory: Path, *arguments: str) -> AsyncIterator[str]:
    """Its address, once it listens at this port of 127.0.0.1."""
    command = [sys.executable, PROGRAM, "http", str(port), str(directory / "begun"), *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        async def listens() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return False
            writer.close()
            return True

        await eventually(listens, 60.0)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        await process.wait()
