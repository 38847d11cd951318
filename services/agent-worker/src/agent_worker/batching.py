"""Many runs ask for the same thing at the same time: they are answered together.

While one batch is under way the next one gathers. Alone, a call goes out at once; where there was company a moment ago
the next batch waits a few milliseconds for more of it, as every batch is a round trip, a commit and its locks.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from common.errors import StoreContended, StoreUnavailable

_LINGER_SECONDS = 0.005

CallT = TypeVar("CallT")
AnswerT = TypeVar("AnswerT")


@dataclass(slots=True)
class _Waiting(Generic[CallT, AnswerT]):
    call: CallT
    answer: asyncio.Future[AnswerT]


class Batched(Generic[CallT, AnswerT]):
    """Answers calls in batches, one at a time. `perform` answers a batch in its order, within its own deadline."""

    def __init__(
        self,
        perform: Callable[[Sequence[CallT]], Awaitable[Sequence[AnswerT]]],
        *,
        size: int,
        order: Callable[[CallT], Any],
    ) -> None:
        """`size` bounds a batch; `order` sorts it, so that all who lock lock in the same order."""
        self._perform = perform
        self._size = size
        self._order = order
        # Bounded by the worker's slots: each run waits for one answer.
        self._waiting: deque[_Waiting[CallT, AnswerT]] = deque()
        self._working: asyncio.Task[None] | None = None
        self._had_company = False

    async def call(self, call: CallT) -> AnswerT:
        """The answer to this call. Raises what `perform` raised for it."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting[CallT, AnswerT](call, loop.create_future())
        self._waiting.append(waiting)
        if self._working is None or self._working.done():
            self._working = loop.create_task(self._work(), name="batch")
        return await waiting.answer

    async def _work(self) -> None:
        while self._waiting:
            if self._had_company and len(self._waiting) < self._size:
                await asyncio.sleep(_LINGER_SECONDS)
            batch = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
            self._had_company = len(batch) > 1
            await self._answer(sorted(batch, key=lambda waiting: self._order(waiting.call)))

    async def _answer(self, batch: Sequence[_Waiting[CallT, AnswerT]]) -> None:
        try:
            answers = await self._perform([waiting.call for waiting in batch])
        except asyncio.CancelledError:
            _fail(batch, StoreUnavailable("the worker is stopping"))
            raise
        except Exception as error:  # noqa: BLE001 - the boundary that gives each caller its own failure
            if len(batch) > 1 and _may_be_ones_fault(error):
                await asyncio.gather(*(self._answer([waiting]) for waiting in batch))
            else:
                _fail(batch, error)
            return
        for waiting, answer in zip(batch, answers, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(answer)


def _may_be_ones_fault(error: Exception) -> bool:
    """Whether the rest of the batch could succeed without the one that failed."""
    return isinstance(error, StoreContended) or not isinstance(error, StoreUnavailable)


def _fail(batch: Sequence[_Waiting[CallT, AnswerT]], error: Exception) -> None:
    for waiting in batch:
        if not waiting.answer.done():
            waiting.answer.set_exception(error)
