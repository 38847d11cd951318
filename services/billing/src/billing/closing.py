"""Closes a tenant's month: posts what its plan takes and gives, and after a correction the difference."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import UUID

from billing import month_records, repository
from billing.ledger import RECEIVABLE
from billing.months import Terms, closing_entries
from common.errors import LanewayError

if TYPE_CHECKING:
    from common.postgres import Connection

# A hold that was taken in the last moment of a month is seen by then.
GRACE = timedelta(hours=1)


class MonthOpenError(LanewayError):
    """The month cannot be closed yet; the message says why, and when it can."""


class UnknownTenantError(LanewayError):
    """There is no such tenant."""


@dataclass(frozen=True, slots=True)
class Closed:
    """A tenant's month, in US dollars."""

    terms: Terms
    charges: Decimal
    allowance: Decimal
    fee: Decimal
    changed: Decimal
    """By how much this closing changed what is owed."""

    @property
    def owed(self) -> Decimal:
        """What the tenant owes for the month: the balance of its postings."""
        return self.charges - self.allowance + self.fee


async def close_month(connection: Connection, tenant_id: UUID, month: date) -> Closed:
    """Close it, once and again. Raises `MonthOpenError` or `UnknownTenantError`."""
    moments = await month_records.end_of(connection, tenant_id, month)
    if moments is None:
        raise UnknownTenantError(f"There is no tenant {tenant_id}.")
    ended, at = moments
    if at < ended + GRACE:
        raise MonthOpenError(f"{month:%Y-%m} cannot be closed before {ended + GRACE:%Y-%m-%d %H:%M} UTC.")
    await month_records.lock_month(connection, tenant_id, month)
    if count := await month_records.unresolved(connection, tenant_id, month):
        raise MonthOpenError(
            f"{month:%Y-%m} of tenant {tenant_id} has {count} holds that are not resolved: billing settles or voids"
            " them within minutes while it runs. Close the month again then."
        )
    terms = await month_records.keep_terms(connection, tenant_id, month)
    assert terms is not None  # noqa: S101 - the tenant was there a moment ago, and none is ever deleted
    before = await month_records.posted(connection, tenant_id, month)
    entries = closing_entries(tenant_id, month, terms, before)
    await repository.post(connection, entries)
    after = await month_records.posted(connection, tenant_id, month)
    changed = sum((ln.amount for one in entries for ln in one.lines if ln.account == RECEIVABLE), Decimal(0))
    return Closed(terms, after.charges, after.allowance, after.fee or Decimal(0), changed)
