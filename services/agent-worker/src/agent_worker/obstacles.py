"""What keeps a run from running: the reason to wait without a slot, and what an operator has paused."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from agent_worker.proposals import Proposal
from common.contracts import TaskSubmitted


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What a run waits for without a slot: a reason, what exactly, and until when where that is known."""

    reason: str
    key: str = ""
    wake_at: datetime | None = None
    proposal: Proposal | None = None
    """The step that waits for people, where they are what it waits for."""
    needs: Decimal | None = None
    """Of a budget: what is to be left in it, in US dollars."""

    def told(self) -> dict[str, Any]:
        """What the stream says of it: the data of an event `status`, as `runtime.put_aside` makes it too."""
        said = {"status": "parked", "reason": self.reason, "key": self.key or None, "until": self.wake_at}
        return said if self.proposal is None else said | {"calls": [call.told() for call in self.proposal.waiting]}


@dataclass(frozen=True, slots=True)
class Pause:
    """One row of `runtime.pauses`."""

    scope: str
    name: str
    kill: bool

    @property
    def obstacle(self) -> Obstacle:
        """What a task that it names waits for."""
        return Obstacle("paused", f"{self.scope}:{self.name}")

    def holds(self, task: TaskSubmitted) -> bool:
        """Whether the task is one of those that it names."""
        names = {"everything": "", "tier": task.tier, "tenant": str(task.tenant_id), "agent": task.agent}
        return names.get(self.scope) == self.name
