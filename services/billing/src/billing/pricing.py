"""The arithmetic of money: what a call cost, and what of it the tenant is charged. Pure, exact, in US dollars."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext

from billing.pricebook import Rates
from common.contracts.usage import Usage

# As PostgreSQL keeps amounts: NUMERIC(20, 10).
_UNIT = Decimal("1e-10")
_PER_MILLION = Decimal("1e-6")
_PERCENT = Decimal("0.01")
# Enough digits for every product and sum: nothing is rounded before the one rounding at the end.
_EXACT = Context(prec=60, rounding=ROUND_HALF_UP)

NOTHING = Decimal(0)


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a call cost, and what its tenant is charged for it; cost that no charge recovers is the platform's."""

    cost: Decimal
    charge: Decimal

    @property
    def variance(self) -> Decimal:
        """What the platform bears."""
        return max(self.cost - self.charge, NOTHING)


def price(usage: Usage, rates: Rates, markup_percent: Decimal = NOTHING) -> Decimal:
    """What one call comes to, rounded once, half up: its cost or, with a plan's markup, what its tenant owes.

    Reasoning is a part of the output and is not counted again.
    """
    with localcontext(_EXACT):
        total = (
            usage.input_tokens * rates.input
            + usage.cache_read_tokens * rates.cache_read
            + usage.cache_write_5m_tokens * rates.cache_write_5m
            + usage.cache_write_1h_tokens * rates.cache_write_1h
            + usage.output_tokens * rates.output
        )
        return (total * _PER_MILLION * (1 + markup_percent * _PERCENT)).quantize(_UNIT)


def settle(cost: Decimal, owed: Decimal, held: Decimal) -> Settlement:
    """Charge what was held at most."""
    return Settlement(cost, min(owed, held))
