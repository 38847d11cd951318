"""What a client sees of a run: events with ids `<fence>-<seq>`, which only ever grow.

Within a fence the sequence has no holes and starts at 1, so a reader can tell a lost event from a quiet run. The
first event of a later fence is a `reset` that names the last event that still stands.
"""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict

EventType = Literal["start", "status", "token", "tool_start", "tool_end", "usage", "reset", "gap", "error", "done"]

_ID = re.compile(r"([0-9]{1,10})-([0-9]{1,10})")
LARGEST = 2**31 - 1
"""Of either number, as the record's columns have it."""


class EventId(NamedTuple):
    """`<fence>-<seq>`; orders as the stream does."""

    fence: int
    seq: int

    def __str__(self) -> str:
        return f"{self.fence}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> EventId:
        """Raises `ValueError` where the text is no event id."""
        match = _ID.fullmatch(text)
        parsed = cls(int(match[1]), int(match[2])) if match else None
        if parsed is None or max(parsed) > LARGEST:
            raise ValueError(f"{text[:60]!r} is not an event id of the form <fence>-<seq>")
        return parsed


BEGINNING = EventId(0, 0)


class StreamEvent(BaseModel):
    """One entry of a run's log."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    fence: int
    seq: int
    type: str
    """An `EventType`, or one that a newer worker has and this reader passes on."""
    at: AwareDatetime
    data: dict[str, Any]

    @property
    def id(self) -> EventId:
        """The event's place in the stream."""
        return EventId(self.fence, self.seq)
