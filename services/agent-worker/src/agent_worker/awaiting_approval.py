"""What a run does about approvals: it leaves its slot to wait for them, and notes what it does once they are there."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

from agent_worker.accounts import RunLostError, until_available
from agent_worker.approved import Approved
from agent_worker.checkpoint import Checkpoint
from agent_worker.happenings import Proposed
from agent_worker.obstacles import Obstacle
from agent_worker.proposals import Proposal, to_approve
from agent_worker.repository import RunRepository
from agent_worker.tools.base import Toolbox
from common.contracts.base import now


class ApprovalNeededError(Exception):
    """The run cannot go on before people have decided."""

    def __init__(self, proposal: Proposal) -> None:
        super().__init__("the run waits for people")
        self.obstacle = Obstacle("approval", wake_at=proposal.expires_at, proposal=proposal)


class RunIntents:
    """The `Intents` of one run (see `agent_worker.approved`)."""

    def __init__(self, repository: RunRepository, task_id: UUID, fence: int) -> None:
        self._repository = repository
        self._task_id = task_id
        self._fence = fence

    async def begin(self, step: int) -> dict[int, dict[str, Any] | None]:
        """See `Intents.begin`. Raises `RunLostError`."""
        begun = await until_available(partial(self._repository.begin_approved, self._task_id, self._fence, step))
        if begun is None:
            raise RunLostError
        return begun

    async def note(self, step: int, index: int, result: dict[str, Any]) -> None:
        """See `Intents.note`."""
        noting = partial(self._repository.note_result, self._task_id, self._fence, step, index, result)
        await until_available(noting)


def proposal_of(proposed: Proposed, tools: Toolbox) -> Proposal:
    """What people are asked, and until when."""
    waits = tools.approvals
    return Proposal(
        step=proposed.step,
        calls=proposed.calls,
        waiting=to_approve(proposed.calls, tools),
        expires_at=now() + timedelta(seconds=waits.timeout_seconds),
        on_timeout=waits.on_timeout,
    )


def approved_of(checkpoint: Checkpoint, intents: RunIntents) -> Approved | None:
    """The step that the run goes on with, where it was proposed. Raises `ApprovalNeededError` where people are still to
    decide: whatever woke the run, it waits on."""
    proposal = checkpoint.proposal
    if proposal is None:
        return None
    if not proposal.decided:
        raise ApprovalNeededError(proposal)
    return Approved(proposal, intents)
