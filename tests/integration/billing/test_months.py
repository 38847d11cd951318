"""A month is closed when it is over: what its plan takes and gives is posted, once."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID, uuid4

import asyncpg
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
    call = Call(stage.new_tenant(MONTH, free_allowance_usd="0.001", monthly_fee_usd="49"), uuid4())
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
    call = Call(stage.new_tenant(MONTH, free_allowance_usd="10"), uuid4())
    await spend_in(pool, owner, call, MONTH)
    closed = await _close(pool, call)
    assert (closed.allowance, closed.owed) == (COST, Decimal(0))


async def test_a_closed_month_keeps_its_terms(stage: Stage, pool: Pool, owner: Pool) -> None:
    call = Call(stage.new_tenant(MONTH, monthly_fee_usd="49"), uuid4())
    await _close(pool, call)
    await owner.execute(
        "UPDATE identity.plans p SET monthly_fee_usd = 99 FROM identity.tenants t"
        " WHERE t.plan = p.name AND t.tenant_id = $1",
        call.tenant_id,
    )
    assert (await _close(pool, call)).owed == 49


async def _planned(owner: Pool, tenant: UUID, fee: str, allowance: str, day: date) -> str:
    """Another plan for the tenant from that day on."""
    plan = f"plan-{uuid4()}"
    await owner.execute(
        "INSERT INTO identity.plans (name, tier, requests_per_minute, max_outstanding, tenant_day_cap_usd,"
        " tenant_month_cap_usd, monthly_fee_usd, free_allowance_usd)"
        " VALUES ($1, 'free', 9, 9, 9, 9, $2::text::numeric, $3::text::numeric)",
        *(plan, fee, allowance),
    )
    await owner.execute(
        "INSERT INTO identity.tenant_plans (tenant_id, plan, day, set_by, reason) VALUES ($1, $2, $3, 'ada', 'test')",
        *(tenant, plan, day),
    )
    return plan


async def _lines(owner: Pool, tenant: UUID) -> list[tuple[int, int, Decimal]]:
    rows = await owner.fetch(
        "SELECT days, of_days, amount FROM billing.invoice_draft($1, $2) WHERE kind = 'fee' ORDER BY days",
        *(tenant, MONTH),
    )
    return [(row["days"], row["of_days"], row["amount"]) for row in rows]


async def test_a_tenant_that_begins_within_a_month_pays_for_its_days(stage: Stage, pool: Pool, owner: Pool) -> None:
    call = Call(stage.new_tenant(date(2026, 1, 22), monthly_fee_usd="49"), uuid4())
    assert await _lines(owner, call.tenant_id) == [(10, 31, Decimal("15.8064516129"))]  # as a draft
    closed = await _close(pool, call)
    assert (closed.fee, closed.owed) == (Decimal("15.8064516129"), Decimal("15.8064516129"))
    assert await _lines(owner, call.tenant_id) == [(10, 31, Decimal("15.8064516129"))]  # as it was kept
    assert (await _close(pool, call, date(2025, 12, 1))).owed == 0


async def test_each_plan_takes_and_gives_for_its_days(stage: Stage, pool: Pool, owner: Pool) -> None:
    tenant = stage.new_tenant(date(2025, 12, 9), monthly_fee_usd="31", free_allowance_usd="0.0031")
    call = Call(tenant, uuid4())
    await _planned(owner, tenant, "62", "0", date(2026, 1, 11))
    await spend_in(pool, owner, call, MONTH)
    closed = await _close(pool, call)
    assert (closed.fee, closed.allowance) == (Decimal(10 + 21 * 2), Decimal("0.001"))
    assert await _lines(owner, tenant) == [(10, 31, Decimal(10)), (21, 31, Decimal(42))]
    later = await _planned(owner, tenant, "99", "99", date(2026, 1, 20))  # what is closed stays
    again = await _close(pool, call)
    assert (again.owed, again.changed, again.terms.plan != later) == (closed.owed, Decimal(0), True)


async def test_a_day_is_its_last_plans_and_plans_that_come_again_are_one_line(
    stage: Stage, pool: Pool, owner: Pool
) -> None:
    tenant = stage.new_tenant(MONTH, monthly_fee_usd="31")
    first = await owner.fetchval("SELECT plan FROM identity.tenants WHERE tenant_id = $1", tenant)
    await _planned(owner, tenant, "3100", "0", date(2026, 1, 5))  # for no day
    await _planned(owner, tenant, "62", "0", date(2026, 1, 5))
    await owner.execute(
        "INSERT INTO identity.tenant_plans (tenant_id, plan, day, set_by, reason) VALUES ($1, $2, $3, 'ada', 'back')",
        *(tenant, first, date(2026, 1, 8)),
    )
    assert await _lines(owner, tenant) == [(3, 31, Decimal(6)), (28, 31, Decimal(28))]
    closed = await _close(pool, Call(tenant, uuid4()))
    assert (closed.fee, closed.terms.plan) == (Decimal(34), first)


async def test_a_change_of_plan_counts_from_the_tenants_own_day_on_and_is_kept(stage: Stage, owner: Pool) -> None:
    tenant = stage.new_tenant()
    await owner.execute("SELECT billing.put_time_zone($1, 'Pacific/Kiritimati', 'ada', 'moved')", tenant)
    plan = await _planned(owner, tenant, "1", "0", date(2999, 1, 1))
    assert await owner.fetchval("SELECT identity.put_plan($1, $2, 'ada', 'grown')", tenant, plan)
    row = await owner.fetchrow(
        "SELECT plan, day, set_by, reason FROM identity.tenant_plans WHERE tenant_id = $1 ORDER BY id DESC LIMIT 1",
        tenant,
    )
    assert row is not None
    assert dict(row) == {
        "plan": plan,
        "day": await owner.fetchval("SELECT billing.day_at($1, now())", tenant),
        "set_by": "ada",
        "reason": "grown",
    }
    for statement in ("UPDATE identity.tenant_plans SET reason = ''", "DELETE FROM identity.tenant_plans"):
        with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
            await owner.execute(statement)


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
