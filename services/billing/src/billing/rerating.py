"""Calls put to the price that the book has for them now: those of a period, and those that had none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import UUID

from billing import correction_records, repository
from billing.correcting import Correction, corrected
from billing.pricing import NOTHING, Settlement
from common.postgres import Pool, transaction

if TYPE_CHECKING:
    from common.postgres import Connection

# What one transaction corrects; its locks are in the way of settlements.
_SIZE = 500
_STEP = timedelta(days=1)
_NONE = Settlement(NOTHING, NOTHING)


@dataclass(frozen=True, slots=True)
class Rerated:
    """A tenant's difference, in US dollars."""

    calls: int = 0
    before: Settlement = _NONE
    after: Settlement = _NONE
    months: frozenset[str] = frozenset()
    """Those that it is about."""

    @property
    def cost(self) -> Decimal:
        """By how much the provider's cost is other than was booked."""
        return self.after.cost - self.before.cost

    @property
    def charge(self) -> Decimal:
        """The same of the charge: never above zero."""
        return self.after.charge - self.before.charge

    def plus(self, one: Correction) -> Rerated:
        """With one more call."""
        before = one.filed.settlement or _NONE
        return Rerated(
            self.calls + 1,
            Settlement(self.before.cost + before.cost, self.before.charge + before.charge),
            Settlement(self.after.cost + one.settlement.cost, self.after.charge + one.settlement.charge),
            self.months | {f"{one.filed.month:%Y-%m}"},
        )


async def rerate(pool: Pool, timeout: float, begin: datetime, end: datetime, *, post: bool) -> dict[UUID, Rerated]:
    """The difference by tenant over a period; with `post` it is posted, part by part.

    Safe to break off and to run again: what is corrected already is as the book says.
    """
    differences: dict[UUID, Rerated] = {}
    while begin < end:
        until = min(begin + _STEP, end)
        async with transaction(pool, timeout) as connection:
            attempts = await correction_records.priced_by_what_was_superseded(connection, begin, until)
        for first in range(0, len(attempts), _SIZE):
            async with transaction(pool, timeout) as connection:
                found = await put_right(connection, attempts[first : first + _SIZE], post=post)
            _add(differences, found)
        begin = until
    return differences


async def put_right(connection: Connection, attempts: Sequence[UUID], *, post: bool = True) -> list[Correction]:
    """Correct these calls as far as their price is another; what was corrected."""
    if post:
        await correction_records.lock(connection, attempts)
    filed = await correction_records.filed(connection, attempts)
    corrections = [made for one, price in filed if (made := corrected(one, price))]
    if post and corrections:
        await repository.post(connection, [entry for one in corrections for entry in one.entries()])
        await correction_records.correct(connection, corrections)
    return corrections


def _add(differences: dict[UUID, Rerated], corrections: Iterable[Correction]) -> None:
    for one in corrections:
        tenant = one.filed.tenant_id
        differences[tenant] = differences.get(tenant, Rerated()).plus(one)
