"""The connections of a provider's client: those of aiohttp, below both SDKs.

The pool that the SDKs have by themselves looks at each of its connections whenever a request begins or ends, and reads
HTTP in Python: with a thousand calls under way that took two fifths of a worker's time.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import httpx2
from anthropic import DefaultAioHttpClient


def http_client(connections: int, timeout: httpx2.Timeout) -> httpx2.AsyncClient:
    """For so many calls at a time, of either SDK: OpenAI's own takes a server that hangs up for one that is silent."""
    seconds = math.inf if timeout.read is None else timeout.read

    async def attend(response: httpx2.Response) -> None:
        if isinstance(response.stream, httpx2.AsyncByteStream) and seconds < math.inf:
            response.stream = _Attended(response.stream, seconds)

    limits = httpx2.Limits(max_connections=connections)
    return DefaultAioHttpClient(limits=limits, timeout=timeout, event_hooks={"response": [attend]})


class _Attended(httpx2.AsyncByteStream):
    """A response's body, which is over when it is silent for too long.

    aiohttp has a clock for that, and stops it where what comes is no HTTP any more; but who reads is told nothing then,
    and would wait for ever. This one is set once in so many seconds, whatever comes.
    """

    def __init__(self, stream: httpx2.AsyncByteStream, seconds: float) -> None:
        self._stream = stream
        self._seconds = seconds
        self._waits_since = math.inf
        self._closing: asyncio.Task[None] | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        self._waits_since = loop.time()
        self._clock = loop.call_later(self._seconds, self._look)
        try:
            async for part in self._stream:
                self._waits_since = math.inf  # whoever reads is busy
                yield part
                self._waits_since = loop.time()
        except httpx2.HTTPError as error:
            if self._closing is None:
                raise
            raise httpx2.ReadTimeout(f"nothing came for {self._seconds:g} s") from error
        finally:
            self._clock.cancel()

    async def aclose(self) -> None:
        if self._closing is not None:
            await self._closing
        await self._stream.aclose()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        due = min(self._waits_since, loop.time()) + self._seconds
        if due > loop.time():
            self._clock = loop.call_at(due, self._look)
        else:  # which wakes the reader
            self._closing = asyncio.create_task(self._stream.aclose(), name="silent")
