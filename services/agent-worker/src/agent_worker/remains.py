"""What is left of calls whose worker died in them: what the run's stream has of their answers.

Their own records may still come, and count then. Where none does, billing goes by this (see `billing.sweeper`), so it
is put down beside the hold and is no record of its own. It is put down as soon as the run is acquired again, whatever
becomes of it then: a run that was cancelled meanwhile makes no other call. A stream that is gone, or says nothing,
leaves nothing: then the platform bears the call.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from agent_worker.checkpoint import Checkpoint
from agent_worker.repository import Acquisition, RunRepository
from agent_worker.sizes import tokens_of
from common import streams
from common.contracts import TaskSubmitted
from common.contracts.events import BEGINNING, StreamEvent
from common.errors import CacheUnavailable
from common.pipelining import Pipelined

_MOST_EVENTS = 20_000


@dataclass(frozen=True, slots=True)
class CutCall:
    """A hold of an earlier acquisition that nothing has resolved yet."""

    attempt_id: UUID
    fence: int
    step: int


@dataclass(frozen=True, slots=True)
class Remains:
    """What was received of a call."""

    call: CutCall
    output_tokens: int


def received(call: CutCall, events: Iterable[StreamEvent]) -> Remains:
    """Count what a stream says that its worker received in its last call. Pure."""
    size = 0
    for event in events:
        if event.fence != call.fence:
            continue
        if event.type == "token":
            size += len(str(event.data.get("text", "")).encode())
        elif event.type in ("reset", "usage"):  # what was said before it was another call's, that is accounted for
            size = 0
    return Remains(call, tokens_of(size))


async def note(task: TaskSubmitted, found: Acquisition, repository: RunRepository, redis: Pipelined) -> None:
    """Put down what is left of calls of this run's earlier acquisitions. Raises `StoreUnavailable`."""
    calls = [CutCall(*row) for row in await repository.cut_calls(task.task_id, found.fence)] if found.fence > 1 else []
    checkpoint = Checkpoint(found.steps, found.proposal)
    # The record of a call whose step is finished was out before that.
    calls = [call for call in calls if call.step == checkpoint.next_step]
    if not calls:
        return
    try:
        log = streams.key(task.tenant_id, task.task_id)
        events = await streams.read_all(redis, log, checkpoint.stands_until or BEGINNING, _MOST_EVENTS)
    except CacheUnavailable:
        return
    for remains in (received(call, events) for call in calls):
        if remains.output_tokens:
            told = {"agent": task.agent, "metadata": task.metadata, "output_tokens": remains.output_tokens}
            await repository.note_received(task.task_id, found.fence, remains.call.attempt_id, told)
