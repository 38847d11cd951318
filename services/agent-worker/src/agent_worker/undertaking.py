"""A step whose model has answered: the calls that it asks for, each made at most once where it matters.

Before the first call that does harm if it is made twice, it is noted, under the fence, what the model said and which
calls will be made, and then of each what it has come to. Who takes the run over does not ask the model again, and makes
no call again that was begun: where its result is not known, the model is told that nobody knows. Calls without side
effects are simply made again; a step that has no others notes nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from agent_worker.cutting import undisturbed
from agent_worker.happenings import Decided, Happening, StepEnded, ToolEnded, ToolStarted
from agent_worker.proposals import Proposal, WaitingCall, with_changes
from agent_worker.providers.base import ToolCall
from agent_worker.tools.base import Toolbox, ToolResult
from agent_worker.turns import tool_turn

_UNKNOWN = (
    "The call was begun, and then its outcome was lost: whether it took effect is not known. Do not repeat it without"
    " finding out."
)
_IN_TIME = "Nobody approved this call in time, so it was not made."


class Intents(Protocol):
    """Where it is noted what is begun and what has come of it."""

    async def begin(self, proposal: Proposal, indexes: Sequence[int]) -> Mapping[int, dict[str, Any] | None]:
        """Note that these calls of the step will be made, and the step where that is not stored; the results, by place
        in the step, of those that are begun already, None where one is not known. Raises what ends the run where it is
        another's."""

    async def confirm(self) -> None:
        """To be awaited right before a call is made: between its intent and here the process may have stood still, and
        whoever has the run since has told the model that nobody knows. Raises as `begin`."""

    async def note(self, step: int, index: int, result: dict[str, Any]) -> None:
        """A call's result."""


class Unnoted:
    """The `Intents` of a run that nobody will take over."""

    async def begin(
        self,
        proposal: Proposal,  # noqa: ARG002 - nobody will look for it
        indexes: Sequence[int],  # noqa: ARG002 - as above
    ) -> Mapping[int, dict[str, Any] | None]:
        """See `Intents.begin`."""
        return {}

    async def confirm(self) -> None:
        """See `Intents.confirm`."""

    async def note(self, step: int, index: int, result: dict[str, Any]) -> None:
        """See `Intents.note`."""


class ApprovalExpiredError(Exception):
    """Nobody decided in time, and the agent's policy is to end the run then."""

    def __init__(self) -> None:
        super().__init__("nobody decided on the proposed tool calls in time")


class Undertaking:
    """The calls of a step, none of which waits for people any more."""

    def __init__(self, proposal: Proposal, intents: Intents, tools: Toolbox) -> None:
        self._proposal = proposal
        self._intents = intents
        self._tools = tools
        self._ruled: dict[int, WaitingCall] = {call.index: call for call in proposal.waiting}
        self._begun: Mapping[int, dict[str, Any] | None] = {}
        self.calls = tuple(with_changes(call, self._ruled.get(n)) for n, call in enumerate(proposal.calls))
        """As they are made."""
        self._once = tuple(index for index, call in enumerate(self.calls) if self._is_made_once(index, call))

    def _is_made_once(self, index: int, call: ToolCall) -> bool:
        ruled = self._ruled.get(index)
        return self._tools.harms_twice(call) if ruled is None else ruled.decision != "deny"

    async def happenings(self) -> AsyncGenerator[Happening, None]:
        """Make the calls, side by side. Raises `ApprovalExpiredError`, and what `Intents.begin` raises."""
        step = self._proposal.step
        await self.begin()
        if self._ruled:
            yield Decided(step.number, tuple(call.ruling() for call in self._proposal.waiting))
        for index, call in enumerate(self.calls):
            if not self._is_denied(index):
                yield ToolStarted(call)
        results = await self._tools.run_all(self.calls, self.run)
        for result in results:
            yield ToolEnded(result)
        yield StepEnded(replace(step, turns=(*step.turns, tool_turn(results))))

    async def begin(self) -> None:
        """To be awaited before any is made."""
        if any(call.decision == "expire" for call in self._ruled.values()):
            raise ApprovalExpiredError
        if self._once or self._proposal.stored:
            self._begun = await undisturbed(self._begin())

    async def _begin(self) -> Mapping[int, dict[str, Any] | None]:
        return await self._intents.begin(self._proposal, self._once)

    def _is_denied(self, index: int) -> bool:
        ruled = self._ruled.get(index)
        return ruled is not None and ruled.decision == "deny"

    async def run(self, index: int, call: ToolCall) -> ToolResult:
        """The call's result; of one that is not made, what the model is told instead."""
        ruled = self._ruled.get(index)
        if ruled is not None and ruled.decision == "deny":
            return _refused(call, _IN_TIME if ruled.decided_by == "policy" else _denied(ruled.reason))
        if index in self._begun:
            known = self._begun[index]
            return ToolResult(**known) if known is not None else _refused(call, _UNKNOWN)
        if index in self._once:
            await self._intents.confirm()
        result = await self._tools.run(call)
        if ruled is not None and ruled.changed_arguments is not None:
            said = f"[A person changed the arguments of this call before it was made.]\n{result.content}"
            result = ToolResult(result.id, result.name, said, result.is_error)
        if index in self._once:
            await undisturbed(self._note(index, result))
        return result

    async def _note(self, index: int, result: ToolResult) -> None:
        kept = {"id": result.id, "name": result.name, "content": result.content, "is_error": result.is_error}
        await self._intents.note(self._proposal.step.number, index, kept)


def _denied(reason: str | None) -> str:
    return f"A person denied this call: {reason}" if reason else "A person denied this call, without giving a reason."


def _refused(call: ToolCall, why: str) -> ToolResult:
    return ToolResult(call.id, call.name, why, is_error=True)
