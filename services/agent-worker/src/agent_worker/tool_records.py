"""SQL of tools: what a run reports of itself, and the documents of its conversation."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from agent_worker.tools.context import Passage
from common import postgres
from common.postgres import Pool

_REPORT = "SELECT runtime.report_progress($1, $2, $3)"
_SEARCH = "SELECT * FROM runtime.search_documents($1, $2, $3)"
_NAMES = "SELECT name FROM runtime.documents_of_run($1)"


class ToolRecords:
    """What tools keep and find. Every method raises `StoreUnavailable` where PostgreSQL does not answer."""

    def __init__(self, pool: Pool, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout

    async def report(self, task_id: UUID, fence: int, progress: dict[str, Any]) -> None:
        """How far a run is, in its task's document; nothing where another worker has the run."""
        async with postgres.acquire(self._pool, self._timeout) as connection:
            await connection.execute(_REPORT, task_id, fence, progress)

    async def search(self, task_id: UUID, query: str, limit: int) -> list[Passage]:
        """The passages of the documents of the run's conversation that have most of these words, best first."""
        async with postgres.acquire(self._pool, self._timeout) as connection:
            return [Passage(**dict(row)) for row in await connection.fetch(_SEARCH, task_id, query, limit)]

    async def document_names(self, task_id: UUID) -> list[str]:
        """Of the documents of the run's conversation, the oldest first."""
        async with postgres.acquire(self._pool, self._timeout) as connection:
            return [row["name"] for row in await connection.fetch(_NAMES, task_id)]
