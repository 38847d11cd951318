"""Before its first call: a provider's client has a connection, and its SDK has built what it builds when it is used.

The connection is opened by listing the models, which costs nothing. What an SDK builds lazily, in up to a fifth of a
second in which nothing else of the worker moves, it builds for an answer that is read here and was never asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import Any, Protocol, runtime_checkable

import httpx2
import orjson
import structlog

from agent_worker.providers.base import NO_ATTEMPT, CallMeter, ModelRequest, Piece, ProviderError, Turn

_log = structlog.get_logger(__name__)
_SECONDS = 5.0
_REQUEST = ModelRequest("rehearsed", "", (Turn("user", ({"type": "text", "text": "?"},)),), (), 1, None, NO_ATTEMPT)


@runtime_checkable
class Warmable(Protocol):
    """A provider whose first call would take longer."""

    name: str

    async def warm_up(self) -> None:
        """Get ready for it. Raises `ProviderError`."""


async def warm_up(providers: Iterable[object], seconds: float = _SECONDS) -> None:
    """Get all of them ready that have something to do, side by side. What fails is logged: the first call is slower."""
    await asyncio.gather(*(_warm(provider, seconds) for provider in providers if isinstance(provider, Warmable)))


async def _warm(provider: Warmable, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await provider.warm_up()
    except TimeoutError:
        _log.warning("provider.not_warm", provider=provider.name, reason="time_out", seconds=seconds)
    except ProviderError as error:
        _log.warning("provider.not_warm", provider=provider.name, reason=error.reason, detail=error.detail)


def answering(events: Iterable[dict[str, Any]]) -> httpx2.AsyncClient:
    """A client that opens no connection: whatever it is asked, these events are the answer."""
    written = b"".join(b"event: %b\ndata: %b\n\n" % (_name(event), orjson.dumps(event)) for event in events)
    headers = {"content-type": "text/event-stream"}
    return httpx2.AsyncClient(
        transport=httpx2.MockTransport(lambda _: httpx2.Response(200, headers=headers, content=written))
    )


async def rehearse(provider: _Streaming) -> None:
    """Read an answer as it is read in a run."""
    async for _ in provider.stream(_REQUEST, CallMeter()):
        pass


class _Streaming(Protocol):
    def stream(self, request: ModelRequest, meter: CallMeter) -> AsyncGenerator[Piece, None]:
        """See `Provider.stream`."""


def _name(event: dict[str, Any]) -> bytes:
    return str(event.get("type", "message")).encode()
