"""The order of a run's events, rebuilt from whatever arrives in whatever order: pure, and without waiting.

Within a fence the sequence has no holes and starts at 1. A later fence begins with a `reset` that names the last event
that still stands; everything after that one in older fences counts no more. So what comes next is always known, and
what is missing too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from common.contracts.events import BEGINNING, EventId, StreamEvent

_HELD = 5_000


@dataclass(frozen=True, slots=True)
class Gap:
    """Events between two ids that are gone for good."""

    after: EventId
    before: EventId


class Sequence:
    """Holds events until their turn, and gives each out once."""

    def __init__(self, after: EventId = BEGINNING) -> None:
        self.last = after
        self._held: dict[EventId, StreamEvent] = {}

    def add(self, events: Iterable[StreamEvent]) -> None:
        """Take in events; those that were given out before are dropped, and the latest where there is no more room.

        What comes first is what the others wait for; the latest is read again when its turn has come.
        """
        self._held.update((event.id, event) for event in events if event.id > self.last)
        if len(self._held) > _HELD:
            for latest in sorted(self._held)[_HELD:]:
                del self._held[latest]

    def take(self) -> Iterator[StreamEvent]:
        """Give out every event whose turn has come."""
        while (event := self._next()) is not None:
            if event.fence != self.last.fence:
                self._held = {held: kept for held, kept in self._held.items() if held > event.id}
            else:
                del self._held[event.id]
            self.last = event.id
            yield event

    @property
    def missing(self) -> bool:
        """Whether events are held that must wait for others."""
        return bool(self._held)

    def skip(self) -> Gap | None:
        """Give up on what is missing before the first event that is held."""
        if not self._held:
            return None
        first = min(self._held)
        gap = Gap(self.last, first)
        # Just before it, so that it is next.
        self.last = EventId(first.fence, first.seq - 1)
        return gap

    def _next(self) -> StreamEvent | None:
        following = self._held.get(EventId(self.last.fence, self.last.seq + 1))
        if following is not None:
            return following
        beginnings = sorted(held for held in self._held if held.fence > self.last.fence and held.seq == 1)
        return next((self._held[held] for held in beginnings if self._begins(self._held[held])), None)

    def _begins(self, event: StreamEvent) -> bool:
        """Whether the first event of a later fence follows from all that was given out."""
        if event.type != "reset":
            return event.fence == 1
        after = event.data.get("after")
        return after is None or EventId.parse(after) <= self.last
