"""The end of a task whose message died: decided in `runtime` like any other end, with the persister as its last worker.

So a stream comes to its `done`, and a replay of the letter finds the task ended instead of running it once more.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from common.contracts import RunFinished, TaskSubmitted
from common.contracts.events import EventType, StreamEvent
from common.contracts.runs import RunError
from persister import repository

if TYPE_CHECKING:
    from common.postgres import Connection

_ERROR = RunError(type="dead_lettered", message="The task could not be run and was put aside for inspection.")


async def bury(connection: Connection, task: TaskSubmitted, at: datetime) -> RunFinished | None:
    """End the task's run, or tell how it had ended; None where a worker runs it at this moment, and will end it."""
    run = await repository.acquire_run(connection, task.task_id, task.tenant_id, task.tier)
    if run["decision"] == "leased":
        return None
    if run["decision"] == "finished":
        return RunFinished.decode(run["outcome"]) if run["outcome"] is not None else None
    end = RunFinished(
        task_id=task.task_id,
        tenant_id=task.tenant_id,
        tier=task.tier,
        fence=run["fence"],
        status="failed",
        error=_ERROR,
        attempts=run["attempts"] - 1,
        events=_events(run["fence"], run["steps"] or [], at),
        started_at=run["started_at"] if run["attempts"] > 1 else None,
        finished_at=at,
    )
    await repository.finish_run(connection, task.task_id, end.fence, end.encode(), at)
    return end


def _events(fence: int, steps: list[dict[str, Any]], at: datetime) -> tuple[StreamEvent, ...]:
    """The last of the stream; in a run that had begun, after what still stands of it."""
    said: list[tuple[EventType, dict[str, Any]]] = []
    if fence > 1:
        after = f"{steps[-1]['fence']}-{steps[-1]['last_seq']}" if steps else None
        said.append(("reset", {"after": after, "reason": "given up"}))
    said.append(("done", {"status": "failed", "error": _ERROR.model_dump()}))
    return tuple(
        StreamEvent(fence=fence, seq=seq, type=kind, at=at, data=data) for seq, (kind, data) in enumerate(said, 1)
    )
