"""What a run gives its tools: a way to tell how far it is, and its conversation's documents."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import structlog

from agent_worker.progress import RunLog
from agent_worker.tool_records import ToolRecords
from agent_worker.tools.context import Passage, ToolContext
from common.contracts import TaskSubmitted
from common.contracts.base import now
from common.errors import StoreUnavailable
from common.storable import storable_text

_log = structlog.get_logger(__name__)
_MOST_REPORTS = 1_000
_LONGEST_MESSAGE = 500


def tool_context(task: TaskSubmitted, log: RunLog, records: ToolRecords) -> ToolContext:
    """Of one acquisition, whose log this is."""
    reports = _Reports(task.task_id, log, records)
    documents = _Documents(task.task_id, records)
    return ToolContext(task.task_id, task.tenant_id, task.user_id, task.conversation_id, reports.tell, documents)


@dataclass(frozen=True, slots=True)
class _Documents:
    task_id: UUID
    records: ToolRecords

    async def search(self, query: str, limit: int) -> list[Passage]:
        return await self.records.search(self.task_id, storable_text(query), limit)

    async def names(self) -> list[str]:
        return await self.records.document_names(self.task_id)


class _Reports:
    """A tool of another package may report in a loop: what it tells is bounded, and so is how often."""

    def __init__(self, task_id: UUID, log: RunLog, records: ToolRecords) -> None:
        self._task_id = task_id
        self._log = log
        self._records = records
        self._left = _MOST_REPORTS

    async def tell(self, message: str, percentage: float) -> None:
        """The newest replaces those before. The document may miss one, the stream does not."""
        if self._left == 0:
            return
        self._left -= 1
        told = {
            "message": storable_text(message[:_LONGEST_MESSAGE]),
            "percentage": round(min(100.0, max(0.0, percentage)), 1),
        }
        self._log.emit("status", {"status": "running", "progress": told})
        try:
            await self._records.report(self._task_id, self._log.fence, {**told, "at": now().isoformat()})
        except StoreUnavailable as error:
            _log.warning("run.progress_not_recorded", task_id=str(self._task_id), error=str(error))
