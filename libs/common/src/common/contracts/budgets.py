"""What tenants and operators are to hear about budgets."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import ClassVar, Literal, TypeAlias
from uuid import UUID

from pydantic import AwareDatetime, Field

from common.contracts.base import Contract

BudgetScope: TypeAlias = Literal["conversation", "run", "tenant_day", "tenant_month", "user_day"]
BudgetThreshold: TypeAlias = Literal[50, 80, 100]


class BudgetWarned(Contract):
    """A budget has been spent to 50, 80 or 100 % in its period. Decided once in PostgreSQL, published at least once."""

    KIND: ClassVar[str] = "budget.warned"
    kind: Literal["budget.warned"] = "budget.warned"
    version: Literal[1] = 1
    warning_id: UUID = Field(description="the same however often it is published")
    tenant_id: UUID
    scope: BudgetScope
    subject: str | None = Field(description="the user, the conversation, the task; null for the tenant")
    threshold: BudgetThreshold = Field(
        description="percent; 100 also where what is left is too little for a call that the cap as such allows"
    )
    cap_usd: Decimal
    charged_usd: Decimal
    period: date | None = Field(
        description="the tenant's day, or the first of its month; null where there is no period"
    )
    warned_at: AwareDatetime
