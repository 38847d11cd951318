"""A step that was proposed, once it is decided: its calls are made as people said, each at most once.

Before the first is made it is noted, under the fence, that they will be, and of each what it has come to. Who takes the
run over and finds a call begun without a result does not make it again: the model is told that nobody knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from agent_worker.cutting import undisturbed
from agent_worker.proposals import Proposal, WaitingCall, with_changes
from agent_worker.providers.base import ToolCall
from agent_worker.tools.base import Toolbox, ToolResult

_UNKNOWN = (
    "The call was approved and begun, and then its outcome was lost: whether it took effect is not known. Do not repeat"
    " it without finding out."
)
_IN_TIME = "Nobody approved this call in time, so it was not made."


class Intents(Protocol):
    """Where it is noted what is begun and what has come of it."""

    async def begin(self, step: int) -> Mapping[int, dict[str, Any] | None]:
        """Note that the step's approved calls will be made; the results, by place in the step, of those that are begun
        already, None where one is not known. Raises what ends the run where it is another's."""

    async def note(self, step: int, index: int, result: dict[str, Any]) -> None:
        """A call's result."""


class ApprovalExpiredError(Exception):
    """Nobody decided in time, and the agent's policy is to end the run then."""

    def __init__(self) -> None:
        super().__init__("nobody decided on the proposed tool calls in time")


class Approved:
    """The calls of a proposal that was decided."""

    def __init__(self, proposal: Proposal, intents: Intents) -> None:
        self.step = proposal.step
        self.rulings = tuple(call.ruling() for call in proposal.waiting)
        self._intents = intents
        self._ruled: dict[int, WaitingCall] = {call.index: call for call in proposal.waiting}
        self._begun: Mapping[int, dict[str, Any] | None] = {}
        self.calls = tuple(with_changes(call, self._ruled.get(n)) for n, call in enumerate(proposal.calls))
        """As they are made."""

    async def begin(self) -> None:
        """To be awaited before any is made. Raises `ApprovalExpiredError`."""
        if any(call.decision == "expire" for call in self._ruled.values()):
            raise ApprovalExpiredError
        self._begun = await undisturbed(self._begin())

    async def _begin(self) -> Mapping[int, dict[str, Any] | None]:
        return await self._intents.begin(self.step.number)

    def makes(self, index: int) -> bool:
        """Whether the call is made now."""
        ruled = self._ruled.get(index)
        return ruled is None or (ruled.decision != "deny" and index not in self._begun)

    async def run(self, index: int, call: ToolCall, tools: Toolbox) -> ToolResult:
        """The call's result; of one that is not made, what the model is told instead."""
        ruled = self._ruled.get(index)
        if ruled is None:
            return await tools.run(call)
        if ruled.decision == "deny":
            return _refused(call, _IN_TIME if ruled.decided_by == "policy" else _denied(ruled.reason))
        if index in self._begun:
            known = self._begun[index]
            return ToolResult(**known) if known is not None else _refused(call, _UNKNOWN)
        result = await tools.run(call)
        if ruled.changed_arguments is not None:
            said = f"[A person changed the arguments of this call before it was made.]\n{result.content}"
            result = ToolResult(result.id, result.name, said, result.is_error)
        await undisturbed(self._note(index, result))
        return result

    async def _note(self, index: int, result: ToolResult) -> None:
        kept = {"id": result.id, "name": result.name, "content": result.content, "is_error": result.is_error}
        await self._intents.note(self.step.number, index, kept)


def _denied(reason: str | None) -> str:
    return f"A person denied this call: {reason}" if reason else "A person denied this call, without giving a reason."


def _refused(call: ToolCall, why: str) -> ToolResult:
    return ToolResult(call.id, call.name, why, is_error=True)
