"""SQL on conversations: as recorded in `history`, their turns in `runtime`; read as their tenant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import uuid_utils.compat
from asyncpg import Record

from gateway.database import Database

_VIEW = """
SELECT c.conversation_id, c.title, c.user_id, c.created_at, c.active_at,
       (SELECT coalesce(max(t.number), 0) FROM runtime.turns t
        WHERE t.tenant_id = c.tenant_id AND t.conversation_id = c.conversation_id) AS turns,
       EXISTS (SELECT FROM history.tasks t LEFT JOIN runtime.runs r ON r.task_id = t.task_id
               WHERE t.tenant_id = c.tenant_id AND t.conversation_id = c.conversation_id AND t.status = 'queued'
                 AND coalesce(r.status, 'queued') IN ('queued', 'running', 'parked')) AS busy
FROM history.conversations c
"""
_ONE = f"{_VIEW} WHERE c.conversation_id = $1"
_PAGE = f"""{_VIEW}
WHERE ($1::timestamptz IS NULL OR (c.active_at, c.conversation_id) < ($1, $2::uuid))
  AND ($3::text IS NULL OR c.user_id = $3)
ORDER BY c.active_at DESC, c.conversation_id DESC LIMIT $4
"""
# As later runs read them. A conversation that is used again after its deletion shows nothing of before.
_MESSAGES = """
SELECT t.number, t.task_id, t.finished_at, m.place, m.message
FROM runtime.turns t CROSS JOIN LATERAL jsonb_array_elements(t.messages) WITH ORDINALITY AS m (message, place)
WHERE t.tenant_id = $1 AND t.conversation_id = $2 AND t.number >= $3 AND (t.number, m.place) > ($3, $4::bigint)
  AND NOT EXISTS (SELECT FROM runtime.erasures e WHERE e.tenant_id = t.tenant_id
                  AND e.conversation_id = t.conversation_id AND e.as_of >= t.submitted_at)
ORDER BY t.number, m.place LIMIT $5
"""
_EXISTS = """
SELECT EXISTS (SELECT FROM history.conversations WHERE conversation_id = $1)
  OR EXISTS (SELECT FROM runtime.documents WHERE conversation_id = $1)
"""
_ENTITLE = "SELECT runtime.entitle($1, $2, $3)"
_ERASE = "SELECT as_of, done_at FROM runtime.begin_erasure($1, $2, $3, $4, $5)"
_ERASURE = "SELECT as_of, done_at FROM runtime.erasures WHERE conversation_id = $1 ORDER BY as_of DESC LIMIT 1"


@dataclass(frozen=True, slots=True)
class Erasure:
    """A deletion: of all that was submitted until `as_of`, and whether it has been carried out."""

    as_of: datetime
    done: bool


class Conversations:
    """Reads, names and deletes conversations. Every call raises `StoreUnavailable` where PostgreSQL is too slow."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, tenant_id: UUID, conversation_id: UUID) -> Record | None:
        """The conversation, where it is recorded."""
        return await self._database.within(self._row(tenant_id, _ONE, conversation_id))

    async def exists(self, tenant_id: UUID, conversation_id: UUID) -> bool:
        """Whether there is anything of it to delete: a task that is recorded, or a document."""
        row = await self._database.within(self._row(tenant_id, _EXISTS, conversation_id))
        return bool(row and row[0])

    async def page(
        self, tenant_id: UUID, *, before: tuple[datetime, UUID] | None, user_id: str | None, limit: int
    ) -> Sequence[Record]:
        """Conversations, the one that was last written to first, from a place in that order on."""
        at, conversation_id = before or (None, None)
        return await self._database.within(self._rows(tenant_id, _PAGE, at, conversation_id, user_id, limit))

    async def messages(
        self, tenant_id: UUID, conversation_id: UUID, after: tuple[int, int], limit: int
    ) -> Sequence[Record]:
        """What was said, oldest first, after a place: the number of a turn, and the message in it."""
        arguments = (tenant_id, conversation_id, *after, limit)
        return await self._database.within(self._rows(tenant_id, _MESSAGES, *arguments))

    async def entitle(self, tenant_id: UUID, conversation_id: UUID, title: str) -> bool:
        """Give it a title; False where there is no such conversation."""
        row = await self._database.within(self._row(tenant_id, _ENTITLE, tenant_id, conversation_id, title))
        return bool(row and row[0])

    async def erase(self, tenant_id: UUID, conversation_id: UUID, as_of: datetime, by: str) -> Erasure | None:
        """Make its deletion durable: from now on it will be carried out. What was deleted before stays so."""
        arguments = (uuid_utils.compat.uuid7(), tenant_id, conversation_id, as_of, by)
        return _erasure(await self._database.within(self._row(tenant_id, _ERASE, *arguments)))

    async def erasure(self, tenant_id: UUID, conversation_id: UUID) -> Erasure | None:
        """The last deletion of it."""
        return _erasure(await self._database.within(self._row(tenant_id, _ERASURE, conversation_id)))

    async def _row(self, tenant_id: UUID, statement: str, *arguments: object) -> Record | None:
        async with self._database.as_tenant(tenant_id) as connection:
            row: Record | None = await connection.fetchrow(statement, *arguments)
            return row

    async def _rows(self, tenant_id: UUID, statement: str, *arguments: object) -> Sequence[Record]:
        async with self._database.as_tenant(tenant_id) as connection:
            rows: Sequence[Record] = await connection.fetch(statement, *arguments)
            return rows


def _erasure(row: Record | None) -> Erasure | None:
    return None if row is None else Erasure(row["as_of"], row["done_at"] is not None)
