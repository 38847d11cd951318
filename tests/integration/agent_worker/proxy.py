"""A TCP proxy that can be cut: a server that is away for a while, as its clients see it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Proxy:
    """Forwards connections to one server, or while it is cut drops them all."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.up = True

    def cut(self) -> None:
        """Drop all connections, and each that comes."""
        self.up = False
        for writer in self._open:
            writer.transport.abort()

    def cut_for(self, seconds: float) -> None:
        """Cut, and restore after so long."""
        self.cut()
        asyncio.get_running_loop().call_later(seconds, self.restore)

    def restore(self) -> None:
        """Forward again."""
        self.up = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client."""
        if not self.up:
            writer.transport.abort()
            return
        there, out = await asyncio.open_connection(*self._target)
        self._open |= {writer, out}
        try:
            await asyncio.gather(_pump(reader, out), _pump(there, writer))
        finally:
            self._open -= {writer, out}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def proxied(host: str, port: int) -> AsyncIterator[Proxy]:
    """A proxy of that server on a port of its own."""
    proxy = Proxy(host, port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        proxy.cut()
        server.close()
