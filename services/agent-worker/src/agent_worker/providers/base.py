"""What the agent loop asks of a model and gets from it, in one vocabulary for all providers.

A conversation is a list of turns; a turn is a list of blocks, plain JSON, as they are kept in checkpoints:

    {"type": "text", "text": …}
    {"type": "tool_call", "id": …, "name": …, "arguments": {…}}
    {"type": "tool_result", "id": …, "name": …, "content": …, "is_error": …}

Errors of a provider, of which `fault` says whether another one may answer:

    ProviderError
    ├── TransientError          may succeed later: rate limit, overload, time-out, a broken connection or answer
    │   └── CircuitOpenError    the model was not called, as its last calls have failed (see `resilience.circuit`)
    └── PermanentError          will not: a bad request, a bad key, a quota that is used up
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol
from uuid import UUID

from common.contracts.usage import Usage

Block = dict[str, Any]


def json_bytes(value: object) -> int:
    """Bytes of a text, or of anything else as JSON at its longest."""
    return len(value.encode() if isinstance(value, str) else json.dumps(value))


@dataclass(frozen=True)
class Turn:
    """One message of the conversation."""

    role: Literal["user", "assistant", "tool"]
    content: tuple[Block, ...]

    @cached_property
    def size(self) -> int:
        """Bytes of what is said in it. A conversation is measured before each of its calls, its turns once."""
        return sum(json_bytes(value) for block in self.content for value in block.values())


@dataclass(frozen=True)
class ToolSpec:
    """A tool as the model sees it; `schema` is the JSON schema of its arguments."""

    name: str
    description: str
    schema: dict[str, Any]

    @cached_property
    def size(self) -> int:
        """Bytes of it."""
        return sum(map(json_bytes, (self.name, self.description, self.schema)))


NO_ATTEMPT = UUID(int=0)
"""Of a call that has no leave yet."""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One call. `attempt_id` goes along as the client's request id, so that both sides' books can be compared."""

    model: str
    system: str
    turns: tuple[Turn, ...]
    tools: tuple[ToolSpec, ...]
    max_output_tokens: int
    temperature: float | None
    attempt_id: UUID
    use_tools: bool = True
    """Where it is false the tools are there for what was said of them, and the model can call none."""
    closing: str = ""
    """What is said to this call alone. It comes after the system prompt, which the calls of a run have in common."""
    response_schema: Mapping[str, Any] | None = None
    """What the answer is to match, as `common.answer_schema` takes it; each provider is asked for it natively."""

    @property
    def instructions(self) -> str:
        """The system prompt, whole."""
        return "\n\n".join(filter(None, (self.system, self.closing)))


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call, complete. `malformed` says why its arguments are none; then they are empty."""

    id: str
    name: str
    arguments: dict[str, Any]
    malformed: str | None = None


Piece = TextDelta | ToolCall
Fault = Literal["provider", "limit", "request"]
"""Whose fault a failed call is. What is the request's would fail anywhere, and says nothing of the provider; a rate
limit is nobody's."""
StopReason = Literal["end_turn", "tool_use", "max_tokens", "max_output_bytes", "pause_turn", "refusal"]
"""Why the model stopped. After `max_tokens`, which a full window is too, and `pause_turn` it had more to say; so it had
where `max_output_bytes` cut it, which is our limit."""


@dataclass(frozen=True, slots=True)
class RateLimits:
    """What an answer's headers say of the limits a minute and of what is left of them; None: nothing."""

    requests: int | None = None
    requests_left: int | None = None
    tokens: int | None = None
    tokens_left: int | None = None


def _unheard(_: RateLimits) -> None:
    """Nobody wants to know."""


@dataclass(slots=True)
class CallMeter:
    """What one call used, as far as is known at this moment; readable after the call was cut.

    `accepted`: the provider began to answer. `refused`: it said no, or never had the call. `complete`: the answer has
    ended. `final`: the provider's own count of the whole call has arrived. `estimated`: ours stands in for it.
    `asked`: the call was given leave, and made. `failure`: what ended it. `heard` is told of the limits as soon as the
    provider begins to answer.
    """

    usage: Usage = field(default_factory=Usage)
    request_id: str | None = None
    received_bytes: int = 0
    asked: bool = False
    accepted: bool = False
    refused: bool = False
    complete: bool = False
    final: bool = False
    estimated: bool = False
    stop_reason: StopReason = "end_turn"
    failure: ProviderError | None = None
    heard: Callable[[RateLimits], None] = _unheard
    most_bytes: int | None = None
    """Of the answer: what comes after so many is not wanted."""

    def receive(self, text: str) -> None:
        """A piece of the answer came. Raises `OutputLimitError` where it is more than is wanted."""
        self.received_bytes += len(text.encode())
        if self.most_bytes is not None and self.received_bytes > self.most_bytes:
            raise OutputLimitError

    @property
    def unanswered(self) -> bool:
        """Whether the call may have been read and billed, though nothing came back."""
        return self.estimated and not self.accepted


class Provider(Protocol):
    """One API of one provider."""

    name: str

    def stream(self, request: ModelRequest, meter: CallMeter) -> AsyncGenerator[Piece, None]:
        """Stream the answer, keeping the meter. Raises `ProviderError`. Closing the iterator cuts the call."""

    async def close(self) -> None:
        """Close its connections."""


class OutputLimitError(Exception):
    """The model says more than it may; no fault of its provider's, and no reason to ask anew."""


class ProviderError(Exception):
    """A model call failed."""

    _FAULT: ClassVar[Fault] = "provider"

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        detail: str = "",
        retry_after: float | None = None,
        refused: bool = False,
        rate_limits: RateLimits | None = None,
        fault: Fault | None = None,
    ) -> None:
        """`reason` is a stable word, `message` a sentence that the tenant may read.

        `detail` is what the provider said, for the log alone; `retry_after` its wish, in seconds, not yet bounded.
        `refused` says that it did not take the call, or never had it: there is nothing to be billed.
        `rate_limits` is what a refusal for one of them says of all.
        `fault` says whose it is: by default the provider's where it may succeed later, else the request's.
        """
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.detail = detail
        self.retry_after = retry_after
        self.refused = refused
        self.rate_limits = rate_limits
        self.fault: Fault = fault or self._FAULT


class TransientError(ProviderError):
    """May succeed later."""


class PermanentError(ProviderError):
    """Will not succeed however often it is tried."""

    _FAULT = "request"
