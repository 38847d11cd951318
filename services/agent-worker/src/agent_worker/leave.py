"""What is asked before a model call, and what is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID


@dataclass(frozen=True, slots=True)
class CallRequest:
    """One model call for which leave is asked; without an attempt none is made, as its answer is known."""

    attempt_id: UUID | None
    step: int
    call: int
    user_id: str | None
    provider: str
    model: str
    input_bound: int
    max_output_tokens: int
    run_cap: Decimal | None
    conversation_id: UUID | None = None
    input_estimate: int | None = None
    """What it will probably read: what is billed of it where its worker dies in it."""


@dataclass(frozen=True, slots=True)
class Leave:
    """The answer: held, or why not, with the scope and the amounts in US dollars that decided."""

    verdict: Literal["held", "fenced", "cancelled", "wait", "exceeded", "unpriced", "not_allowed"]
    scope: str | None
    amount: Decimal | None
    cap: Decimal | None
    subject: str | None = None
    """Of the scope: the user, the conversation, the task; empty for the tenant."""
    missing: Decimal | None = None
    renews_at: datetime | None = None
    """When the scope's period ends."""
    allowed: Sequence[str] | None = None
    """Where the model is not allowed: those that are."""
    waited: float | None = None
    """Seconds since the run first met with open holds in the way of this call."""
