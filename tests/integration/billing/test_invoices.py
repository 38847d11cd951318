"""An invoice is what was posted, once; what is corrected after it is a credit note; and both never change."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import UUID, uuid4

import asyncpg
import pytest

from billing.rerating import rerate
from common.contracts.base import now
from common.postgres import Pool
from tests.integration.billing.calls import Call, spend_in
from tests.integration.billing.conftest import Command
from tests.integration.billing.test_settlement import LISTED
from tests.stage import Stage

MONTH = date(2026, 1, 1)
COST = Decimal("0.0015")
FEE = Decimal(49)


@pytest.fixture
def call(stage: Stage) -> Call:
    """Of a tenant whose plan takes and gives."""
    tenant = stage.new_tenant(MONTH, free_allowance_usd="0.002", monthly_fee_usd=f"{FEE}")
    return Call(tenant, uuid4(), user_id="anna")


async def _issue(command: Command, call: Call) -> tuple[int, str]:
    return await command("invoices", "issue", f"{MONTH:%Y-%m}", "--tenant", str(call.tenant_id), "--by", "ada")


async def _lines(owner: Pool, tenant: UUID) -> list[tuple[int, str, str | None, int, Decimal]]:
    rows = await owner.fetch(
        "SELECT i.number, l.kind, l.user_id, l.calls, l.amount FROM billing.invoices i"
        " JOIN billing.invoice_lines l USING (invoice_id) WHERE i.tenant_id = $1 ORDER BY i.number, l.line",
        tenant,
    )
    return [(row["number"], row["kind"], row["user_id"], row["calls"], row["amount"]) for row in rows]


async def _assert_the_documents_are_the_postings(owner: Pool, tenant: UUID) -> None:
    """By kind and user, to the last digit."""
    difference = await owner.fetch(
        """
        SELECT kind, user_id FROM (
          SELECT CASE WHEN l.attempt_id IS NULL THEN l.kind ELSE 'usage' END AS kind, u.user_id, l.amount
          FROM billing.ledger l LEFT JOIN billing.usage u USING (attempt_id)
          WHERE l.tenant_id = $1 AND l.month = $2 AND l.account = 'receivable'
          UNION ALL
          SELECT l.kind, l.user_id, -l.amount FROM billing.invoice_lines l JOIN billing.invoices i USING (invoice_id)
          WHERE i.tenant_id = $1 AND i.month = $2
        ) AS both_sides GROUP BY 1, 2 HAVING sum(amount) <> 0
        """,
        *(tenant, MONTH),
    )
    assert difference == []
    sums = await owner.fetchrow(
        "SELECT (SELECT sum(total) FROM billing.invoices WHERE tenant_id = $1 AND month = $2) AS invoiced,"
        " (SELECT sum(amount) FROM billing.ledger WHERE tenant_id = $1 AND month = $2 AND account = 'receivable')"
        " AS owed",
        *(tenant, MONTH),
    )
    assert sums is not None
    assert sums["invoiced"] == sums["owed"]


async def test_an_invoice_has_a_line_for_each_user_and_model_and_what_the_plan_takes_and_gives(
    command: Command, call: Call, pool: Pool, owner: Pool
) -> None:
    for number, user in enumerate(("anna", "anna", "ben"), start=1):
        await spend_in(pool, owner, replace(call, number=number, user_id=user), MONTH)
    code, said = await _issue(command, call)
    assert code == 0
    assert said.splitlines()[1].split() == [str(call.tenant_id), "invoice", "49.0025000000"]
    assert await _lines(owner, call.tenant_id) == [
        (0, "usage", "anna", 2, 2 * COST),
        (0, "usage", "ben", 1, COST),
        (0, "fee", None, 0, FEE),
        (0, "allowance", None, 0, Decimal("-0.002")),
    ]
    await _assert_the_documents_are_the_postings(owner, call.tenant_id)


async def test_a_month_is_invoiced_once_however_often_and_by_however_many(
    command: Command, call: Call, pool: Pool, owner: Pool
) -> None:
    await spend_in(pool, owner, call, MONTH)
    codes = await asyncio.gather(*(_issue(command, call) for _ in range(4)))
    assert {code for code, _ in codes} == {0}
    assert await owner.fetchval("SELECT count(*) FROM billing.invoices WHERE tenant_id = $1", call.tenant_id) == 1
    await _assert_the_documents_are_the_postings(owner, call.tenant_id)


async def test_a_correction_is_a_credit_note_and_the_invoice_stays(
    command: Command, call: Call, pool: Pool, owner: Pool
) -> None:
    model, begin = f"m-{uuid4()}", datetime(1970, 1, 1, tzinfo=UTC)
    await owner.execute(LISTED, model, begin, None, Decimal(3))
    calls = [replace(call, model=model, number=number) for number in (1, 2)]
    for one in calls:
        await spend_in(pool, owner, one, MONTH)
    assert (await _issue(command, call))[0] == 0
    before = await _lines(owner, call.tenant_id)
    await owner.execute("UPDATE billing.prices SET superseded_at = clock_timestamp() WHERE model = $1", model)
    await owner.execute(LISTED, model, begin, None, Decimal(1))
    found = await rerate(pool, 20, now().replace(hour=0, minute=0), now(), post=True)
    assert found[call.tenant_id].charge == Decimal("-0.0044")
    for _ in range(2):
        code, said = await _issue(command, call)
        assert code == 0
    assert said.splitlines()[1:] == []
    # 0.0066 was charged and is 0.0022: still more than is free.
    assert await _lines(owner, call.tenant_id) == [*before, (1, "usage", "anna", 0, Decimal("-0.0044"))]
    await _assert_the_documents_are_the_postings(owner, call.tenant_id)


async def test_a_month_without_use_is_an_invoice_of_its_fee(command: Command, call: Call, owner: Pool) -> None:
    assert (await _issue(command, call))[0] == 0
    assert await _lines(owner, call.tenant_id) == [(0, "fee", None, 0, FEE)]


async def test_the_lines_say_which_plan_took_a_fee_for_which_part_of_the_month(
    command: Command, call: Call, pool: Pool, owner: Pool
) -> None:
    plan = await owner.fetchval("SELECT plan FROM identity.tenants WHERE tenant_id = $1", call.tenant_id)
    await owner.execute(
        "INSERT INTO identity.tenant_plans (tenant_id, plan, day, set_by, reason)"
        " VALUES ($1, 'free', '2026-01-15', 'ada', 'smaller'), ($1, $2, '2026-01-16', 'ada', 'larger again')",
        *(call.tenant_id, plan),
    )
    for _ in range(2):
        assert (await _issue(command, call))[0] == 0
    rows = await owner.fetch(
        "SELECT plan, days, of_days, amount FROM billing.invoice_lines WHERE tenant_id = $1", call.tenant_id
    )
    assert [tuple(row) for row in rows] == [(plan, 30, 31, Decimal("47.4193548387"))]
    await _assert_the_documents_are_the_postings(owner, call.tenant_id)


async def test_a_month_that_is_not_over_has_no_invoice(command: Command, call: Call, owner: Pool) -> None:
    month = f"{datetime.now(UTC):%Y-%m}"
    code, said = await command("invoices", "issue", month, "--tenant", str(call.tenant_id), "--by", "ada")
    assert code == 1
    assert f"{month} cannot be closed before" in said
    assert await owner.fetchval("SELECT count(*) FROM billing.invoices WHERE tenant_id = $1", call.tenant_id) == 0


@pytest.mark.parametrize("table", ["invoices", "invoice_lines"])
async def test_nobody_changes_what_was_issued(
    command: Command, call: Call, pool: Pool, owner: Pool, table: str
) -> None:
    await _issue(command, call)
    for statement in (f"UPDATE billing.{table} SET tenant_id = tenant_id", f"DELETE FROM billing.{table}"):
        with pytest.raises(asyncpg.RestrictViolationError, match="never changes"):
            await owner.execute(statement)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await pool.execute(statement)


async def test_lines_that_do_not_sum_to_their_total_are_refused(command: Command, call: Call, pool: Pool) -> None:
    await _issue(command, call)
    with pytest.raises(asyncpg.CheckViolationError, match="do not sum to its total"):
        await pool.execute(
            "INSERT INTO billing.invoice_lines"
            " SELECT invoice_id, 99, tenant_id, 'fee', NULL, NULL, NULL, NULL, 0, 0, 0, 1"
            " FROM billing.invoices WHERE tenant_id = $1",
            call.tenant_id,
        )
    with pytest.raises(asyncpg.CheckViolationError, match="do not sum to its total"):
        await pool.execute(
            "INSERT INTO billing.invoices (tenant_id, month, number, plan, total, issued_by)"
            " VALUES ($1, '2025-01-01', 0, 'pro', 5, 'ada')",
            call.tenant_id,
        )
