"""Double entry: the entries that a settled call makes. Debits are positive; those of one attempt sum to zero.

    receivable           asset      what tenants owe us                            + charge
    revenue              income     what tenants were charged                      - charge
    cost                 expense    provider cost that a charge recovers           + charge
    variance             expense    provider cost that no charge recovers          + variance
    payable:<provider>   liability  what we owe the provider, the whole cost       - cost

So the platform's loss is the balance of `variance` and nothing else, and each payable is to equal the provider's bill.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from billing.pricing import Settlement

RECEIVABLE = "receivable"
REVENUE = "revenue"
COST = "cost"
VARIANCE = "variance"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: an account, and an amount that is never zero."""

    account: str
    amount: Decimal


def payable(provider: str) -> str:
    """The account of what is owed to a provider."""
    return f"payable:{provider}"


def entries(settlement: Settlement, provider: str) -> tuple[Entry, ...]:
    """The entries of one attempt; a call that cost nothing makes none."""
    charge, variance = settlement.charge, settlement.variance
    lines = (
        Entry(RECEIVABLE, charge),
        Entry(REVENUE, -charge),
        Entry(COST, charge),
        Entry(VARIANCE, variance),
        Entry(payable(provider), -(charge + variance)),
    )
    return tuple(line for line in lines if line.amount)
