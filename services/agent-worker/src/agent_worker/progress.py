"""A run's event log as its worker keeps it: numbers the events, joins tokens, remembers what is not durable yet."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Protocol

import orjson

from common.contracts.base import now
from common.contracts.events import EventId, EventType, StreamEvent

# While Redis is away the log keeps so many events for it that PostgreSQL has; readers get older ones from there.
_KEPT_FOR_REDIS = 5_000
# Tokens become an event at this many characters, however slow the writer is.
_LONGEST_TOKEN_TEXT = 8_192
# What may wait for the writer's window: it comes between two events that do not, often with nothing to wait for.
_IN_PASSING: frozenset[EventType] = frozenset({"usage", "tool_start", "tool_end"})
# What an event has beside its data.
_BYTES_PER_EVENT = 128


class Sink(Protocol):
    """Told that a log has something to write."""

    def notice(self, log: RunLog, *, urgent: bool) -> None:
        """The log has changed; what is urgent is written at once, the rest within the window."""


class RunLog:
    """Events of one acquisition, kept until both Redis and PostgreSQL's queue have them."""

    def __init__(self, key: str, fence: int, sink: Sink) -> None:
        """`key` is the log's name in Redis."""
        self.key = key
        self.fence = fence
        self._sink = sink
        self._seq = 0
        self._tokens: list[str] = []
        self._waiting = 0
        self._kept: list[StreamEvent] = []
        self._written = 0
        self._durable = 0
        self.bytes_not_durable = 0
        """About how large the events since the last durable one are."""

    @property
    def last_id(self) -> EventId | None:
        """The newest event that was made; None before the first."""
        return EventId(self.fence, self._seq) if self._seq else None

    def emit(self, kind: EventType, data: dict[str, Any], at: datetime | None = None) -> None:
        """Add an event; tokens that wait come first."""
        self.join_tokens()
        self._add(kind, data, at or now())
        self._sink.notice(self, urgent=kind not in _IN_PASSING)

    def token(self, text: str) -> None:
        """Add a piece of the answer; pieces that come close together become one event, the first goes at once."""
        self._tokens.append(text)
        self._waiting += len(text)
        if self._waiting >= _LONGEST_TOKEN_TEXT:
            self.join_tokens()
        self._sink.notice(self, urgent=not self._kept or self._kept[-1].type != "token")

    def join_tokens(self) -> None:
        """Make one event of the tokens that wait."""
        if self._tokens:
            text = "".join(self._tokens)
            self._tokens.clear()
            self._waiting = 0
            self._add("token", {"text": text}, now())

    def not_durable(self) -> tuple[StreamEvent, ...]:
        """The events since the last step boundary, with the tokens that waited."""
        self.join_tokens()
        return tuple(self._kept[self._durable :])

    def mark_durable(self, last: EventId) -> None:
        """PostgreSQL's queue has the events up to this one."""
        self._durable = max(self._durable, self._position(last.seq))
        self.bytes_not_durable = sum(map(_size, self._kept[self._durable :]))
        self._forget()

    def not_written(self) -> list[StreamEvent]:
        """The events that Redis is not known to have, with the tokens that waited."""
        self.join_tokens()
        return self._kept[self._written :]

    @property
    def may_create(self) -> bool:
        """Whether what is written next may begin the stream: nothing before it would be missing."""
        return self._written == 0

    def mark_written(self, last_seq: int) -> None:
        """Redis has the events up to this one."""
        self._written = max(self._written, self._position(last_seq))
        self._forget()

    def mark_unwritten(self) -> None:
        """Redis has lost the log: everything that is kept is to be written anew."""
        self._written = 0

    def _position(self, seq: int) -> int:
        return max(0, seq - self._kept[0].seq + 1) if self._kept else 0

    def _forget(self) -> None:
        count = max(min(self._written, self._durable), self._durable - _KEPT_FOR_REDIS)
        del self._kept[:count]
        self._written = max(0, self._written - count)
        self._durable -= count

    def _add(self, kind: EventType, data: dict[str, Any], at: datetime) -> None:
        self._seq += 1
        event = StreamEvent.model_construct(fence=self.fence, seq=self._seq, type=kind, at=at, data=data)
        self._kept.append(event)
        self.bytes_not_durable += _size(event)


def _size(event: StreamEvent) -> int:
    return _BYTES_PER_EVENT + len(orjson.dumps(event.data))
