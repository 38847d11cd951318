"""A schedule as a client sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyncpg import Record


def schedule_view(row: Record, last_tick: Record | None) -> dict[str, Any]:
    """The document for a row of `schedules`."""
    return {
        "id": row["schedule_id"],
        "name": row["name"],
        "cron": row["cron"],
        "time_zone": row["time_zone"],
        "missed": row["missed"],
        "enabled": row["enabled"],
        "task": row["task"],
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "next_at": row["next_at"],
        "waiting": row["waiting"],
        "last_tick": tick_view(last_tick) if last_tick is not None else None,
        "links": {"self": schedule_address(row)},
    }


def schedule_with_ticks(row: Record, ticks: Sequence[Record]) -> dict[str, Any]:
    """The same with its last ticks, newest first."""
    return schedule_view(row, ticks[0] if ticks else None) | {"ticks": [tick_view(tick) for tick in ticks]}


def tick_view(row: Record) -> dict[str, Any]:
    """The document for a row of `ticks`."""
    return {
        "at": row["tick_at"],
        "until": row["until"],
        "outcome": row["outcome"],
        "reason": row["reason"],
        "task_id": row["task_id"],
        "settled_at": row["settled_at"],
    }


def schedule_address(row: Record) -> str:
    """Where it is read."""
    return f"/v1/schedules/{row['schedule_id']}"
