"""A task as the gateway publishes it: everything a worker needs, so that no service is asked for it later."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, ClassVar, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from common.contracts.base import Contract


class InputMessage(BaseModel):
    """One message of the conversation that the tenant hands in."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    role: Literal["user", "assistant"]
    content: str = Field(min_length=1)


class BatchPlace(BaseModel):
    """Where a task stands in the batch that it was submitted with."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    id: UUID
    index: int = Field(ge=0)
    size: int = Field(ge=1)


class TaskSubmitted(Contract):
    """Published once to exchange `tasks` with the tier as routing key; the broker's confirm is the commit."""

    KIND: ClassVar[str] = "task.submitted"
    kind: Literal["task.submitted"] = "task.submitted"
    version: Literal[1] = 1
    task_id: UUID
    tenant_id: UUID
    user_id: str | None = None
    tier: str
    level: int = Field(ge=0, le=31, description="the broker's message priority, set by admission")
    priority: int = Field(ge=0, le=9, description="the tenant's own order among its tasks")
    agent: str
    model: str | None = None
    input: tuple[InputMessage, ...] = Field(min_length=1)
    max_cost_usd: Decimal | None = None
    on_budget_exhausted: Literal["fail", "wait", "park"] = Field(
        default="fail", description="where the next call does not fit into a budget"
    )
    models: tuple[str, ...] | None = Field(default=None, description="those that its tenant's plan allows; null: all")
    max_steps: int | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    response_schema: dict[str, Any] | None = Field(
        default=None, description="a JSON Schema that the answer is to match (see `common.answer_schema`)"
    )
    deadline_at: AwareDatetime | None = None
    not_before: AwareDatetime | None = None
    concurrency_key: str | None = Field(
        default=None, description="of those with the same key only so many run at a time"
    )
    concurrency_limit: int | None = Field(default=None, ge=1, description="so many; without a number one")
    conversation_id: UUID | None = Field(default=None, description="the tenant's own; one of its runs at a time")
    on_busy: Literal["enqueue", "reject", "interrupt"] = Field(
        default="enqueue", description="what is done where another run has the conversation"
    )
    metadata: dict[str, str] = Field(default_factory=dict)
    no_store: bool = Field(default=False, description="its answers are neither read from the response cache nor kept")
    batch: BatchPlace | None = None
    idempotency_key: str | None = None
    request_hash: str = Field(description="SHA-256 of the canonical request: tells a retry from another request")
    submitted_at: AwareDatetime

    @property
    def conditional(self) -> bool:
        """Whether the task itself names something that it may have to wait for."""
        return self.not_before is not None or self.takes_turns

    @property
    def takes_turns(self) -> bool:
        """Whether the task itself names others of its tenant that it may not run beside."""
        return (self.concurrency_key or self.conversation_id) is not None
