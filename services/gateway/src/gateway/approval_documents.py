"""What clients send and read of approvals."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from gateway.documents import Document
from gateway.schemas import Text

Reason = Annotated[Text, Field(min_length=1, max_length=2000)]


class ApprovalRequest(Document):
    """A person's decision on one tool call."""

    call_id: Text = Field(min_length=1, max_length=400, description="of `parked.calls` of the task, or of its stream")
    decision: Literal["approve", "edit", "deny"]
    arguments: dict[str, Any] | None = Field(
        default=None, description="with `edit`: all arguments of the call, in place of the model's"
    )
    reason: Reason | None = Field(default=None, description="of a denial it is told to the model")
    user_id: Text | None = Field(default=None, min_length=1, max_length=200, description="who decided, for the record")

    @model_validator(mode="after")
    def _arguments_are_edited(self) -> Self:
        if (self.decision == "edit") != (self.arguments is not None):
            rule = "`edit` needs `arguments`, and no other decision may have them"
            raise PydanticCustomError("arguments", rule)
        return self


class Approval(Document):
    """A tool call that waited, or waits, for a person."""

    call_id: str
    step: int
    tool: str
    arguments: dict[str, Any]
    decision: Literal["approve", "edit", "deny", "expire"] | None = Field(description="null while it waits")
    changed_arguments: dict[str, Any] | None
    reason: str | None
    user_id: str | None
    decided_by: str | None = Field(description="`key:` and the API key's id, or `policy` where the time was up")
    decided_at: datetime | None
    proposed_at: datetime
    expires_at: datetime
    on_timeout: Literal["deny", "approve", "expire"]


class ApprovalList(Document):
    """All of a task, oldest first."""

    items: list[Approval]


class Decided(Document):
    """The decision that counts."""

    id: UUID
    call_id: str
    decision: Literal["approve", "edit", "deny"]
    decided_by: str
    decided_at: datetime


EXAMPLES: dict[str, dict[str, Any]] = {
    "approve": {"summary": "Let it be done", "value": {"call_id": "toolu_01", "decision": "approve", "user_id": "ann"}},
    "edit": {
        "summary": "Done otherwise",
        "value": {"call_id": "toolu_01", "decision": "edit", "arguments": {"to": "team@example.org"}},
    },
    "deny": {
        "summary": "Not done",
        "value": {"call_id": "toolu_01", "decision": "deny", "reason": "Ask the customer first."},
    },
}
