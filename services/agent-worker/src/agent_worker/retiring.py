"""When a worker has served long enough: it drains and ends, and whoever started it starts a fresh one in its place.

What leaks in a process that runs other people's tools for weeks, in it or in a library, is so given back.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from common.errors import ConfigurationError

_log = structlog.get_logger(__name__)
_LOOK_SECONDS = 1.0
_STATM = Path("/proc/self/statm")
_MEGABYTE = 1_000_000
# Workers that were started together do not all end together.
_SPREAD = 0.1


@dataclass(frozen=True, slots=True)
class Term:
    """After how many runs, and above how many megabytes of resident memory, a worker ends; None: whatever it is."""

    runs: int | None
    megabytes: int | None

    def over(self, runs: int, megabytes: float) -> str | None:
        """Why it is over, if it is."""
        if self.runs is not None and runs >= self.runs:
            return f"{runs} runs"
        if self.megabytes is not None and megabytes > self.megabytes:
            return f"{megabytes:.0f} MB of memory"
        return None

    def spread(self, chance: random.Random) -> Term:
        """The same for one worker of many: up to a tenth more runs."""
        runs = None if self.runs is None else self.runs + chance.randint(0, int(self.runs * _SPREAD))
        return Term(runs, self.megabytes)


def resident_megabytes() -> float:
    """The memory of this process. Raises `ConfigurationError` where the system does not tell."""
    try:
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
    except OSError as error:
        raise ConfigurationError("LANEWAY_RETIRE_ABOVE_MB needs /proc, which this system has not: unset it.") from error
    return pages * os.sysconf("SC_PAGE_SIZE") / _MEGABYTE


async def retire_in_time(term: Term, served: Callable[[], int], stopping: asyncio.Event) -> None:
    """Ask the process to stop once its term is over; looks until cancelled. `served` counts runs that have ended."""
    term = term.spread(random.Random())  # noqa: S311 - no secret
    while True:
        why = term.over(served(), resident_megabytes() if term.megabytes is not None else 0.0)
        if why is not None and not stopping.is_set():
            _log.info("worker.retiring", after=why)
            stopping.set()
        await asyncio.sleep(_LOOK_SECONDS)
