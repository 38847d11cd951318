"""Connections to the public internet alone: the guard against server-side request forgery.

It sits where connections are made, so nothing that leads there can pass it by: a name is resolved once, all that it
resolves to is checked, and the connection is made to an address that was checked. Who checks a name and then connects
to it asks the resolver twice, and may get another answer. TLS still checks the name's certificate.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import ip_address

import structlog
from httpcore2 import SOCKET_OPTION, AnyIOBackend, AsyncNetworkBackend, AsyncNetworkStream, ConnectError, ConnectTimeout

from agent_worker.tools.signature import ToolError
from common.addresses import Address, Network, may_connect

_log = structlog.get_logger(__name__)

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a name."""


async def resolve(host: str, port: int) -> Sequence[str]:
    """As the system does. Raises `OSError`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Guard(AsyncNetworkBackend):
    """Makes the connections of an HTTP client."""

    def __init__(self, resolve: Resolve = resolve, allowed: Sequence[Network] = ()) -> None:
        """In the networks that are allowed every port is, elsewhere the two of the web."""
        self._resolve = resolve
        self._allowed = allowed
        self._backend = AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SOCKET_OPTION] | None = None,
    ) -> AsyncNetworkStream:
        """See `AsyncNetworkBackend`; `host` is a name or an address. Raises `ToolError` where it may not be reached."""
        addresses = await self._addresses(host, port)
        for place, address in enumerate(addresses, 1):
            try:
                return await self._backend.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (ConnectError, ConnectTimeout):
                if place == len(addresses):
                    raise
        raise AssertionError("a name without addresses is refused")

    async def _addresses(self, host: str, port: int) -> Sequence[Address]:
        try:
            addresses = [ip_address(found) for found in await self._resolve(host, port)]
        except (OSError, ValueError) as error:  # a name that is too long or has an odd character is a ValueError
            raise ToolError(f"the host {host!r} is not known") from error
        if not addresses:
            raise ToolError(f"the host {host!r} is not known")
        for address in addresses:
            if not may_connect(address, port, self._allowed):
                _log.warning("fetch.refused", host=host, port=port, address=str(address))
                raise ToolError(f"{host}:{port} is not on the public web, and may not be reached")
        return addresses

    async def connect_unix_socket(self, *_: object, **__: object) -> AsyncNetworkStream:
        """Never."""
        raise ToolError("no URL leads there")

    async def sleep(self, seconds: float) -> None:
        """See `AsyncNetworkBackend`."""
        await asyncio.sleep(seconds)
