"""What to do about a schedule that is due: which tick is published now, and which were missed. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from common.cadence import Cadence

Missed = Literal["skip", "run_once"]

ON_TIME = timedelta(seconds=15)
"""A tick that nobody has looked at for longer is missed: more than another persister takes to follow one that died."""
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


def turn(cadence: Cadence, due: datetime, now: datetime, policy: Missed, *, tried: bool) -> Turn:
    """The turn of a schedule whose first open tick is `due`, and not after `now`.

    At most one is published, the last one, which stands for all before it. `tried`: the first open one was on time, but
    could not be published yet. Then it is tried until the next comes.
    """
    last = cadence.latest(due, now)
    next_at = cadence.after(last)
    on_time = now - last <= ON_TIME or (tried and last == due)
    if not (on_time or policy == "run_once"):
        return Turn(None, (due, last), next_at)
    return Turn(last, None if last == due else (due, cadence.latest(due, last - _MOMENT)), next_at)
