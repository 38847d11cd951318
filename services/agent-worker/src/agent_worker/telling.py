"""What a stream says of what happens in the loop, where one happening is one event."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from agent_worker.happenings import (
    CallUsed,
    Decided,
    FellBack,
    Happening,
    HistoryTrimmed,
    Repairing,
    Retrying,
    SameAsked,
    ToolEnded,
    ToolsMissing,
    ToolStarted,
    WrappingUp,
)
from common.contracts.events import EventId, EventType
from common.contracts.runs import Routing


def event_of(happening: Happening) -> tuple[EventType, dict[str, Any]] | None:
    """The event's type and data; None for a happening that is told otherwise, or not at all."""
    match happening:
        case CallUsed(usage, estimated):
            cached = {"cached": True} if usage.cached_calls else {}
            return "usage", {**usage.model_dump(exclude_defaults=True), "estimated": estimated, **cached}
        case ToolStarted(call):
            return "tool_start", {"id": call.id, "name": call.name, "arguments": call.arguments}
        case ToolEnded(result):
            return "tool_end", asdict(result)
        case ToolsMissing() | HistoryTrimmed() | WrappingUp() | SameAsked() | Decided():
            return "status", {"status": "running", **asdict(happening)}
        case Repairing(step, problem):
            return "status", {"status": "running", "step": step.number, "repairing": problem}
        case FellBack(fallback):
            moved = fallback.model_dump(exclude={"step"})
            return "status", {"status": "running", "step": fallback.step, "fallback": moved}
        case Retrying(step, _, delay, asked=False):
            waiting = {"waiting_for": "provider", "retry_in": round(delay, 3)}
            return "status", {"status": "running", "step": step, **waiting}
    return None


def started(agent: str, model: str, routing: Routing | None) -> dict[str, Any]:
    """The data of the first event of a run."""
    routed = {} if routing is None else {"routing": routing.model_dump()}
    return {"agent": agent, "model": model, "attempt": 1, **routed}


def taken_over(stands: EventId | None, attempts: int, model: str) -> dict[str, Any]:
    """The data of the first event of a run that is gone on with."""
    after = str(stands) if stands is not None else None
    return {"after": after, "reason": "taken over", "attempt": attempts, "model": model}
