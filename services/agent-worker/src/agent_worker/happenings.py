"""What happens in the agent loop, one value for each, in the order in which it does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from agent_worker.providers.base import ProviderError, StopReason, ToolCall, Turn
from agent_worker.resilience.closing import Limit
from agent_worker.tools.base import ToolResult
from common.contracts.runs import Fallback
from common.contracts.usage import Usage


class LimitReachedError(Exception):
    """The model asks for tools, and says nothing else, in the last step that it may take."""

    def __init__(self, limit: Limit) -> None:
        super().__init__(f"the model gave no answer in its last step: the run had reached its {limit}")
        self.limit = limit


class ResponseMismatchError(Exception):
    """The answer does not match the task's schema, and was asked for anew already, or cannot be."""

    def __init__(self, problem: str, stop_reason: StopReason) -> None:
        why = {
            "max_tokens": " (the answer was cut: it has reached `max_output_tokens`)",
            "max_output_bytes": " (the answer was cut: it has reached its agent's `max_output_bytes`)",
            "refusal": " (a refusal)",
        }
        super().__init__(f"the answer does not match `response_schema`: {problem}{why.get(stop_reason, '')}")


@dataclass(frozen=True, slots=True)
class Step:
    """A finished step, as it is checkpointed: the turns it added and what its calls used."""

    number: int
    turns: tuple[Turn, ...]
    usage: Usage
    fallbacks: tuple[Fallback, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolsMissing:
    """Some of the agent's tools cannot be had: the run goes on without them."""

    tools_missing: tuple[dict[str, str], ...]
    """Each with its `server`, its `tool` where it is one, and the `reason`."""


@dataclass(frozen=True, slots=True)
class HistoryTrimmed:
    """From this step on the model is shown only a part of the conversation: the oldest exchanges were dropped."""

    step: int
    history: dict[str, int]
    """How many `exchanges` are left, and how many were `dropped`."""


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """A tool is about to run."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class ToolEnded:
    """A tool's result, as the model will see it."""

    result: ToolResult


@dataclass(frozen=True, slots=True)
class CallUsed:
    """A model call is over, and used this."""

    usage: Usage
    estimated: bool


@dataclass(frozen=True, slots=True)
class SameAsked:
    """Another run asks the very same at this moment: its answer is waited for."""

    step: int
    waiting_for: str = "same_request"


@dataclass(frozen=True, slots=True)
class Retrying:
    """The call failed and is made again after some seconds. What the step has said so far no longer stands.

    Where `asked` is false it was not even made, as its model is left alone for a moment: then nothing was said.
    """

    step: int
    error: ProviderError
    delay: float
    asked: bool = True

    @property
    def reason(self) -> str:
        """Of the error."""
        return self.error.reason


@dataclass(frozen=True, slots=True)
class FellBack:
    """Another model is asked from now on. Where `asked` is true, what the step has said so far no longer stands."""

    fallback: Fallback
    asked: bool
    delay: float = 0.0

    @property
    def reason(self) -> str:
        """Of the error that the first model was left for."""
        return self.fallback.reason


@dataclass(frozen=True, slots=True)
class WrappingUp:
    """A limit is reached: this step is the last, and the model is told so."""

    step: int
    wrapping_up: Limit


@dataclass(frozen=True, slots=True)
class Repairing:
    """The answer does not match the task's schema, and is asked for anew in a step more. It no longer stands."""

    step: Step
    """With what it is told."""
    problem: str


@dataclass(frozen=True, slots=True)
class Proposed:
    """The model asks for tools that a person is to approve: nothing is done of them before. The last of the loop."""

    step: Step
    calls: tuple[ToolCall, ...]


@dataclass(frozen=True, slots=True)
class Decided:
    """What was proposed is decided, and goes on."""

    step: int
    approvals: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class StepEnded:
    """The step is complete; another follows."""

    step: Step


@dataclass(frozen=True, slots=True)
class Answered:
    """The model ended its turn: the run is complete."""

    step: Step
    text: str
    stop_reason: StopReason


Happening = (
    ToolsMissing
    | HistoryTrimmed
    | Token
    | ToolStarted
    | ToolEnded
    | CallUsed
    | SameAsked
    | Retrying
    | FellBack
    | WrappingUp
    | Repairing
    | Proposed
    | Decided
    | StepEnded
    | Answered
)


@dataclass(slots=True)
class Tally:
    """What the calls of one step used, and how they changed its model."""

    usage: Usage = field(default_factory=Usage)
    fallbacks: tuple[Fallback, ...] = ()

    def note(self, happening: Happening) -> None:
        """Count what counts."""
        if isinstance(happening, CallUsed):
            self.usage = self.usage + happening.usage
        elif isinstance(happening, FellBack):
            self.fallbacks = (*self.fallbacks, happening.fallback)
