"""What clients read of conversations, as `/docs` describes it; as in `documents`."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import Field

from gateway.documents import Document


class ConversationLinks(Document):
    """Where a client goes on."""

    self: str
    messages: str
    cancel: str


class Conversation(Document):
    """A conversation as it is now."""

    id: UUID
    title: str = Field(examples=["What is AI?"], description="from its first message, unless it was given one")
    user_id: str | None
    created_at: datetime
    active_at: datetime = Field(description="when the last message was submitted")
    turns: int = Field(description="completed tasks: what the next one is shown, as far as it fits")
    busy: bool = Field(description="whether a task of it is not over yet")
    links: ConversationLinks


class ConversationPage(Document):
    """Some conversations, the one that was last written to first."""

    items: list[Conversation]
    next_cursor: str | None = Field(description="where the next page begins; null on the last")


class Message(Document):
    """Something that was said, by whom, in which turn."""

    turn: int
    task_id: UUID
    role: Literal["user", "assistant", "tool"]
    content: list[dict[str, Any]] = Field(
        description="blocks: `text`, `tool_call` and `tool_result`",
        examples=[[{"type": "text", "text": "What is AI?"}]],
    )
    finished_at: datetime = Field(description="when the turn's task completed")


class MessagePage(Document):
    """Some messages, oldest first."""

    items: list[Message]
    next_cursor: str | None = Field(description="where the next page begins; null on the last")


class ConversationCancelled(Document):
    """What became of the open tasks of a conversation."""

    id: UUID
    as_of: datetime = Field(description="covered is every task that was submitted until then, recorded or not")
    cancelled: int
    cancelling: int = Field(description="tasks that run, and whose workers are being told")
    complete: bool = Field(description="whether all that is recorded was reached; if not, the rest follows")


class ConversationDeleted(Document):
    """A deletion, of all that was submitted until `as_of`."""

    id: UUID
    as_of: datetime
    complete: bool = Field(description="whether nothing is left; if not, it is being deleted: ask again")
