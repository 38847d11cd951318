"""What a run does about approvals: it leaves its slot to wait for them, and goes on once they are there."""

from __future__ import annotations

from datetime import timedelta

from agent_worker.checkpoint import Checkpoint
from agent_worker.happenings import Proposed
from agent_worker.obstacles import Obstacle
from agent_worker.proposals import Proposal, to_approve
from agent_worker.tools.base import Toolbox
from common.contracts.base import now


class ApprovalNeededError(Exception):
    """The run cannot go on before people have decided."""

    def __init__(self, proposal: Proposal) -> None:
        super().__init__("the run waits for people")
        self.obstacle = Obstacle("approval", wake_at=proposal.expires_at, proposal=proposal)


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


def taken_up(checkpoint: Checkpoint) -> Proposal | None:
    """The step that the run goes on with, where its model's part is done. Raises `ApprovalNeededError` where people are
    still to decide: whatever woke the run, it waits on."""
    proposal = checkpoint.proposal
    if proposal is not None and not proposal.decided:
        raise ApprovalNeededError(proposal)
    return proposal
