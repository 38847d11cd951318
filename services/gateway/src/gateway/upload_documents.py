"""What clients read of a conversation's documents, as `/docs` describes it; as in `documents`."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from pydantic import Field

from gateway.documents import Document


class UploadLinks(Document):
    """Where a client goes on."""

    self: str


class UploadedDocument(Document):
    """A document that the conversation's tasks can search."""

    id: UUID
    conversation_id: UUID
    name: str
    language: str
    characters: int
    passages: int = Field(description="the parts that a search answers with")
    created_at: datetime
    links: UploadLinks


class UploadedDocumentWithContent(UploadedDocument):
    """The same, and what it says."""

    content: str


class UploadedDocumentList(Document):
    """All documents of a conversation, the oldest first."""

    items: list[UploadedDocument]
