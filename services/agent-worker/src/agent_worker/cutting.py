"""Cutting a run short: what is being made durable is finished first, unless whoever cuts cannot wait.

A task that is cancelled once lets such an action come to its end; cancelled again it gives up at once. So a run that is
stopped loses no usage record, and a process that must go does not hang on a broker that is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

import structlog

_log = structlog.get_logger(__name__)
T = TypeVar("T")


async def undisturbed(action: Coroutine[Any, Any, T]) -> T:
    """Await the action to its end; a cancellation that comes meanwhile is raised after it."""
    doing = asyncio.ensure_future(action)
    cut: asyncio.CancelledError | None = None
    while not doing.done():
        try:
            await asyncio.wait({doing})
        except asyncio.CancelledError as error:
            cut = error
            if _cancelled_again() and not doing.done():
                _log.error("run.gave_up", unfinished=getattr(action, "__qualname__", ""))
                doing.cancel()
                await asyncio.wait({doing})
                raise
    if cut is None:
        return doing.result()
    if not doing.cancelled() and (failure := doing.exception()) is not None:
        raise failure
    raise cut


async def side_by_side(actions: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all of them; their results in their order. Where one fails the others are cut, and all where this is.

    None goes on when this has ended: what it may still do is over before the run is another worker's.
    """
    doing = [asyncio.ensure_future(action) for action in actions]
    try:
        if doing:
            await asyncio.wait(doing, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        await _cut([one for one in doing if not one.done()])
        failures = [error for one in doing if not one.cancelled() and (error := one.exception()) is not None]
    if failures:
        raise failures[0]
    return [one.result() for one in doing]


async def _cut(doing: list[asyncio.Future[T]]) -> None:
    for one in doing:
        one.cancel()
    try:
        if doing:
            await asyncio.wait(doing)
    except asyncio.CancelledError:
        for one in doing:
            one.cancel()
        await asyncio.wait(doing)
        raise


def _cancelled_again() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 1
