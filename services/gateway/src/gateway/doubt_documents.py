"""Holds that went in doubt as operators read them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from gateway.documents import Document
from gateway.invoice_documents import AMOUNT


class Doubt(Document):
    """A hold whose run moved on without its usage record, and what became of it."""

    attempt_id: UUID = Field(description="the call, which its hold, its usage and its postings are named by")
    tenant_id: UUID
    task_id: UUID
    user_id: str | None
    provider: str
    model: str
    amount_usd: str = AMOUNT
    opened_at: datetime
    doubted_at: datetime = Field(description="since when it was in doubt")
    resolution: Literal["settled", "voided"] | None = Field(description="null: it is in doubt, and counts as held")
    policy: Literal["own_record", "received", "platform_pays"] | None = Field(
        description="by what it was resolved: its record, which came after all; what the stream had received of the"
        " answer, as an estimate; or nothing, so that the platform pays what the call cost"
    )
    charged_usd: str | None = Field(pattern=r"^[0-9]+(\.[0-9]+)?$", description="what its tenant was charged for it")
    resolved_at: datetime | None


class DoubtList(Document):
    """The newest first."""

    items: list[Doubt]
    next: str | None = Field(description="pass it as `after`; null at the end")
