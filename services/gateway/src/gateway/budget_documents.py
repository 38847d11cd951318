"""Budgets as clients read and write them, described for `/docs`."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from gateway.budget_records import Scope
from gateway.documents import Document
from gateway.schemas import Text

_DIGITS = r"^[0-9]+(\.[0-9]+)?$"
By = Annotated[Text, Field(min_length=1, max_length=200, examples=["ada@example.com"], description="who: logged")]
Reason = Annotated[Text, Field(min_length=1, max_length=500, examples=["month-end close"], description="why: logged")]


class Asked(BaseModel):
    """A body, of which each field has a meaning."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class NewBudget(Asked):
    """A cap in place of the one in force. One below what is spent is taken: then nothing runs."""

    cap_usd: Decimal = Field(
        ge=0, max_digits=20, decimal_places=10, examples=["50"], description="US dollars, as a string for exactness"
    )
    currency: Literal["USD"] = Field(default="USD", description="there is no other one")
    by: By
    reason: Reason


class NewTimeZone(Asked):
    """When a tenant's days and months are to begin."""

    time_zone: Text = Field(min_length=1, max_length=64, examples=["Europe/Vienna"], description="IANA's name")
    by: By
    reason: Reason


class Period(Document):
    """A day or month of the tenant's time zone. The end is not a part of it."""

    begins_at: datetime
    ends_at: datetime = Field(description="when it is renewed")


class Budget(Document):
    """One budget: what may be spent, what is, and what is held for calls that are under way."""

    scope: Scope
    subject: str | None = Field(description="the user, conversation or task; null for the tenant, or for each of them")
    each: bool = Field(description="what each user, conversation or run has: nothing is spent of that as such")
    cap_usd: str | None = Field(pattern=_DIGITS, description="null: there is no cap")
    source: Literal["plan", "tenant", "user", "conversation", "run"] = Field(
        description="where the cap comes from: the plan, or what an operator has set for the tenant or for this one"
    )
    held_usd: str | None = Field(pattern=_DIGITS)
    charged_usd: str | None = Field(pattern=_DIGITS)
    left_usd: str | None = Field(pattern=_DIGITS, description="never below 0")
    period: Period | None = Field(description="null where a budget is for good: a run's, a conversation's")
    warned: list[Literal[50, 80, 100]] = Field(description="percent that were reached in this period")


class BudgetList(Document):
    """The budgets that are in force."""

    time_zone: str = Field(description="in which the days and months begin")
    budgets: list[Budget]
    next: str | None = Field(description="the value of `after` for more; null: these were all")


class Override(Document):
    """A cap that an operator has set."""

    scope: Scope
    subject: str | None = Field(description="null: the tenant, or each of its users, conversations or runs")
    cap_usd: str = Field(pattern=_DIGITS)
    by: str
    reason: str
    set_at: datetime


class Change(Document):
    """An entry of the log: what was in force before and after, null where that was no cap."""

    at: datetime
    action: Literal["set", "removed", "time_zone"]
    scope: Scope | None
    subject: str | None
    old: str | None
    new: str | None
    by: str
    reason: str


class TenantBudgets(BudgetList):
    """A tenant's budgets, what was set in place of its plan's, and by whom."""

    tenant_id: UUID
    overrides: list[Override]
    log: list[Change] = Field(description="the newest first")


class TimeZone(Document):
    """A tenant's time zone, and the present periods in it."""

    tenant_id: UUID
    time_zone: str
    day: Period
    month: Period


class Burning(Document):
    """A tenant that would use up its month before it ends, at the rate of its last two days."""

    tenant_id: UUID
    name: str
    plan: str
    cap_usd: str = Field(pattern=_DIGITS)
    charged_usd: str = Field(pattern=_DIGITS)
    usd_per_day: str = Field(pattern=_DIGITS)
    used_up_at: datetime
    month_ends_at: datetime


class BurningList(Document):
    """The first to be used up first."""

    tenants: list[Burning]
