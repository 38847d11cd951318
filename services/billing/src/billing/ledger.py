"""Double entry. An entry is posted whole and never changed; debits are positive, and its lines sum to zero.

    receivable           asset      what tenants owe us               + charge            + fee   - allowance
    revenue              income     what tenants were charged         - charge            - fee
    allowance            income     what of it their plan gives away                              + allowance
    cost                 expense    provider cost that a charge recovers   + cost - variance
    variance             expense    provider cost that no charge recovers  + variance
    payable:<provider>   liability  what we owe the provider               - cost

So a tenant owes the balance of its `receivable`, the platform's loss is the balance of `variance` and nothing else, and
each payable is to equal the provider's bill. What a plan's markup brings is `revenue` above `cost`.

A correction is two entries: the reversal of what was posted, line by line, and what is posted instead.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Literal
from uuid import UUID, uuid5

from billing.pricing import Settlement

RECEIVABLE = "receivable"
REVENUE = "revenue"
ALLOWANCE = "allowance"
COST = "cost"
VARIANCE = "variance"


@dataclass(frozen=True, slots=True)
class Line:
    """An account, and an amount that is never zero."""

    account: str
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Source:
    """What an entry about a model call rests on: its usage, the hold that it is charged against, the price version."""

    attempt_id: UUID
    hold_id: UUID | None
    price_id: int


@dataclass(frozen=True, slots=True)
class Entry:
    """Lines that belong together. Its id is made from what it is about, so that it cannot be posted twice."""

    entry_id: UUID
    kind: Literal["usage", "reversal", "correction", "fee", "allowance"]
    tenant_id: UUID
    month: date
    lines: tuple[Line, ...]
    source: Source | None = None
    reverses: UUID | None = None


def payable(provider: str) -> str:
    """The account of what is owed to a provider."""
    return f"payable:{provider}"


def usage_id(attempt_id: UUID, revision: int) -> UUID:
    """The entry of a call's amounts: first that of its settlement, then those of its corrections."""
    return uuid5(attempt_id, f"revision {revision}") if revision else attempt_id


def usage_entry(
    source: Source, tenant_id: UUID, month: date, settlement: Settlement, provider: str, revision: int = 0
) -> Entry:
    """What a call cost and what is charged for it. One that cost nothing has no lines."""
    cost, charge, variance = settlement.cost, settlement.charge, settlement.variance
    lines = _lines(
        (RECEIVABLE, charge),
        (REVENUE, -charge),
        (COST, cost - variance),
        (VARIANCE, variance),
        (payable(provider), -cost),
    )
    kind: Literal["usage", "correction"] = "correction" if revision else "usage"
    return Entry(usage_id(source.attempt_id, revision), kind, tenant_id, month, lines, source)


def reversal(entry: Entry) -> Entry:
    """Takes all of an entry back."""
    lines = tuple(Line(line.account, -line.amount) for line in entry.lines)
    made = uuid5(entry.entry_id, "reversal")
    return replace(entry, entry_id=made, kind="reversal", lines=lines, reverses=entry.entry_id)


def fee_entry(tenant_id: UUID, month: date, fee: Decimal) -> Entry:
    """A plan's fee for a month: there is one."""
    lines = _lines((RECEIVABLE, fee), (REVENUE, -fee))
    return Entry(uuid5(tenant_id, f"fee {month}"), "fee", tenant_id, month, lines)


def allowance_entry(tenant_id: UUID, month: date, given: Decimal, number: int) -> Entry:
    """What the plan gives of a month's charges; after a correction, what it gives more or less than before."""
    lines = _lines((ALLOWANCE, given), (RECEIVABLE, -given))
    return Entry(uuid5(tenant_id, f"allowance {month} {number}"), "allowance", tenant_id, month, lines)


def _lines(*amounts: tuple[str, Decimal]) -> tuple[Line, ...]:
    return tuple(Line(account, amount) for account, amount in amounts if amount)
