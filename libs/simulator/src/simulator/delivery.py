"""Sends the frames of a stream, each token at its time, and counts the tokens that have left."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass

from simulator.dialects.base import Frame
from simulator.wire import Wire

_LARGEST_WRITE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds to the first token, and from one token to the next."""

    first: float = 0.0
    step: float = 0.0

    @classmethod
    def of(cls, ttft: float, tps: float | None) -> "Pace":
        """The pace of so many tokens per second; as fast as possible when not set."""
        return cls(ttft, 1 / tps if tps else 0.0)


class Delivery:
    """One stream on its way; `sent` counts its output tokens that were written, the last of them at `last_sent_at`."""

    def __init__(self, wire: Wire, pace: Pace) -> None:
        self._wire = wire
        self._step = pace.step
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._due = self._started + pace.first
        self._pending = bytearray()
        self._pending_tokens = 0
        self.sent = 0
        self.last_sent_at = 0.0

    async def run(self, frames: Iterator[Frame], *, complete: bool) -> bool:
        """Send all frames and, when `complete`, the end of the body; False when the client went away.

        What is due at the same moment leaves in one write.
        """
        now = self._started
        pending = self._pending
        for tokens, data in frames:
            if tokens:
                if self._due > now:
                    if not await self._wait():
                        return False
                    now = self._loop.time()
                self._due += tokens * self._step
                self._pending_tokens += tokens
            pending += data
            if len(pending) > _LARGEST_WRITE and not await self._flush():
                return False
        return await self._flush(last=complete)

    async def _wait(self) -> bool:
        """Wait until the next token is due, after sending what was due before."""
        if self._due <= self._loop.time():
            return True
        if self._pending and not await self._flush():
            return False
        return await self._wire.until(self._due)

    async def _flush(self, *, last: bool = False) -> bool:
        if not await self._wire.write(bytes(self._pending), last=last):
            return False
        if self._pending_tokens:
            self.sent += self._pending_tokens
            self._pending_tokens = 0
            self.last_sent_at = time.time()
        self._pending.clear()
        return True
