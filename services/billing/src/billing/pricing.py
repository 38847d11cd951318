"""The arithmetic of money: what a call cost, and what of it the tenant is charged. Pure, exact, in US dollars."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal, localcontext

from billing.pricebook import Rates
from common.contracts.usage import Usage

# As PostgreSQL keeps amounts: NUMERIC(20, 10).
_UNIT = Decimal("1e-10")
_PER_MILLION = Decimal("1e-6")
# Enough digits for every product and sum: nothing is rounded before the one rounding at the end.
_EXACT = Context(prec=60, rounding=ROUND_HALF_UP)

NOTHING = Decimal(0)


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a call costs, split: the tenant is charged no more than was held, the platform bears the rest."""

    charge: Decimal
    variance: Decimal


def price(usage: Usage, rates: Rates) -> Decimal:
    """The cost of one call, rounded once, half up. Reasoning is a part of the output and is not counted again."""
    with localcontext(_EXACT):
        total = (
            usage.input_tokens * rates.input
            + usage.cache_read_tokens * rates.cache_read
            + usage.cache_write_5m_tokens * rates.cache_write_5m
            + usage.cache_write_1h_tokens * rates.cache_write_1h
            + usage.output_tokens * rates.output
        )
        return (total * _PER_MILLION).quantize(_UNIT)


def settle(cost: Decimal, held: Decimal) -> Settlement:
    """Charge what was held at most."""
    charge = min(cost, held)
    return Settlement(charge, cost - charge)
