"""Writes all runs' events to Redis: one pipeline for the whole process, a few dozen times a second.

What is urgent, such as the first token of an answer, goes out at once; the tokens after it wait for the window and go
together. Redis may be lost at any time: events stay with their log until they are durable elsewhere, and a log that
Redis has forgotten is written anew from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable

import structlog

from agent_worker.progress import RunLog
from common import streams
from common.errors import CacheRefused, CacheUnavailable
from common.pipelining import Argument, Pipelined

_log = structlog.get_logger(__name__)
_WINDOW_SECONDS = 0.025
_PAUSE_SECONDS = 0.5
_BATCH = 200


class StreamWriter:
    """The one writer of a process. `run` is its background task."""

    def __init__(self, redis: Pipelined, on_fenced_off: Callable[[RunLog], None]) -> None:
        self._redis = redis
        self._on_fenced_off = on_fenced_off
        self._dirty: dict[RunLog, None] = {}
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()

    def notice(self, log: RunLog, *, urgent: bool) -> None:
        """See `Sink.notice`."""
        self._dirty[log] = None
        self._wake.set()
        if urgent:
            self._urgent.set()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._wake.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WINDOW_SECONDS):
                    await self._urgent.wait()
            try:
                await self.flush()
            except CacheUnavailable as error:
                _log.warning("stream.postponed", error=str(error), runs=len(self._dirty))
                await asyncio.sleep(_PAUSE_SECONDS)

    async def flush(self) -> None:
        """Write everything that waits. Raises `CacheUnavailable`, and keeps what was not written."""
        self._wake.clear()
        self._urgent.clear()
        logs = list(self._dirty)
        self._dirty.clear()
        for start in range(0, len(logs), _BATCH):
            try:
                await self._write(logs[start : start + _BATCH])
            except CacheUnavailable:
                self._dirty.update(dict.fromkeys(logs[start:]))
                self._wake.set()
                raise

    async def _write(self, logs: list[RunLog]) -> None:
        sent: list[tuple[RunLog, int]] = []
        appends: list[tuple[list[str], list[Argument]]] = []
        for log in logs:
            events = log.not_written()
            if not events:
                continue
            try:
                arguments = streams.append_arguments(events, create=log.may_create)
            except (TypeError, ValueError) as error:  # one run's fault is not to stop the others' streams
                _log.error("stream.unwritable", log=log.key, error=repr(error))
                continue
            sent.append((log, events[-1].seq))
            appends.append(([log.key], arguments))
        answers = await self._redis.run_each(streams.APPEND, appends) if sent else []
        refused: dict[RunLog, Exception] = {}
        for (log, last_seq), answer in zip(sent, answers, strict=True):
            if isinstance(answer, CacheRefused):
                refused[log] = answer
            else:
                self._settle(log, last_seq, answer)
        if refused:
            self._postpone(refused)

    def _postpone(self, refused: dict[RunLog, Exception]) -> None:
        """Logs that Redis would not take, each for a reason of its own: a full memory, a value of another type."""
        _log.warning("stream.refused", runs=len(refused), error=repr(next(iter(refused.values()))))
        for log in refused:
            asyncio.get_running_loop().call_later(_PAUSE_SECONDS, functools.partial(self.notice, log, urgent=False))

    def _settle(self, log: RunLog, last_seq: int, answer: int) -> None:
        if answer == streams.FENCED_OFF:
            self._on_fenced_off(log)
        elif answer == streams.GONE:
            _log.info("stream.rewritten", log=log.key)
            log.mark_unwritten()
            self.notice(log, urgent=True)
        else:
            log.mark_written(last_seq)
