"""What to do about a schedule that is due: which tick is published now, and which were missed. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from common.cadence import Cadence

Missed = Literal["skip", "run_once"]

ON_TIME = timedelta(seconds=15)
"""A tick after which nobody came for longer is missed: more than a persister takes to follow one that died."""
_MOMENT = timedelta(microseconds=1)


@dataclass(frozen=True)
class Turn:
    """One look at one schedule."""

    tick: datetime | None
    """To be published now."""
    missed: tuple[datetime, datetime] | None
    """The first and the last of the ticks that never will be."""
    next_at: datetime | None
    """The tick after these; None where none comes any more."""


class Watch:
    """How long somebody has looked without a break: what came in this time waits for its turn, and is not missed."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = self._last = clock()

    def look(self) -> timedelta:
        """Look now. A process that stood still for longer than a tick may be late begins anew."""
        now = self._clock()
        if now - self._last > ON_TIME.total_seconds():
            self._since = now
        self._last = now
        return timedelta(seconds=now - self._since)


def turn(
    cadence: Cadence, due: datetime, now: datetime, policy: Missed, *, watched: timedelta = timedelta(), tried: bool
) -> Turn:
    """The turn of a schedule whose first open tick is `due`, and not after `now`.

    At most one is published, the last one, which stands for all before it. `watched`: for so long somebody has been
    there. `tried`: the first open one was on time, but could not be published; it is tried until the next comes.
    """
    last = cadence.latest(due, now)
    next_at = cadence.after(last)
    on_time = now - last <= ON_TIME + watched or (tried and last == due)
    if not (on_time or policy == "run_once"):
        return Turn(None, (due, last), next_at)
    return Turn(last, None if last == due else (due, cadence.latest(due, last - _MOMENT)), next_at)
