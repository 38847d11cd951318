"""Runs that may have killed their workers, each in a process of its own: if it kills that, it harms nobody else.

One at a time. The child is told the task on its standard input, and to stop by the end of that, which comes too when
this process dies; it acquires the run itself, and its exit code says what becomes of the delivery.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from agent_worker.metrics import QUARANTINED
from common.contracts import TaskSubmitted
from common.messaging.settlement import Disposition

_log = structlog.get_logger(__name__)
EXIT_CODES = {Disposition.DONE: 0, Disposition.RETURN: 40, Disposition.RETRY: 41, Disposition.DEAD: 42}
_DISPOSITIONS = {code: disposition for disposition, code in EXIT_CODES.items()}
_STOP_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Death:
    """A child that did not come to an orderly end."""

    code: int

    @property
    def how(self) -> str:
        """In words."""
        if self.code >= 0:
            return f"it exited with code {self.code}"
        with contextlib.suppress(ValueError):
            return f"it was ended by {signal.Signals(-self.code).name}"
        return f"it was ended by signal {-self.code}"


class Quarantine:
    """Starts the processes; they have the settings of this one, from the same environment."""

    def __init__(self, grace: float, command: Sequence[str] = (sys.executable, "-m", "agent_worker.alone")) -> None:
        self._grace = grace
        self._command = command
        self._one = asyncio.Semaphore(1)

    async def run(self, task: TaskSubmitted, draining: asyncio.Event) -> Disposition | Death:
        """Run a task alone; once this process drains, to where it can be given back."""
        async with self._one:
            if draining.is_set():
                return Disposition.RETURN
            QUARANTINED.inc()
            child = await asyncio.create_subprocess_exec(*self._command, stdin=asyncio.subprocess.PIPE)
            _log.warning("run.quarantined", task_id=str(task.task_id), pid=child.pid)
            try:
                code = await self._until_over(child, task, draining)
            finally:
                if child.returncode is None:
                    child.kill()
        disposition = _DISPOSITIONS.get(code)
        if disposition is None:
            _log.error("run.killed_its_process", task_id=str(task.task_id), exit_code=code)
        return Death(code) if disposition is None else disposition

    async def _until_over(self, child: asyncio.subprocess.Process, task: TaskSubmitted, draining: asyncio.Event) -> int:
        assert child.stdin is not None  # noqa: S101 - asked for
        child.stdin.write(task.encode() + b"\n")
        over, told = asyncio.create_task(child.wait()), asyncio.create_task(draining.wait())
        try:
            await asyncio.wait({over, told}, return_when=asyncio.FIRST_COMPLETED)
            child.stdin.close()
            async with asyncio.timeout(None if over.done() else self._grace + _STOP_SECONDS):
                return await over
        except TimeoutError:
            child.kill()
            await child.wait()
            return EXIT_CODES[Disposition.RETURN]
        finally:
            over.cancel()
            told.cancel()
