"""`python -m agent_worker.alone`: a worker for one task, which it is told on its standard input (see `quarantine`)."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack

from agent_worker.assembly import assembled
from agent_worker.pauses import PauseKeeper
from agent_worker.quarantine import EXIT_CODES
from agent_worker.settings import WorkerSettings, worker_name
from common.catalogue import load_catalogue
from common.contracts import Contract, TaskSubmitted
from common.lifecycle import run, stop
from common.messaging.consumer import hearing_control
from common.messaging.settlement import Disposition
from common.settings import load

NAME = "/alone"
"""How such a worker's name ends: `runtime.acquire` counts by it."""
_LONGEST_LINE = 4 * 1024 * 1024
_EXIT_UNUSED = 43


class Given:
    """A delivery that came from another process, which settles the real one."""

    redelivered = True
    headers: dict[str, object] = {}  # noqa: RUF012 - never written

    def __init__(self, task: TaskSubmitted) -> None:
        self._task = task
        self.disposition = Disposition.RETURN

    def decode(self) -> TaskSubmitted:
        """See `Delivery.decode`."""
        return self._task

    async def settle(self, disposition: Disposition) -> bool:
        """See `Delivery.settle`."""
        self.disposition = disposition
        return True


async def serve_one(settings: WorkerSettings, stopping: asyncio.Event) -> Disposition | None:
    """Run the task that the standard input names, and say what becomes of its delivery; None where it names none."""
    lines = asyncio.StreamReader(limit=_LONGEST_LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    line = await lines.readline()
    if not line.endswith(b"\n"):
        return None
    catalogue = load_catalogue(settings.catalogue.dir)
    given = Given(TaskSubmitted.decode(line))
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(assembled(settings, catalogue, worker_name() + NAME, None))
        supervisor = made.supervisor
        keeper = PauseKeeper(made.repository, {}, lambda _: None, supervisor.park)

        def hear(contract: Contract) -> None:
            supervisor.hear(contract)
            keeper.hear(contract)

        await stack.enter_async_context(hearing_control(made.broker, f"worker-{os.urandom(6).hex()}", hear))
        watching: set[asyncio.Task[None]] = {
            asyncio.create_task(keeper.run(), name="pauses"),
            asyncio.create_task(_until_told(lines, stopping), name="told"),
        }
        stack.push_async_callback(stop, *watching)
        running = supervisor.start(given)
        await asyncio.wait({running, *watching, *made.tasks}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            await supervisor.drain(settings.grace_seconds)
    return given.disposition


async def _until_told(lines: asyncio.StreamReader, stopping: asyncio.Event) -> None:
    """Until it is to stop: the input ends when whoever gave the task stops, or dies."""
    waits = [asyncio.create_task(lines.read()), asyncio.create_task(stopping.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def main() -> int:
    """Run the task; the exit code says what becomes of its delivery."""
    settings = load(WorkerSettings)
    ended: list[Disposition | None] = []

    async def serve(stopping: asyncio.Event) -> None:
        ended.append(await serve_one(settings, stopping))

    failed = run("agent-worker", settings.telemetry, serve)
    disposition = ended[0] if ended else None
    return failed or (_EXIT_UNUSED if disposition is None else EXIT_CODES[disposition])


if __name__ == "__main__":
    raise SystemExit(main())
