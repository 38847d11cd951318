"""A TCP relay in front of a server, which a test can cut off, or hang, and restore."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit


class Relay:
    """Passes bytes on while it is open."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refusing = False
        self.port = 0
        self.connections = 0
        """That are open now."""

    def cut(self) -> None:
        """Break every connection, and refuse new ones."""
        self._refusing = True
        for writer in self._writers:
            writer.transport.abort()

    def hang(self) -> None:
        """Pass nothing on, and say nothing."""
        self._flowing.clear()

    def restore(self) -> None:
        """Work again. What hung goes on."""
        self._refusing = False
        self._flowing.set()

    def say(self, data: bytes) -> None:
        """Tell every client something that the server never said."""
        for writer in self._clients:
            writer.write(data)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client."""
        if self._refusing:
            writer.transport.abort()
            return
        there_reader, there_writer = await asyncio.open_connection(*self._target)
        pair = {writer, there_writer}
        self._writers |= pair
        self._clients.add(writer)
        self.connections += 1
        try:
            await asyncio.gather(self._pump(reader, there_writer), self._pump(there_reader, writer))
        finally:
            self.connections -= 1
            self._writers -= pair
            self._clients.discard(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def relaying(url: str) -> AsyncIterator[tuple[Relay, str]]:
    """A relay to a server, and the URL that leads through it."""
    address = urlsplit(url)
    relay = Relay(address.hostname or "", address.port or 0)
    server = await asyncio.start_server(relay.accept, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    credentials = address.netloc.rpartition("@")[0]
    netloc = f"{credentials}@127.0.0.1:{relay.port}" if credentials else f"127.0.0.1:{relay.port}"
    try:
        yield relay, address._replace(netloc=netloc).geturl()
    finally:
        relay.restore()
        server.close()
        relay.cut()
