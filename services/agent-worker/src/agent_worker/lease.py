"""Until when a run is surely this worker's, by the worker's own clock.

PostgreSQL gives a run to nobody else before its lease has run out, and counts the lease from a moment after it was
asked for. So for that long after the asking nobody else can have the run. Later it is to be asked again: between two
lines a process may stand still for any time.
"""

from __future__ import annotations

from time import monotonic


class Lease:
    """The lease of one acquisition."""

    def __init__(self, seconds: float, asked_at: float) -> None:
        """`asked_at` by `time.monotonic`, before the acquisition was sent."""
        self._seconds = seconds
        self._asked_at = asked_at

    @property
    def holds(self) -> bool:
        """Whether nobody else can have the run."""
        return monotonic() < self._asked_at + self._seconds

    def renewed(self, asked_at: float) -> None:
        """It was renewed, by what was sent after that moment."""
        self._asked_at = max(self._asked_at, asked_at)
