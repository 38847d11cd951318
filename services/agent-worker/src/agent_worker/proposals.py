"""A step of which only the model's part is done: what its model wants to do, and what people decided of it, where they
are to; as values and as stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Literal

from agent_worker.happenings import Step
from agent_worker.providers.base import ToolCall, Turn
from agent_worker.tools.base import Toolbox
from common.contracts.events import EventId
from common.contracts.runs import Fallback
from common.contracts.usage import Usage

Verdict = Literal["approve", "edit", "deny", "expire"]


@dataclass(frozen=True, slots=True)
class WaitingCall:
    """A tool call that a person is to decide on, and the decision, where there is one."""

    index: int
    """Its place in the step."""
    call_id: str
    tool: str
    arguments: dict[str, Any]
    schema: dict[str, Any]
    decision: Verdict | None = None
    changed_arguments: dict[str, Any] | None = None
    reason: str | None = None
    decided_by: str | None = None
    decided_at: str | None = None

    def told(self) -> dict[str, Any]:
        """What is to be decided on, as streams and tasks show it."""
        return {"call_id": self.call_id, "tool": self.tool, "arguments": self.arguments}

    def ruling(self) -> dict[str, Any]:
        """What was decided, as streams show it."""
        names = ("call_id", "tool", "decision", "reason", "decided_by", "decided_at")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Proposal:
    """A step of which only the model's part is done.

    It is stored before people are asked, and before calls are made that do harm if they are made twice.
    """

    step: Step
    calls: tuple[ToolCall, ...]
    """All that it asks for."""
    waiting: tuple[WaitingCall, ...] = ()
    """Those of them that people decide on."""
    expires_at: datetime | None = None
    on_timeout: Literal["deny", "approve", "expire"] | None = None
    """Both are None where nobody is asked."""
    stands_until: EventId | None = None
    """The last event that stands when the run goes on; None before it is stored."""

    @property
    def stored(self) -> bool:
        """Whether it is found by who takes the run over."""
        return self.stands_until is not None

    @property
    def decided(self) -> bool:
        """Whether nothing is left to wait for."""
        return all(call.decision is not None for call in self.waiting)


def to_approve(calls: Sequence[ToolCall], tools: Toolbox) -> tuple[WaitingCall, ...]:
    """Those that a person is to decide on."""
    return tuple(
        WaitingCall(index, name, call.name, call.arguments, tools.schema(call.name))
        for index, (call, name) in enumerate(zip(calls, _names(calls), strict=True))
        if tools.asks(call)
    )


def _names(calls: Iterable[ToolCall]) -> list[str]:
    """The calls' ids, made different where a provider's are not: a decision is on one call."""
    names: list[str] = []
    for index, call in enumerate(calls):
        names.append(f"{call.id or 'call'}~{index}" if not call.id or call.id in names else call.id)
    return names


def state_of(step: Step) -> dict[str, Any]:
    """A step as it is stored."""
    return {
        "turns": [{"role": turn.role, "content": list(turn.content)} for turn in step.turns],
        "usage": step.usage.model_dump(),
        "fallbacks": [fallback.model_dump() for fallback in step.fallbacks],
    }


def step_from(number: int, state: Mapping[str, Any]) -> Step:
    """A stored step."""
    turns = tuple(Turn(turn["role"], tuple(turn["content"])) for turn in state["turns"])
    fallbacks = tuple(Fallback.model_validate(one) for one in state.get("fallbacks", ()))
    return Step(number, turns, Usage.model_validate(state["usage"]), fallbacks)


def document_of(proposal: Proposal, told: EventId) -> dict[str, Any]:
    """A proposal as `runtime.propose` takes it; `told` is the last event that stands when the run goes on with it."""
    kept = ("index", "call_id", "tool", "arguments", "schema")
    return {
        "step": proposal.step.number,
        "fence": told.fence,
        "last_seq": told.seq,
        "state": {**state_of(proposal.step), "calls": [asdict(call) for call in proposal.calls]},
        "expires_at": proposal.expires_at,
        "on_timeout": proposal.on_timeout,
        "calls": [{name: getattr(call, name) for name in kept} for call in proposal.waiting],
    }


def proposal_from(document: Mapping[str, Any]) -> Proposal:
    """A proposal as `runtime.acquire` gives it back."""
    state, expires_at = document["state"], document["expires_at"]
    return Proposal(
        step=step_from(document["step"], state),
        calls=tuple(ToolCall(**call) for call in state["calls"]),
        waiting=tuple(WaitingCall(**call) for call in document["calls"]),
        expires_at=None if expires_at is None else datetime.fromisoformat(expires_at),
        on_timeout=document["on_timeout"],
        stands_until=EventId(document["fence"], document["last_seq"]),
    )


def with_changes(call: ToolCall, waiting: WaitingCall | None) -> ToolCall:
    """The call as it is made: with the arguments that a person has put in place of the model's, if so."""
    if waiting is None or waiting.changed_arguments is None:
        return call
    return replace(call, arguments=waiting.changed_arguments)
