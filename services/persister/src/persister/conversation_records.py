"""SQL on conversations: recorded with their tasks, and deleted with them; as in `repository`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from persister.rows import ConversationRow

if TYPE_CHECKING:
    from common.postgres import Connection

# The earliest message gives the title, in whatever order they are recorded. What is deleted does not come back.
RECORD_CONVERSATIONS = """
INSERT INTO history.conversations AS c (tenant_id, conversation_id, user_id, title, created_at, active_at)
SELECT r.* FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[])
  AS r (tenant_id, conversation_id, user_id, title, created_at, active_at)
WHERE NOT EXISTS (SELECT FROM runtime.erasures e
                  WHERE e.tenant_id = r.tenant_id AND e.conversation_id = r.conversation_id AND e.as_of >= r.active_at)
ORDER BY r.tenant_id, r.conversation_id
ON CONFLICT (tenant_id, conversation_id) DO UPDATE SET
  title = CASE WHEN excluded.created_at < c.created_at AND NOT c.titled THEN excluded.title ELSE c.title END,
  created_at = least(c.created_at, excluded.created_at),
  active_at = greatest(c.active_at, excluded.active_at)
WHERE c.user_id IS NOT DISTINCT FROM excluded.user_id
"""

ERASE_RECORDED = "SELECT runtime.erase_recorded($1)"
ERASE_NEXT = "SELECT worked, tenant_id, tasks FROM runtime.erase_next($1)"


async def record_conversations(connection: Connection, rows: Sequence[ConversationRow]) -> None:
    """One row for each conversation at most."""
    if rows:
        await connection.execute(RECORD_CONVERSATIONS, *zip(*rows, strict=True))


async def erase_recorded(connection: Connection, tasks: Sequence[UUID]) -> None:
    """What has just been recorded of deleted conversations is to be deleted, too."""
    await connection.execute(ERASE_RECORDED, tasks)


async def erase_next(connection: Connection, limit: int) -> asyncpg.Record | None:
    """Delete the next of one deletion: `tenant_id` and the `tasks` that were emptied; None where none is due."""
    erased = await connection.fetchrow(ERASE_NEXT, limit)
    return erased if erased is not None and erased["worked"] else None
