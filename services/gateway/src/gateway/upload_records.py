"""SQL on the documents of conversations, read and written as their tenant."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal
from uuid import UUID

from asyncpg import Record

from gateway.database import Database
from gateway.passages import passages
from gateway.upload_schemas import MOST_CHARACTERS, MOST_CHARACTERS_OF_TENANT, MOST_DOCUMENTS, Upload

Verdict = Literal["added", "same", "other", "conversation_full", "tenant_full"]

_LIMITS = (MOST_DOCUMENTS, MOST_CHARACTERS, MOST_CHARACTERS_OF_TENANT)
_ADD = "SELECT runtime.add_document($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
_VIEW = "SELECT d.document_id, d.conversation_id, d.name, d.language, d.characters, d.passages, d.created_at"
_ALL = f"{_VIEW} FROM runtime.documents d WHERE d.conversation_id = $1 ORDER BY d.created_at, d.document_id"
_ONE = f"""
{_VIEW}, (SELECT string_agg(p.text, '' ORDER BY p.number) FROM runtime.passages p
          WHERE p.document_id = d.document_id) AS content
FROM runtime.documents d WHERE d.conversation_id = $1 AND d.document_id = $2
"""  # noqa: S608 - made of constants
_DELETE = "DELETE FROM runtime.documents d WHERE d.conversation_id = $1 AND d.document_id = $2 RETURNING d.document_id"


class Uploads:
    """Adds, reads and deletes documents. Every call raises `StoreUnavailable` where PostgreSQL is too slow."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, tenant_id: UUID, conversation_id: UUID, document_id: UUID, upload: Upload) -> Verdict:
        """Add it; whether that was possible, or had been done before."""
        said = "\0".join((str(conversation_id), upload.name, upload.language, upload.content))
        about = (upload.name, upload.language, hashlib.sha256(said.encode()).digest(), list(passages(upload.content)))
        arguments = (document_id, tenant_id, conversation_id, *about, *_LIMITS)
        rows = await self._database.within(self._rows(tenant_id, _ADD, *arguments))
        verdict: Verdict = rows[0][0]
        return verdict

    async def all(self, tenant_id: UUID, conversation_id: UUID) -> Sequence[Record]:
        """Those of a conversation, the oldest first, without what they say."""
        return await self._database.within(self._rows(tenant_id, _ALL, conversation_id))

    async def find(self, tenant_id: UUID, conversation_id: UUID, document_id: UUID) -> Record | None:
        """One of them, with its `content`."""
        rows = await self._database.within(self._rows(tenant_id, _ONE, conversation_id, document_id))
        return rows[0] if rows else None

    async def delete(self, tenant_id: UUID, conversation_id: UUID, document_id: UUID) -> bool:
        """False where there is none."""
        return bool(await self._database.within(self._rows(tenant_id, _DELETE, conversation_id, document_id)))

    async def _rows(self, tenant_id: UUID, statement: str, *arguments: object) -> Sequence[Record]:
        async with self._database.as_tenant(tenant_id) as connection:
            rows: Sequence[Record] = await connection.fetch(statement, *arguments)
            return rows
