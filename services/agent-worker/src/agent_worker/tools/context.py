"""The run that a tool is called in: what a tool may know besides its arguments."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document, by its number from 1 on."""

    document: str
    number: int
    passages: int
    text: str


class Documents(Protocol):
    """Those that the tenant has given to the run's conversation; none where it has none."""

    async def search(self, query: str, limit: int) -> list[Passage]:
        """The passages that have most of these words, best first."""

    async def names(self) -> list[str]:
        """Of all documents, the oldest first."""


@dataclass(frozen=True, slots=True)
class ToolContext:
    """A tool with a parameter of this type is given it; models are not told of that parameter."""

    task_id: UUID
    tenant_id: UUID
    user_id: str | None
    conversation_id: UUID | None
    report: Callable[[str, float], Awaitable[None]]
    """Tells whoever follows the task a sentence, and how many percent of it are done."""
    documents: Documents
