"""`python -m tests.chaos.mortal`: an agent worker that dies, or stands still, in a run where the task says so.

`metadata` of such a task: `dies_at`, the how manieth suspension of the run, all of its tasks counted; and `when`:
`before` what is then awaited has left the process, or `after` it has, which is before any answer. It dies as by the
kernel's hand, and once: who takes the run over lives. In its place another begins, by a fork of what is imported
already. With `fate` as `stands` it is stopped instead, and the broker gives it up, until somebody lets it go on.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Generator
from contextlib import suppress
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit
from uuid import UUID

from agent_worker.__main__ import main
from agent_worker.quarantine import Death
from agent_worker.runner import Runner
from common.contracts import TaskSubmitted
from common.messaging.settlement import Disposition

MARKS = "CHAOS_MARKS"
"""The variable that names the folder in which it is marked that a run's worker died, or did not."""
_PR_SET_PDEATHSIG = 1
_FATE: ContextVar[Fate | None] = ContextVar("fate", default=None)


def died(folder: Path, task: UUID | str) -> Path:
    """There once the task's worker is about to die, or to stand still; says its process."""
    return folder / f"{task}.died"


def survived(folder: Path, task: UUID | str) -> Path:
    """There once the task's run is over, in a worker that was to die and did not get to it; says its suspensions."""
    return folder / f"{task}.survived"


class Fate:
    """Counts the suspensions of one run."""

    def __init__(self, task: UUID, at: int, when: str, number: signal.Signals) -> None:
        self._task = task
        self._at = at
        self._when = when
        self._number = number
        self._folder = Path(os.environ[MARKS])
        self._count = 0
        self._over = False

    def suspended(self) -> None:
        """A task of the run is about to wait."""
        if self._over:
            return
        self._count += 1
        if self._count == self._at:
            if self._when == "before":
                self._die()
            else:  # what was written is sent at the end of this round of the loop
                asyncio.get_running_loop().call_soon(self._die)

    def _die(self) -> None:
        _write(died(self._folder, self._task), os.getpid())
        if self._number is signal.SIGSTOP:
            _leave_the_broker()
        os.kill(os.getpid(), self._number)

    def over(self) -> None:
        """The run is."""
        self._over = True
        _write(survived(self._folder, self._task), self._count)


def _write(mark: Path, number: int) -> None:
    part = mark.with_suffix(f"{mark.suffix}.part")
    part.write_text(str(number), encoding="utf-8")
    part.rename(mark)


def _leave_the_broker() -> None:
    """As it is with a worker that is silent for long: the broker gives its messages to others."""
    port = urlsplit(os.environ["LANEWAY_RABBIT_URL"]).port
    for number in [int(entry.name) for entry in Path("/dev/fd").iterdir()]:
        with suppress(OSError):  # not a socket, or not a connected one
            one = socket.socket(fileno=number)
            try:
                if one.family is not socket.AF_UNIX and one.getpeername()[1] == port:
                    one.shutdown(socket.SHUT_RDWR)
            finally:
                one.detach()


class Watched:
    """Awaits a coroutine, and tells its fate of each suspension."""

    def __init__(self, inner: Coroutine[Any, Any, Any], fate: Fate) -> None:
        self._inner = inner
        self._fate = fate

    def __await__(self) -> Generator[Any, Any, Any]:
        value: Any = None
        error: BaseException | None = None
        while True:
            try:
                waits_for = self._inner.send(value) if error is None else self._inner.throw(error)
            except StopIteration as end:
                return end.value
            self._fate.suspended()
            value = error = None
            try:
                value = yield waits_for
            except GeneratorExit:
                self._inner.close()
                raise
            except BaseException as thrown:  # noqa: BLE001 - it is the coroutine's, a cancellation too
                error = thrown


async def _awaited(inner: Coroutine[Any, Any, Any], fate: Fate) -> Any:
    return await Watched(inner, fate)


def _task_of(loop: asyncio.AbstractEventLoop, inner: Any, **more: Any) -> asyncio.Task[Any]:
    """A task that belongs to the run in which it is made."""
    fate = (more.get("context") or copy_context()).get(_FATE)
    return asyncio.Task(inner if fate is None else _awaited(inner, fate), loop=loop, **more)


_run = Runner.run


async def _fated(runner: Runner, task: TaskSubmitted, death: Death | None = None) -> Disposition:
    asyncio.get_running_loop().set_task_factory(_task_of)
    at = task.metadata.get("dies_at")
    if at is None or died(Path(os.environ[MARKS]), task.task_id).exists():
        return await _run(runner, task, death)
    number = signal.SIGSTOP if task.metadata.get("fate") == "stands" else signal.SIGKILL
    fate = Fate(task.task_id, int(at), task.metadata["when"], number)
    _FATE.set(fate)
    try:
        disposition: Disposition = await Watched(_run(runner, task, death), fate)
    finally:
        fate.over()
    return disposition


def _die_with_the_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def live() -> int:
    """Live until a worker ends by itself, or is asked to; its exit code."""
    asked = False
    child = 0

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True
        if child:
            os.kill(child, signal.SIGTERM)

    signal.signal(signal.SIGTERM, ask)
    while True:
        child = os.fork()
        if child == 0:
            _die_with_the_parent()
            with patch.object(Runner, "run", _fated):
                return main()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if asked or code != -signal.SIGKILL:
            return code


if __name__ == "__main__":
    sys.exit(live())
