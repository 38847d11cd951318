"""How MCP servers are reached: over HTTP through the guard of addresses, or as a program on its pipes.

A redirect is followed to the same origin alone, by the SDK and through the guard like any other request: so what
authenticates us goes to the host that was named, and to no other.

A connection is one listing's or one call's. So nothing of one run is left for another, a server that hangs holds nobody
else up, and one that was restarted is simply there again.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache

import anyio
import httpcore2
import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from agent_worker.mcp.server import Server
from agent_worker.tools.guard import Guard
from common.errors import ConfigurationError

_MOST_BYTES = 4 * 1024 * 1024
_CONNECT_SECONDS = 5.0


# Compressed it could be any size when it is not.
_PLAIN = "identity"


class TooLargeError(Exception):
    """Answers that are larger than any tool's."""

    def __init__(self) -> None:
        super().__init__(f"its answers are larger than {_MOST_BYTES} bytes")


class CompressedError(Exception):
    """An answer whose size nobody knows."""

    def __init__(self) -> None:
        super().__init__("its answer is compressed, though it was asked not to be")


@dataclass(slots=True)
class _Allowance:
    """What may still be read of one connection's answers."""

    left: int = _MOST_BYTES

    def take(self, size: int) -> None:
        """Raises `TooLargeError`."""
        self.left -= size
        if self.left < 0:
            raise TooLargeError


class _Bounded(httpx2.AsyncByteStream):
    """A response's body, within the allowance of all."""

    def __init__(self, stream: httpx2.AsyncByteStream, allowance: _Allowance) -> None:
        self._stream = stream
        self._allowance = allowance

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            self._allowance.take(len(part))
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


# Made once: reading all authorities takes twenty milliseconds, in which nothing else of the worker moves.
@cache
def _trust() -> ssl.SSLContext:
    return httpx2.create_ssl_context(trust_env=False)


@cache
def _guarded_trust() -> ssl.SSLContext:
    return httpcore2.default_ssl_context()


class Transport(httpx2.AsyncHTTPTransport):
    """HTTP whose connections a guard makes, where there is one."""

    def __init__(self, guard: Guard | None) -> None:
        trust = _trust() if guard is None else _guarded_trust()
        super().__init__(verify=trust, trust_env=False)
        self._allowance = _Allowance()
        if guard is not None:
            # The one place where the client can be told who connects; a test holds it to that.
            self._pool = httpcore2.AsyncConnectionPool(ssl_context=trust, network_backend=guard, max_connections=4)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See `AsyncHTTPTransport`."""
        request.headers["Accept-Encoding"] = _PLAIN
        response = await super().handle_async_request(request)
        assert isinstance(response.stream, httpx2.AsyncByteStream)  # noqa: S101 - of an asynchronous transport
        if response.headers.get("content-encoding", "").strip().lower() not in ("", _PLAIN):
            await response.aclose()
            raise CompressedError
        response.stream = _Bounded(response.stream, self._allowance)
        return response


@asynccontextmanager
async def connected(server: Server, guard: Guard, seconds: float) -> AsyncIterator[Client]:
    """A session with the server. Raises whatever goes wrong; the caller has a deadline."""
    async with AsyncExitStack() as stack:
        if server.url is None:
            devnull = stack.enter_context(open(os.devnull, "w"))  # noqa: ASYNC230, PTH123, SIM115 - it opens at once
            program, *arguments = server.command
            # The environment is the least that programs need: none of our secrets.
            target = stdio_client(StdioServerParameters(command=program, args=arguments), errlog=devnull)
        else:
            timeout = httpx2.Timeout(seconds, connect=_CONNECT_SECONDS)
            http = await stack.enter_async_context(
                httpx2.AsyncClient(
                    transport=Transport(None if server.private else guard),
                    timeout=timeout,
                    headers=await _headers(server),
                    trust_env=False,
                )
            )
            target = streamable_http_client(server.url, http_client=http)
        yield await stack.enter_async_context(Client(target, read_timeout_seconds=seconds, cache=None))


async def _headers(server: Server) -> dict[str, str]:
    if server.auth is not None:
        return {server.auth.header: server.auth.value}
    if server.bearer_file is None:
        return {}
    try:
        token = (await anyio.Path(server.bearer_file).read_text(encoding="utf-8")).strip()
    except OSError as error:
        raise ConfigurationError(f"its bearer_file cannot be read: {error.strerror}") from error
    return {"Authorization": f"Bearer {token}"}
