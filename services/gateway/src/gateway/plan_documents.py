"""Plans of tenants as operators read and set them."""

from __future__ import annotations

from datetime import date, datetime
from uuid import UUID

from pydantic import Field

from gateway.budget_documents import Asked, By, Reason
from gateway.documents import Document
from gateway.schemas import Text


class NewPlan(Asked):
    """Another plan for a tenant: its caps, models and agents at once, its fee from the tenant's present day on."""

    plan: Text = Field(min_length=1, max_length=100, examples=["pro"])
    by: By
    reason: Reason


class PlanHad(Document):
    """A plan, from when on the tenant has had it."""

    plan: str
    first_day: date = Field(description="of the tenant's time zone: the first day that it takes a share of its fee for")
    since: datetime = Field(description="when it was set")
    by: str
    reason: str


class TenantPlan(Document):
    """A tenant's plan, and all that it has had."""

    tenant_id: UUID
    plan: str
    history: list[PlanHad] = Field(description="the newest first; nobody can change it")
