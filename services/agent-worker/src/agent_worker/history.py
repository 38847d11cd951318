"""What a run reads of its conversation: whole exchanges, as many of the newest as the model's window has room for.

An exchange is what one completed run was asked and what it added, so a tool's result is never parted from its call.
What is asked now, what the run has added since, and the system prompt are no part of it: they are never dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Self

from agent_worker.providers.base import Turn
from agent_worker.sizes import turns_bytes


@dataclass(frozen=True, slots=True)
class Exchange:
    """The turns of one run; `size` is the number of tokens that they cannot exceed (see `sizes`)."""

    turns: tuple[Turn, ...]
    size: int

    @classmethod
    def of(cls, turns: tuple[Turn, ...]) -> Self:
        """An exchange of these turns."""
        return cls(turns, turns_bytes(turns))

    @classmethod
    def read(cls, document: Iterable[dict[str, Any]]) -> Self:
        """As `document` wrote it."""
        return cls.of(tuple(Turn(turn["role"], tuple(turn["content"])) for turn in document))

    def document(self) -> list[dict[str, Any]]:
        """As it is stored."""
        return [{"role": turn.role, "content": list(turn.content)} for turn in self.turns]

    def without_tools(self) -> Self:
        """What was said alone. A model that is given no tools is not to be shown calls of them: providers refuse it."""
        said = (Turn(t.role, tuple(b for b in t.content if b["type"] == "text")) for t in self.turns)
        return self.of(tuple(turn for turn in said if turn.content))


@dataclass(frozen=True, slots=True)
class History:
    """The newest exchanges, oldest first, how many before them were dropped, and a summary of some of these."""

    exchanges: tuple[Exchange, ...] = ()
    dropped: int = 0
    summary: Exchange | None = None

    @property
    def turns(self) -> tuple[Turn, ...]:
        """All of them."""
        before = () if self.summary is None else self.summary.turns
        return tuple(chain(before, *(exchange.turns for exchange in self.exchanges)))

    def fitting(self, room: int) -> History:
        """As much of it as so many tokens hold: the oldest exchanges go first, and each goes whole. The summary stays
        for as long as there is room for it."""
        summary = self.summary if self.summary is not None and self.summary.size <= room else None
        room -= summary.size if summary is not None else 0
        kept = 0
        for exchange in reversed(self.exchanges):
            room -= exchange.size
            if room < 0:
                break
            kept += 1
        gone = len(self.exchanges) - kept
        return History(self.exchanges[gone:], self.dropped + gone, summary)

    def without_tools(self) -> History:
        """The same for a model that is given no tools."""
        return replace(self, exchanges=tuple(exchange.without_tools() for exchange in self.exchanges))
