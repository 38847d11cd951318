"""A process from start to orderly stop: the first signal asks it to end, the deadline makes sure that it does."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable

import structlog
import uvloop

from common.errors import ConfigurationError, Unavailable
from common.observability import observing
from common.settings import Telemetry

_log = structlog.get_logger(__name__)
_EXIT_UNAVAILABLE = 1
_EXIT_USAGE = 2
# Requests and runs leave hardly any circles behind: the default of 700 looks for them at every other message.
_COLLECT_AFTER = 10_000


def run(service: str, telemetry: Telemetry, main: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    """Run `main` until it returns; it is handed the event that SIGTERM and SIGINT set. Returns the exit code."""
    with observing(telemetry, service):
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_supervise(service, main))
        except ConfigurationError as error:
            sys.stderr.write(f"{error}\n")
            return _EXIT_USAGE
        except Unavailable as error:
            sys.stderr.write(f"{service} cannot start: {error}\n")
            return _EXIT_UNAVAILABLE
    return 0


async def _supervise(service: str, main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    _log.info("service.starting")
    await main(stopping)
    _log.info("service.stopped", service=service)


async def until_stopped(stopping: asyncio.Event, *tasks: asyncio.Task[None]) -> None:
    """Wait for the stop signal. A background task that ends before it is a fault, and is raised here."""
    _spare_the_collector()
    waiter = asyncio.create_task(stopping.wait(), name="stopping")
    try:
        done, _ = await asyncio.wait({waiter, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in done - {waiter}:
            task.result()
            raise RuntimeError(f"the background task {task.get_name()!r} ended by itself")
    finally:
        waiter.cancel()


def _spare_the_collector() -> None:
    """What was made at start stays for good: it need not be walked through again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)
    gc.enable()


async def stop(*tasks: asyncio.Task[object], deadline: float = 5.0) -> None:
    """Cancel background tasks and wait for their end."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=deadline)
