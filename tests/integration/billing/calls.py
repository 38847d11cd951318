"""Calls as billing sees them, and its books as a test reads them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from billing import handlers
from common.contracts import UsageRecorded
from common.contracts.base import now
from common.contracts.identifiers import attempt_id
from common.contracts.usage import Usage
from common.postgres import Pool

PROVIDER, MODEL = "anthropic", "claude-haiku-4-5"


@dataclass(frozen=True)
class Call:
    """One model call, from its hold to its record."""

    tenant_id: UUID
    task_id: UUID
    step: int = 1
    number: int = 1
    user_id: str | None = None
    model: str = MODEL
    conversation_id: UUID | None = None

    def next(self) -> Call:
        """The call after it."""
        return replace(self, number=self.number + 1)

    def in_conversation(self, conversation_id: UUID) -> Call:
        """The same of a task that has a conversation."""
        return replace(self, conversation_id=conversation_id)

    @property
    def attempt_id(self) -> UUID:
        return attempt_id(self.task_id, self.step, self.number)

    async def reserve(
        self,
        owner: Pool,
        *,
        input_bound: int = 1000,
        max_output: int = 1000,
        fence: int = 1,
        input_estimate: int | None = None,
    ) -> str:
        """The verdict."""
        verdict = await owner.fetchval(
            "SELECT verdict FROM billing.reserve($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, NULL, $12, $13)",
            *(self.attempt_id, self.tenant_id, self.user_id, self.task_id, fence, self.step, self.number),
            *(PROVIDER, self.model, input_bound, max_output, self.conversation_id, input_estimate),
        )
        assert isinstance(verdict, str)
        return verdict

    def record(self, **changes: Any) -> UsageRecorded:
        """What the worker publishes when the call is over; 1,000 tokens in and 100 out cost 0.0015."""
        values: dict[str, Any] = {
            "attempt_id": self.attempt_id,
            "task_id": self.task_id,
            "tenant_id": self.tenant_id,
            "user_id": self.user_id,
            "agent": "default",
            "provider": PROVIDER,
            "model": self.model,
            "step": self.step,
            "call": self.number,
            "fence": 1,
            "usage": Usage(input_tokens=1000, output_tokens=100),
            "recorded_at": now(),
        }
        return UsageRecorded(**{**values, **changes})


async def settle(pool: Pool, *records: UsageRecorded) -> None:
    """Hand a batch to the handler."""
    await handlers.settle_usage(records, pool, 60)


async def balances(owner: Pool, tenant: UUID) -> dict[str, tuple[Decimal, Decimal]]:
    """Held and charged, by scope."""
    rows = await owner.fetch("SELECT scope, held, charged FROM billing.balances WHERE tenant_id = $1", tenant)
    return {row["scope"]: (row["held"], row["charged"]) for row in rows}


async def ledger(owner: Pool, attempt: UUID) -> dict[str, Decimal]:
    """Amount by account."""
    rows = await owner.fetch("SELECT account, amount FROM billing.ledger WHERE attempt_id = $1", attempt)
    return {row["account"]: row["amount"] for row in rows}


async def spend_in(pool: Pool, owner: Pool, call: Call, month: date) -> None:
    """A settled call in that month: its hold is moved there while it is open."""
    assert await call.reserve(owner) == "held"
    await owner.execute("UPDATE billing.holds SET day = $2 WHERE attempt_id = $1", call.attempt_id, month)
    await owner.execute(
        "INSERT INTO billing.balances AS b (tenant_id, scope, subject, period, cap, held)"
        " SELECT o.tenant_id, o.scope, o.subject, h.day, o.cap, h.amount FROM billing.holds h"
        " JOIN billing.balances o ON o.tenant_id = h.tenant_id AND o.subject IN ('', h.user_id) AND o.period <> h.day"
        " WHERE h.attempt_id = $1 AND o.scope <> 'run'"
        " ON CONFLICT (tenant_id, scope, subject, period) DO UPDATE SET held = b.held + excluded.held",
        call.attempt_id,
    )
    await settle(pool, call.record())
