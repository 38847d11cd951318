"""The proof as operators read it."""

from __future__ import annotations

from datetime import date, datetime
from uuid import UUID

from pydantic import Field

from gateway.documents import Document
from gateway.invoice_documents import AMOUNT


class ProvenCap(Document):
    """Of a scope's caps in the month, the one that a hold came nearest to.

    `peak_usd` is the most that was held and charged when a hold was taken, that hold included.
    """

    scope: str = Field(examples=["tenant_day"])
    periods: int = Field(description="how many caps of this scope there were")
    holds: int = Field(description="holds that were taken against them")
    subject: str | None = Field(description="the run or the user; null where it is the tenant itself")
    period: date
    cap_usd: str | None = Field(description="US dollars, exact; null: there is none")
    peak_usd: str = AMOUNT


class ProvenHolds(Document):
    """The month's holds by what became of them; `held_usd` is what those held that are settled."""

    open: int
    in_doubt: int
    settled: int
    voided: int = Field(description="their calls' usage never came: the platform bears what they cost")
    open_usd: str = AMOUNT
    held_usd: str = AMOUNT
    voided_usd: str = AMOUNT


class ProvenUsage(Document):
    """The month's usage records."""

    calls: int
    estimated: int
    unpriced: int
    cost_usd: str = AMOUNT
    charge_usd: str = AMOUNT
    variance_usd: str = AMOUNT


class ProvenPostings(Document):
    """What the ledger has of the month."""

    cost_usd: str = AMOUNT
    charge_usd: str = AMOUNT
    variance_usd: str = AMOUNT
    fee_usd: str = AMOUNT
    allowance_usd: str = AMOUNT
    owed_usd: str = AMOUNT


class ProvenInvoices(Document):
    """What was invoiced; until then `total_usd` is null."""

    issued: int
    total_usd: str | None


class Difference(Document):
    """Two numbers that are to be the same, and are not."""

    what: str
    subject: str = Field(description="the call, the cap, the entry or the month that it is about")
    expected: str | None
    found: str | None


class ProvenMonth(Document):
    """One tenant's month as of one moment."""

    tenant_id: UUID
    month: str = Field(pattern=r"^[0-9]{4}-[0-9]{2}$")
    agrees: bool = Field(description="there is no difference")
    caps: list[ProvenCap]
    holds: ProvenHolds
    usage: ProvenUsage
    posted: ProvenPostings
    invoices: ProvenInvoices
    differences: list[Difference] = Field(description="the first 100")
    differences_in_all: int


class ProofPage(Document):
    """Months of tenants, in the order of their ids."""

    as_of: datetime
    agrees: bool = Field(description="no month of this page has a difference")
    items: list[ProvenMonth]
    next: str | None = Field(description="pass it as `after`; null at the end")
