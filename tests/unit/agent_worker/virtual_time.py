"""A clock that stands still while anything can be done, and jumps when nothing can: seconds of it cost none, and are
the same on every machine."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Answer = TypeVar("Answer")


class _Jumping(selectors.SelectSelector):
    """Where the loop would wait for a timer the time has come at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout if timeout is None else 0)
        if not ready and timeout:
            self.now += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def in_virtual_time(main: Coroutine[Any, Any, Answer]) -> Answer:
    """Run what touches no server by that clock."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(main)
