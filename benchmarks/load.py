"""A load generator that costs little beside what it measures: HTTP/1.1 on kept connections, hardly parsed.

A real client library would take as much of the machine as the server, and make any two servers look alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from urllib.parse import urlsplit

_DEADLINE = 60.0


class Failed(Exception):
    """A request was not answered as it should have been."""


@dataclass
class Connection:
    """One kept connection. Used by one caller at a time."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def request(self, head: bytes, body: bytes, expected: int) -> bytes:
        """Send, and return the answer's body. Raises `Failed` for another status."""
        status, content = await self.exchange(head, body)
        if status != expected:
            raise Failed(f"{status}: {content[:300]!r}")
        return content

    async def exchange(self, head: bytes, body: bytes) -> tuple[int, bytes]:
        """Send, and return the status and the body of whatever is answered."""
        self.writer.write(head % len(body) + body)
        status, headers = await self.answer()
        length = _header(headers, b"content-length")
        return status, await self.reader.readexactly(int(length)) if length else b""

    async def answer(self) -> tuple[int, bytes]:
        """The status and the headers of what is answered."""
        async with asyncio.timeout(_DEADLINE):
            headers = await self.reader.readuntil(b"\r\n\r\n")
        return int(headers[9:12]), headers.lower()

    async def close(self) -> None:
        """End it."""
        self.writer.close()


def _header(headers: bytes, name: bytes) -> bytes | None:
    _, found, rest = headers.partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip() if found else None


def head(method: str, path: str, key: str = "") -> bytes:
    """A request's head, with a place for the length of the body."""
    lines = [f"{method} {path} HTTP/1.1", "Host: measured", "Content-Type: application/json", "Content-Length: %d"]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    return "\r\n".join((*lines, "", "")).encode()


@asynccontextmanager
async def connected(url: str, count: int) -> AsyncGenerator[list[Connection], None]:
    """So many connections, opened a few at a time so that no backlog overflows."""
    host, port = urlsplit(url).hostname, urlsplit(url).port
    connections: list[Connection] = []
    try:
        for start in range(0, count, 50):
            opened = (asyncio.open_connection(host, port) for _ in range(min(50, count - start)))
            connections += [Connection(*streams) for streams in await asyncio.gather(*opened)]
        yield connections
    finally:
        for connection in connections:
            await connection.close()


async def post_all(url: str, requests: Sequence[tuple[bytes, bytes]], connections: int) -> tuple[float, list[bytes]]:
    """Post each (head, body) once, from that many clients that each wait for their answer: seconds, and the answers."""
    left = iter(requests)
    answers: list[bytes] = []

    async def client(connection: Connection) -> None:
        for request_head, body in left:
            answers.append(await connection.request(request_head, body, 202))

    async with connected(url, connections) as opened:
        began = perf_counter()
        async with asyncio.TaskGroup() as clients:
            for connection in opened:
                clients.create_task(client(connection))
        return perf_counter() - began, answers


@dataclass(frozen=True)
class Timed:
    """A request, and when it is sent: seconds from the beginning."""

    at: float
    head: bytes
    body: bytes


async def post_timed(url: str, requests: Sequence[Timed], connections: int) -> list[tuple[int, bytes]]:
    """Post each request at its time, however long earlier ones take: the status and body of each, in their order.

    `requests` are in the order of their times. `connections` bounds those that are under way; where they are all in
    use the next request is late, as it would be behind a pool of connections.
    """
    answers: list[tuple[int, bytes]] = [(0, b"")] * len(requests)
    left = iter(enumerate(requests))

    async def client(connection: Connection, began: float) -> None:
        for place, request in left:
            await asyncio.sleep(max(0.0, began + request.at - perf_counter()))
            answers[place] = await connection.exchange(request.head, request.body)

    async with connected(url, connections) as opened:
        began = perf_counter()
        async with asyncio.TaskGroup() as clients:
            for connection in opened:
                clients.create_task(client(connection, began))
    return answers
