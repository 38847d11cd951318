"""What a model call used, as a vector in which no token is counted twice, whichever provider served it."""

from __future__ import annotations

from typing import ClassVar, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, NonNegativeInt, model_validator

from common.contracts.base import Contract

# Above any model's window: a larger number is a fault of the sender, not a large call.
_ABSURD = 100_000_000


class Usage(BaseModel):
    """Tokens of one or more model calls. The input classes are disjoint; reasoning is a part of the output."""

    model_config = ConfigDict(frozen=True, extra="allow")
    input_tokens: NonNegativeInt = Field(default=0, le=_ABSURD, description="input not read from a cache")
    cache_read_tokens: NonNegativeInt = Field(default=0, le=_ABSURD)
    cache_write_5m_tokens: NonNegativeInt = Field(default=0, le=_ABSURD)
    cache_write_1h_tokens: NonNegativeInt = Field(default=0, le=_ABSURD)
    output_tokens: NonNegativeInt = Field(default=0, le=_ABSURD, description="all output, reasoning included")
    reasoning_tokens: NonNegativeInt = Field(default=0, le=_ABSURD)
    server_tool_calls: dict[str, NonNegativeInt] = Field(default_factory=dict)
    service_tier: str | None = None
    cached_calls: NonNegativeInt = Field(
        default=0, le=_ABSURD, description="calls that were not made: the response cache had their answers"
    )

    @model_validator(mode="after")
    def _reasoning_is_output(self) -> Usage:
        if self.reasoning_tokens > self.output_tokens:
            raise ValueError("reasoning_tokens are a part of output_tokens and cannot exceed them")
        return self

    @property
    def total_input_tokens(self) -> int:
        """Every input token, however it was served."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_5m_tokens + self.cache_write_1h_tokens

    def __add__(self, other: Usage) -> Usage:
        tools = dict(self.server_tool_calls)
        for name, count in other.server_tool_calls.items():
            tools[name] = tools.get(name, 0) + count
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_write_5m_tokens=self.cache_write_5m_tokens + other.cache_write_5m_tokens,
            cache_write_1h_tokens=self.cache_write_1h_tokens + other.cache_write_1h_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            server_tool_calls=tools,
            service_tier=other.service_tier or self.service_tier,
            cached_calls=self.cached_calls + other.cached_calls,
        )


class UsageRecorded(Contract):
    """One model call that happened. Published as it ends, before what follows is durable; keyed by the attempt."""

    KIND: ClassVar[str] = "usage.recorded"
    kind: Literal["usage.recorded"] = "usage.recorded"
    version: Literal[1] = 1
    attempt_id: UUID
    task_id: UUID
    tenant_id: UUID
    user_id: str | None = None
    agent: str
    provider: str
    model: str
    step: int
    call: int
    fence: int
    usage: Usage
    estimated: bool = Field(default=False, description="counted by us, because the provider's count did not arrive")
    unanswered: bool = Field(default=False, description="sent, and nothing came back: the platform bears what it cost")
    provider_request_id: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    recorded_at: AwareDatetime
