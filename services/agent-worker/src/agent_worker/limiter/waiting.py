"""The calls of this process that wait for one bucket: the best tier first, and within a tier in their order.

Only the first of them asks, so that a thousand that wait ask no more often than one. There is no task behind it: each
wakes the next when it is through, or is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

LONGEST_LOOK = 0.9
"""Seconds until the first asks again, whatever it was told: others give back, and its claim lapses."""


@dataclass(order=True, slots=True)
class _Waiter:
    rank: int
    number: int
    awake: asyncio.Event = field(default_factory=asyncio.Event, compare=False)


class Queue:
    """The queue before one bucket; bounded by the worker's slots."""

    def __init__(self) -> None:
        self._waiting: list[_Waiter] = []
        self._numbers = itertools.count()
        self._random = random.Random()  # noqa: S311 - jitter

    def __len__(self) -> int:
        return len(self._waiting)

    async def through(self, rank: int, attempt: Callable[[], Awaitable[float]]) -> None:
        """Return once the attempt has answered 0; any other answer is the seconds to wait. Rank 0 goes first."""
        waiter = _Waiter(rank, next(self._numbers))
        pause = 0.0
        if not self._waiting or waiter < self._waiting[0]:
            pause = await attempt()
            if pause <= 0:
                return
        heapq.heappush(self._waiting, waiter)
        try:
            while True:
                await self._until_its_turn(waiter, pause)
                pause = await attempt()
                if pause <= 0:
                    return
        finally:
            self._waiting.remove(waiter)
            heapq.heapify(self._waiting)
            self.wake()

    def wake(self) -> None:
        """Something was given back: the first may ask at once."""
        if self._waiting:
            self._waiting[0].awake.set()

    async def _until_its_turn(self, waiter: _Waiter, pause: float) -> None:
        """The pause if it is first, else until it is."""
        first = self._waiting[0] is waiter
        while True:
            if first:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._look(pause)):
                        await waiter.awake.wait()
            else:
                await waiter.awake.wait()
            waiter.awake.clear()
            if self._waiting[0] is waiter:
                return
            first = False

    def _look(self, pause: float) -> float:
        """A little later than it was told, and not at the moment in which all other workers' first ask too."""
        return min(LONGEST_LOOK, pause) + self._random.uniform(0.0, 0.005 + 0.1 * min(LONGEST_LOOK, pause))
