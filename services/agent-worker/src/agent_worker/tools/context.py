"""The run that a tool is called in: what a tool may know besides its arguments."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class ToolContext:
    """A tool with a parameter of this type is given it; models are not told of that parameter."""

    task_id: UUID
    tenant_id: UUID
    user_id: str | None
    conversation_id: UUID | None
    report: Callable[[str, float], Awaitable[None]]
    """Tells whoever follows the task a sentence, and how many percent of it are done."""
