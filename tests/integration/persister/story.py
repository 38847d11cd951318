"""What is said of one task, from its submission to its end."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from common.contracts import RunFinished, RunProgressed, TaskSubmitted
from common.contracts.events import EventType, StreamEvent
from common.contracts.runs import RunMessage
from common.contracts.tasks import InputMessage
from common.contracts.usage import Usage

ANSWER = "A field of computer science."
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Story:
    """One task."""

    tenant_id: UUID
    task_id: UUID

    def submitted(self, **changes: Any) -> TaskSubmitted:
        values: dict[str, Any] = {
            "task_id": self.task_id,
            "tenant_id": self.tenant_id,
            "user_id": "anna",
            "tier": "free",
            "level": 30,
            "priority": 5,
            "agent": "default",
            "input": (InputMessage(role="user", content="What is AI?"),),
            "metadata": {"order": "4711"},
            "request_hash": "0" * 64,
            "submitted_at": START,
        }
        return TaskSubmitted(**{**values, **changes})

    def event(self, seq: int, type_: EventType = "token", *, fence: int = 1, **data: Any) -> StreamEvent:
        return StreamEvent(fence=fence, seq=seq, type=type_, at=START + timedelta(milliseconds=seq), data=data)

    def progressed(self, *events: StreamEvent, step: int = 1, fence: int = 1) -> RunProgressed:
        return RunProgressed(task_id=self.task_id, tenant_id=self.tenant_id, fence=fence, step=step, events=events)

    def finished(self, **changes: Any) -> RunFinished:
        values: dict[str, Any] = {
            "task_id": self.task_id,
            "tenant_id": self.tenant_id,
            "tier": "free",
            "fence": 1,
            "status": "completed",
            "output": ANSWER,
            "usage": Usage(input_tokens=10, output_tokens=5),
            "provider": "anthropic",
            "model": "claude-haiku-4-5",
            "steps": 1,
            "attempts": 1,
            "messages": (RunMessage(step=1, role="assistant", content=({"type": "text", "text": ANSWER},)),),
            "events": (self.event(3, "done", status="completed"),),
            "started_at": START + timedelta(seconds=1),
            "finished_at": START + timedelta(seconds=2),
        }
        return RunFinished(**{**values, **changes})
