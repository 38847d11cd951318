"""The end of a task whose message died: decided in `runtime` like any other end, with the persister as its last worker.

So a stream comes to its `done`, and a replay of the letter finds the task ended instead of running it once more. The
letter's row says when its task is to be looked at: a run whose lease has not run out is looked at again when it has, by
whichever persister is there then.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg
import structlog

from common.contracts import RunFinished, TaskSubmitted
from common.contracts.events import EventType, StreamEvent
from common.contracts.runs import RunError
from common.postgres import Pool, transaction
from persister import metrics, repository, rows
from persister.part_by_part import part_by_part

if TYPE_CHECKING:
    from common.postgres import Connection

_log = structlog.get_logger(__name__)
_INTERVAL_SECONDS = 1.0
# What a newer worker wrote can be read after the next rollout: it is asked for now and then, and never given up.
_RETRY = timedelta(seconds=30)
_ERROR = RunError(type="dead_lettered", message="The task could not be run and was put aside for inspection.")


async def bury_forever(pool: Pool, timeout: float) -> None:
    """End the tasks of filed letters as they become due, until cancelled."""
    await part_by_part("burial", partial(bury_next, pool, timeout), _INTERVAL_SECONDS)


async def bury_next(pool: Pool, timeout: float) -> bool:
    """Look at the task of one letter that is due, in a transaction of its own; False where none is."""
    async with transaction(pool, timeout) as connection:
        letter = await repository.take_due_letter(connection)
        if letter is None:
            return False
        try:
            async with connection.transaction():
                again = await _settle(connection, TaskSubmitted.decode(letter["body"]))
        except Exception as error:  # noqa: BLE001 - the boundary that decides: one letter stands in no other's way
            _log.error("burial.failed", id=letter["dead_letter_id"], error=repr(error))
            again = _now() + _RETRY
        await repository.look_again(connection, letter["dead_letter_id"], again)
    return True


async def _settle(connection: Connection, task: TaskSubmitted) -> datetime | None:
    """End the task's run and record how it ended; where a worker has it, or it is held back, when to look again."""
    run = await repository.acquire_run(connection, task.task_id, task.tenant_id, task.tier)
    if run["decision"] == "leased":
        leased_until: datetime = run["lease_until"]
        return leased_until
    if run["decision"] == "acquired":
        ends = [await _bury(connection, task, run)]
    else:  # what is parked waits under another message, and is left to wait
        ends = [RunFinished.decode(run["outcome"])] if run["outcome"] is not None else []
    await repository.record_tasks(connection, rows.tasks([task], ends))
    await repository.record_events(connection, [row for end in ends for row in rows.events(end)])
    # Held back by a pause, or by a cancel of which its record, from now on, says whether it is meant.
    return _now() + _RETRY if run["decision"] == "full" else None


async def _bury(connection: Connection, task: TaskSubmitted, run: asyncpg.Record) -> RunFinished:
    at = _now()
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
    metrics.BURIED.inc()
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


def _now() -> datetime:
    return datetime.now(UTC)
