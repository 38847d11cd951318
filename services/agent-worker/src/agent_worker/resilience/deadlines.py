"""How long a model call may take: until it begins to answer, and until it has ended.

The client's own time-out is for silence on the wire, which a provider breaks with pings; these are for what is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from agent_worker.providers.base import CallMeter, ModelRequest, Piece, Provider, TransientError


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Both in seconds, from the beginning of the call."""

    first_token: float
    total: float


class Timed:
    """A provider whose calls have deadlines."""

    def __init__(self, provider: Provider, deadlines: Deadlines) -> None:
        self._provider = provider
        self._deadlines = deadlines
        self.name = provider.name

    async def stream(self, request: ModelRequest, meter: CallMeter) -> AsyncGenerator[Piece, None]:
        """See `Provider.stream`. Raises `TransientError` where the time is up."""
        alarm = _Alarm(self._deadlines, meter)
        try:
            async with aclosing(self._provider.stream(request, meter)) as pieces:
                while (piece := await alarm.heed(pieces)) is not None:
                    yield piece
        finally:
            alarm.stop()

    async def close(self) -> None:
        """See `Provider.close`."""
        await self._provider.close()


class _Alarm:
    """`asyncio.timeout` for all the waits of one stream: set twice a call, and not anew for each of its tokens.

    While the stream's reader is busy with something else it cuts nothing: what comes next does not wait any more.
    """

    def __init__(self, deadlines: Deadlines, meter: CallMeter) -> None:
        self._loop = asyncio.get_running_loop()
        self._ends = self._loop.time() + deadlines.total
        self._deadlines = deadlines
        self._meter = meter
        # Of all the pieces, which one task reads: asking for it with each took 7 % of a busy worker's time.
        self._reader = asyncio.current_task()
        self._waiting = False
        self._over = ""
        self._rung = False
        self._handle = self._loop.call_later(min(deadlines.first_token, deadlines.total), self._look)

    async def heed(self, pieces: AsyncGenerator[Piece, None]) -> Piece | None:
        """The next piece; None: it was the last. Raises `TransientError` where the time is up."""
        if self._over:
            raise self._error(self._over)
        self._waiting = True
        try:
            return await anext(pieces, None)
        except asyncio.CancelledError:
            if not self._rung or self._reader is None or self._reader.uncancel() > 0:
                raise
            raise self._error(self._over) from None
        finally:
            self._waiting = False

    def stop(self) -> None:
        """The call is over."""
        self._handle.cancel()

    def _look(self) -> None:
        """The time for the first token is over, or all of it."""
        if self._loop.time() >= self._ends:
            self._ring("the provider did not end its answer in time")
        elif self._meter.received_bytes:
            self._handle = self._loop.call_at(self._ends, self._look)
        else:
            self._ring("the provider did not begin to answer in time")

    def _ring(self, why: str) -> None:
        self._over = why
        if self._waiting and self._reader is not None:
            self._rung = True
            self._reader.cancel()

    def _error(self, why: str) -> TransientError:
        return TransientError("provider_timeout", why)
