"""What outlives the request that began it: owned, bounded, and waited for when the process stops."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Self

import structlog

_log = structlog.get_logger(__name__)
_LIMIT = 5_000
_STOP_SECONDS = 5.0


class Background:
    """A set of short tasks. Use as an async context manager: at its end they have so many seconds to finish."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None] | None:
        """Begin; None where too much is under way already, and the work is dropped: it is best effort by nature."""
        if len(self._tasks) >= _LIMIT:
            work.close()
            _log.warning("background.dropped", work=name)
            return None
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("background.failed", work=task.get_name(), error=repr(error))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STOP_SECONDS)
        for task in self._tasks:
            task.cancel()
