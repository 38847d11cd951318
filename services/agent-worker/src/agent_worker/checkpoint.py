"""What of a run survives its worker: finished steps, as they are stored and as they are taken up again."""

from __future__ import annotations

from collections.abc import Iterable

from agent_worker.happenings import Step
from agent_worker.proposals import Proposal, state_of, step_from
from agent_worker.providers.base import Turn
from agent_worker.repository import SavedStep
from agent_worker.sizes import said_bytes
from common.contracts.events import EventId
from common.contracts.runs import Fallback, RunMessage
from common.contracts.usage import Usage


class Checkpoint:
    """The finished steps of a run: those that are stored, and the one that is stored with the next model call."""

    def __init__(self, steps: Iterable[SavedStep] = (), proposal: Proposal | None = None) -> None:
        self.unsaved: SavedStep | None = None
        self.proposal = proposal
        """The step after those, where it is stored what its model wants to do."""
        self._stored = list(steps)
        self._steps = [step_from(saved.number, saved.state) for saved in self._stored]

    @property
    def next_step(self) -> int:
        """The number of the step that the run goes on with."""
        return len(self._steps) + 1

    @property
    def turns(self) -> tuple[Turn, ...]:
        """What the finished steps added to the conversation."""
        return tuple(turn for step in self._steps for turn in step.turns)

    @property
    def repaired(self) -> bool:
        """Whether an answer has been sent back to its model."""
        return any(map(_sent_back, self._steps))

    @property
    def said(self) -> tuple[Turn, ...]:
        """What of the turns is to be remembered: all but an answer that was sent back, and why."""
        return tuple(turn for step in self._steps if not _sent_back(step) for turn in step.turns)

    @property
    def said_bytes(self) -> int:
        """What the finished steps said, as their run's limit counts it."""
        return said_bytes(self.turns)

    @property
    def usage(self) -> Usage:
        """What the finished steps used."""
        return sum((step.usage for step in self._steps), Usage())

    @property
    def used(self) -> Usage:
        """What the run has used: its finished steps, and the one that it goes on with."""
        return self.usage + (self.proposal.step.usage if self.proposal is not None else Usage())

    @property
    def stands_until(self) -> EventId | None:
        """The last event that still stands when the run is taken up from here."""
        if self.proposal is not None:
            return self.proposal.stands_until
        return EventId(self._stored[-1].fence, self._stored[-1].last_seq) if self._stored else None

    @property
    def fallbacks(self) -> tuple[Fallback, ...]:
        """How the finished steps, and the one that it goes on with, changed their model."""
        steps = [*self._steps, self.proposal.step] if self.proposal is not None else self._steps
        return tuple(fallback for step in steps for fallback in step.fallbacks)

    def add(self, step: Step, stands_until: EventId) -> None:
        """A step is finished, and its events are durable."""
        self._steps.append(step)
        self.proposal = None
        self.unsaved = SavedStep(step.number, stands_until.fence, stands_until.seq, state_of(step))

    def saved(self) -> None:
        """The step that was unsaved is stored."""
        self.unsaved = None

    def messages(self, last: Step | None) -> tuple[RunMessage, ...]:
        """All turns that the run added, for the history."""
        steps = [*self._steps, last] if last is not None else self._steps
        return tuple(
            RunMessage(step=step.number, role=turn.role, content=turn.content) for step in steps for turn in step.turns
        )


def _sent_back(step: Step) -> bool:
    """Only then it is we who speak last, in the user's place."""
    return bool(step.turns) and step.turns[-1].role == "user"
