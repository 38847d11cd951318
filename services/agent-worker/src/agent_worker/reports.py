"""What a run's tools tell of how far it is: on its stream, and in its task's document."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import structlog

from agent_worker.progress import RunLog
from agent_worker.tool_records import ToolRecords
from common.contracts.base import now
from common.errors import StoreUnavailable
from common.storable import storable_text

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reports:
    """Of one acquisition."""

    task_id: UUID
    log: RunLog
    records: ToolRecords

    async def tell(self, message: str, percentage: float) -> None:
        """The newest replaces those before. The document may miss one, the stream does not."""
        told = {"message": storable_text(message), "percentage": round(percentage, 1)}
        self.log.emit("status", {"status": "running", "progress": told})
        try:
            await self.records.report(self.task_id, self.log.fence, {**told, "at": now().isoformat()})
        except StoreUnavailable as error:
            _log.warning("run.progress_not_recorded", task_id=str(self.task_id), error=str(error))
