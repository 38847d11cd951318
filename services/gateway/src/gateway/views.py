"""A task as a client sees it, whichever of its records is furthest."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from asyncpg import Record

from common.contracts import RunFinished
from common.contracts.runs import TERMINAL, cancelled_before_it_began
from common.messaging.topology import lane
from gateway.tickets import links


def task_view(row: Record) -> dict[str, Any]:
    """The document for a row of `tasks`. Money is a decimal string; durations are whole milliseconds."""
    ending = _ending(row)
    status = _status(row)
    started = row["started_at"]
    finished = row["finished_at"] if status in TERMINAL else None
    return {
        "id": row["task_id"],
        "status": status,
        "tier": row["tier"],
        "lane": lane(row["tier"]),
        "priority": row["priority"],
        "agent": row["agent"],
        "user_id": row["user_id"],
        "conversation_id": row["conversation_id"],
        "metadata": row["metadata"] or {},
        "created_at": row["submitted_at"],
        "started_at": started,
        "finished_at": finished,
        "queued_ms": _milliseconds(row["submitted_at"], started or finished or datetime.now(UTC)),
        "duration_ms": _milliseconds(started, finished),
        "attempts": row["attempts"] or 0,
        "parked": _parked(row) if status == "parked" else None,
        "progress": row["progress"],
        **ending,
        "cost_usd": plain(row["charged"]) if status in TERMINAL and not row["unsettled"] else None,
        "links": links(row["task_id"]),
    }


def unrecorded_view(answer: bytes | None, row: Record | None) -> dict[str, Any]:
    """The same document for a task that is not recorded yet: from its receipt, and from its run where it has begun."""
    receipt: dict[str, Any] = orjson.loads(answer) if answer is not None else {}
    if row is not None:
        return task_view(row) | {name: receipt[name] for name in ("created_at",) if name in receipt}
    blank = dict.fromkeys(
        (
            "started_at", "finished_at", "duration_ms", "parked", "progress", "model", "routing", "fallbacks", "output",
            "parsed", "cached", "error", "usage", "steps", "cost_usd",
        )
    )  # fmt: skip
    created = datetime.fromisoformat(receipt["created_at"])
    return receipt | blank | {"attempts": 0, "queued_ms": _milliseconds(created, datetime.now(UTC))}


def _status(row: Record) -> str:
    recorded = row["recorded_status"]
    return recorded if recorded in TERMINAL else row["run_status"] or "queued"


def _parked(row: Record) -> dict[str, Any]:
    return {name: row[f"parked_{name}"] for name in ("reason", "until", "key", "calls")}


def _ending(row: Record) -> dict[str, Any]:
    if row["recorded_status"] not in TERMINAL and row["run_status"] in TERMINAL:
        # Decided, and not recorded yet: the run keeps the very message that will be recorded.
        return _from_outcome(_outcome(row))
    error = row["error_type"] and {"type": row["error_type"], "message": row["error_message"]}
    return {
        "model": row["model"],
        "routing": row["routing"],
        "fallbacks": row["fallbacks"],
        "output": row["output"],
        "parsed": _parsed(row["output"], row["structured"]),
        "cached": row["cached"],
        "error": error,
        "usage": row["usage"],
        "steps": row["steps"],
    }


def _outcome(row: Record) -> RunFinished:
    if row["outcome"] is not None:
        return RunFinished.decode(row["outcome"])
    at = row["finished_at"] or datetime.now(UTC)
    return cancelled_before_it_began(row["task_id"], row["tenant_id"], row["tier"], 1, at)


def _from_outcome(outcome: RunFinished) -> dict[str, Any]:
    return {
        "model": outcome.model,
        "routing": outcome.routing and outcome.routing.model_dump(),
        "fallbacks": [fallback.model_dump() for fallback in outcome.fallbacks],
        "output": outcome.output,
        "parsed": _parsed(outcome.output, outcome.structured),
        "cached": outcome.cached,
        "error": outcome.error and outcome.error.model_dump(),
        "usage": outcome.usage.model_dump(),
        "steps": outcome.steps,
    }


def _parsed(output: str | None, structured: bool | None) -> Any:
    return orjson.loads(output) if output is not None and structured else None


def plain(amount: Any) -> str:
    """A decimal as a client reads it: exact, without an exponent and without trailing zeros."""
    text = format(amount, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _milliseconds(begin: datetime | None, end: datetime | None) -> int | None:
    if begin is None or end is None:
        return None
    return max(0, round((end - begin).total_seconds() * 1000))


def cursor_of(row: Record) -> str:
    """Where the page after this row begins."""
    # With Z and not +00:00: a plus sign in an address that somebody pastes together is a blank.
    at = row["submitted_at"].astimezone(UTC).isoformat().replace("+00:00", "Z")
    return f"{at}_{row['task_id']}"


def parse_cursor(cursor: str) -> tuple[datetime, UUID]:
    """The place a cursor names. Raises `ValueError`."""
    at, _, task_id = cursor.partition("_")
    parsed = datetime.fromisoformat(at)
    if parsed.tzinfo is None:
        raise ValueError("a cursor's time has an offset")
    return parsed, UUID(task_id)
