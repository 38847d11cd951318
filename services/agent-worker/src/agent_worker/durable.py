"""What makes a run's events durable: they are published, and the persister writes them down."""

from __future__ import annotations

from agent_worker.accounts import until_available
from agent_worker.progress import RunLog
from common.contracts import RunProgressed, TaskSubmitted
from common.contracts.events import EventId
from common.messaging.publisher import Publisher
from common.messaging.topology import EVENTS


async def make_durable(log: RunLog, task: TaskSubmitted, step: int, publisher: Publisher) -> EventId:
    """Publish the events that only this process and Redis have; the id of the last there is.

    The log has one at least: a run's first event is its beginning.
    """
    events = log.not_durable()
    if not events:
        assert log.last_id is not None  # noqa: S101 - see above
        return log.last_id
    last_id = events[-1].id
    progressed = RunProgressed(
        task_id=task.task_id, tenant_id=task.tenant_id, fence=log.fence, step=step, events=events
    )
    stable_id = f"{task.task_id}:{last_id}"
    await until_available(
        lambda: publisher.publish(EVENTS, progressed.kind, progressed, subject=task.task_id, stable_id=stable_id)
    )
    log.mark_durable(last_id)
    return last_id
