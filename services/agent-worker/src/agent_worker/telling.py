"""What a stream says of what happens in the loop, where one happening is one event."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from agent_worker.loop import CallUsed, Happening, HistoryTrimmed, ToolEnded, ToolStarted, WrappingUp
from common.contracts.events import EventType


def event_of(happening: Happening) -> tuple[EventType, dict[str, Any]] | None:
    """The event's type and data; None for a happening that is told otherwise."""
    match happening:
        case CallUsed(usage, estimated):
            return "usage", {**usage.model_dump(exclude_defaults=True), "estimated": estimated}
        case ToolStarted(call):
            return "tool_start", {"id": call.id, "name": call.name, "arguments": call.arguments}
        case ToolEnded(result):
            return "tool_end", asdict(result)
        case HistoryTrimmed() | WrappingUp():
            return "status", {"status": "running", **asdict(happening)}
    return None
