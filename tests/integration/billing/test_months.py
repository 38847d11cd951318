"""A month is closed when it is over: what its plan takes and gives is posted, once."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import uuid4

import pytest

from billing.closing import Closed, MonthOpenError, UnknownTenantError, close_month
from common.postgres import Pool, transaction
from tests.integration.billing.calls import Call, spend_in
from tests.stage import Stage

COST = Decimal("0.0015")
MONTH = date(2026, 1, 1)


async def _close(pool: Pool, call: Call, month: date = MONTH) -> Closed:
    async with transaction(pool, 20) as connection:
        return await close_month(connection, call.tenant_id, month)


async def _entries(owner: Pool, call: Call) -> list[tuple[str, str, Decimal]]:
    rows = await owner.fetch(
        "SELECT kind, account, amount FROM billing.ledger WHERE tenant_id = $1 AND month = $2 AND attempt_id IS NULL"
        " ORDER BY posted_at, account",
        *(call.tenant_id, MONTH),
    )
    return [(row["kind"], row["account"], row["amount"]) for row in rows]


async def test_a_month_posts_its_fee_and_what_is_free_once(stage: Stage, pool: Pool, owner: Pool) -> None:
    call = Call(stage.new_tenant(free_allowance_usd="0.001", monthly_fee_usd="49"), uuid4())
    await spend_in(pool, owner, call, MONTH)
    closed = await _close(pool, call)
    assert (closed.charges, closed.allowance, closed.fee) == (COST, Decimal("0.001"), Decimal(49))
    assert closed.owed == Decimal("49.0005")
    again = await asyncio.gather(*(_close(pool, call) for _ in range(4)))
    assert {(one.owed, one.changed) for one in again} == {(closed.owed, Decimal(0))}
    assert sorted(await _entries(owner, call)) == [
        ("allowance", "allowance", Decimal("0.001")),
        ("allowance", "receivable", Decimal("-0.001")),
        ("fee", "receivable", Decimal(49)),
        ("fee", "revenue", Decimal(-49)),
    ]


async def test_an_allowance_gives_no_more_than_was_charged(stage: Stage, pool: Pool, owner: Pool) -> None:
    call = Call(stage.new_tenant(free_allowance_usd="10"), uuid4())
    await spend_in(pool, owner, call, MONTH)
    closed = await _close(pool, call)
    assert (closed.allowance, closed.owed) == (COST, Decimal(0))


async def test_a_closed_month_keeps_its_terms(stage: Stage, pool: Pool, owner: Pool) -> None:
    call = Call(stage.new_tenant(monthly_fee_usd="49"), uuid4())
    await _close(pool, call)
    await owner.execute(
        "UPDATE identity.plans p SET monthly_fee_usd = 99 FROM identity.tenants t"
        " WHERE t.plan = p.name AND t.tenant_id = $1",
        call.tenant_id,
    )
    assert (await _close(pool, call)).owed == 49


async def test_a_month_with_a_plan_that_takes_and_gives_nothing_has_no_entries(
    call: Call, pool: Pool, owner: Pool
) -> None:
    assert (await _close(pool, call)).owed == 0
    assert await _entries(owner, call) == []


async def test_a_month_that_is_not_over_is_not_closed(call: Call, pool: Pool) -> None:
    for month in (datetime.now(UTC).date().replace(day=1), date(2999, 1, 1)):
        with pytest.raises(MonthOpenError, match="cannot be closed before"):
            await _close(pool, call, month)


async def test_a_month_whose_holds_may_still_be_charged_is_not_closed(call: Call, pool: Pool, owner: Pool) -> None:
    await call.reserve(owner)
    await owner.execute("UPDATE billing.holds SET day = $2 WHERE attempt_id = $1", call.attempt_id, MONTH)
    with pytest.raises(MonthOpenError, match="1 holds that are not resolved"):
        await _close(pool, call)


async def test_a_tenant_that_is_not_there_has_no_months(pool: Pool) -> None:
    with pytest.raises(UnknownTenantError):
        await _close(pool, Call(uuid4(), uuid4()))
