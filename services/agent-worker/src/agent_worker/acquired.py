"""What an acquisition gave a run: the right to write, and what earlier workers left of its time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from agent_worker.lease import Lease
from agent_worker.repository import Acquisition
from common.contracts import RunFinished, TaskSubmitted
from common.contracts.base import now
from common.contracts.runs import cancelled_before_it_began


@dataclass(frozen=True, slots=True)
class Acquired:
    """One acquisition."""

    fence: int
    attempts: int
    started_at: datetime
    lease: Lease
    parked_seconds: float = 0.0
    deferrals: int = 0
    """How often it was left for later, as no model could be had."""
    most_deferrals: int = 0

    @classmethod
    def of(cls, found: Acquisition, most_deferrals: int) -> Acquired:
        """What was found, for a run that may be left for later so often."""
        began = found.started_at or now()
        return cls(
            found.fence, found.attempts, began, found.lease, found.parked_seconds, found.deferrals, most_deferrals
        )

    def passed(self, timeout: float) -> float:
        """Seconds of the timeout that are over. A run that was taken over goes on with the time that its first worker
        began to use; while it was parked it used none.
        """
        if self.fence == 1:
            return 0.0
        return min(timeout, (now() - self.started_at).total_seconds() - self.parked_seconds)


def decided_end(task: TaskSubmitted, found: Acquisition) -> RunFinished:
    """The end as it was decided; for a task that was cancelled before it ran nobody has written it down yet."""
    if found.outcome is not None:
        return RunFinished.decode(found.outcome)
    return cancelled_before_it_began(task.task_id, task.tenant_id, task.tier, found.fence, found.finished_at or now())
