"""A batch as a client sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from asyncpg import Record

from common.contracts.runs import TERMINAL
from gateway.batch_records import Batch
from gateway.batch_tickets import batch_links
from gateway.views import plain, task_view

_STATUSES = ("queued", "running", "parked", "completed", "failed", "cancelled", "expired", "unrecorded")
_RESULT = (
    "status",
    "output",
    "parsed",
    "cached",
    "error",
    "usage",
    "model",
    "routing",
    "fallbacks",
    "steps",
    "attempts",
    "cost_usd",
    "started_at",
    "finished_at",
)


def batch_view(batch: Batch, counts: Mapping[str, int], cost: tuple[Decimal, bool]) -> dict[str, Any]:
    """The document of a batch, without its tasks."""
    charged, unsettled = cost
    ended = ended_of(counts)
    return {
        "id": batch.id,
        "created_at": batch.submitted_at,
        "size": batch.size,
        "counts": all_counts(counts),
        "progress": {"ended": ended, "total": batch.size, "fraction": round(ended / batch.size, 4)},
        "cost_usd": plain(charged),
        "cost_final": ended == batch.size and not unsettled,
        "links": batch_links(batch.id),
    }


def all_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """With a 0 for each status that no task has."""
    return {status: counts.get(status, 0) for status in _STATUSES}


def ended_of(counts: Mapping[str, int]) -> int:
    """How many of the tasks have ended."""
    return sum(count for status, count in counts.items() if status in TERMINAL)


def task_line(batch: Batch, place: int, row: Record | None) -> dict[str, Any]:
    """One task among the others."""
    status = task_view(row)["status"] if row is not None else "unrecorded"
    return {"index": place, "id": batch.task_ids[place], "status": status}


def result_line(batch: Batch, place: int, row: Record | None) -> dict[str, Any]:
    """One task with how it ended, or how far it is."""
    view = task_view(row) if row is not None else {"status": "unrecorded", "attempts": 0}
    return {"index": place, "id": batch.task_ids[place], **{name: view.get(name) for name in _RESULT}}


def page(lines: Sequence[dict[str, Any]], last: int, size: int) -> dict[str, Any]:
    """Lines, and where the next page begins."""
    return {"items": lines, "next_cursor": str(last) if last < size else None}
