"""What a run takes from its conversation, and what it adds to it; nothing of both for a task without one."""

from __future__ import annotations

from agent_worker.accounts import until_available
from agent_worker.checkpoint import Checkpoint
from agent_worker.endings import Ending
from agent_worker.history import Exchange, History
from agent_worker.providers.base import Turn
from agent_worker.repository import RunRepository
from common.contracts import TaskSubmitted


def asked(task: TaskSubmitted) -> tuple[Turn, ...]:
    """What the tenant says with this task."""
    return tuple(Turn(message.role, ({"type": "text", "text": message.content},)) for message in task.input)


async def history(task: TaskSubmitted, room: int, repository: RunRepository) -> History:
    """What was said before, as far as it can matter where there is room for so many tokens."""
    if task.conversation_id is None:
        return History()
    return await until_available(lambda: repository.history(task.task_id, room))


def exchange(task: TaskSubmitted, checkpoint: Checkpoint, ending: Ending) -> Exchange | None:
    """What later runs will be shown of this one: nothing, unless it completed."""
    if task.conversation_id is None or ending.status != "completed":
        return None
    last = ending.step.turns if ending.step is not None else ()
    return Exchange.of((*asked(task), *checkpoint.said, *last))
