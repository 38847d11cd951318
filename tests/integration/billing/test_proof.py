"""The proof finds nothing in books that were kept, and finds every kind of thing that could be wrong with them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import asyncpg
import pytest

from billing.rerating import rerate
from common.contracts.usage import Usage
from common.postgres import Pool
from tests.integration.billing.calls import Call, settle, spend_in
from tests.integration.billing.conftest import Command
from tests.integration.billing.test_settlement import LISTED
from tests.stage import Stage

DIFFERENCES = "SELECT what, subject, expected, found FROM billing.proof_differences($1, $2)"
PEAKS = "SELECT scope, holds, held, charged, peak, cap FROM billing.scope_peaks($1, $2)"
LONG_AGO = date(2026, 1, 1)
HELD = Decimal("0.00625")
"""What 1,000 tokens in and 1,000 out hold: input at the dearest class that can apply."""


def _month() -> date:
    return datetime.now(UTC).date().replace(day=1)


@pytest.fixture
async def books(stage: Stage) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """The database, as one who may do everything; what is done is undone."""
    connection = await asyncpg.connect(stage.admin_dsn)
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


async def _found(pool: Pool, call: Call, month: date | None = None) -> list[tuple[str, str]]:
    rows = await pool.fetch(DIFFERENCES, call.tenant_id, month or _month())
    return [(row["what"], row["subject"]) for row in rows]


async def _busy(stage: Stage, pool: Pool, owner: Pool) -> Call:
    """A tenant with a call of every kind: settled, cut, above its hold, unanswered, unheld, voided and still open."""
    first = Call(stage.new_tenant(markup_percent="10", tenant_day_cap_usd="0.05"), uuid4(), user_id="anna")
    calls = [replace(first, number=number) for number in range(1, 8)]
    for call in calls[:4] + calls[5:]:
        assert await call.reserve(owner) == "held"
    await settle(
        pool,
        calls[0].record(),
        calls[1].record(estimated=True),
        calls[2].record(usage=Usage(input_tokens=1000, output_tokens=9000)),
        calls[3].record(estimated=True, unanswered=True),
        calls[4].record(),
        calls[0].record(),
    )
    await settle(pool, calls[0].record(), calls[2].record())
    await owner.execute(
        "UPDATE billing.holds SET state = 'in_doubt', doubted_at = now() - interval '1 hour' WHERE attempt_id = $1",
        calls[5].attempt_id,
    )
    return first


async def test_books_that_were_kept_agree(stage: Stage, pool: Pool, owner: Pool) -> None:
    call = await _busy(stage, pool, owner)
    assert await _found(pool, call) == []
    sums = await pool.fetchrow("SELECT * FROM billing.proof_sums($1, $2)", call.tenant_id, _month())
    assert sums is not None
    assert (sums["open"], sums["in_doubt"], sums["settled"], sums["voided"]) == (1, 1, 4, 0)
    assert (sums["calls"], sums["estimated"], sums["unpriced"]) == (5, 2, 0)
    assert sums["charge_usd"] == sums["posted_charge_usd"] > 0
    assert sums["cost_usd"] == sums["posted_cost_usd"]
    assert sums["variance_usd"] == sums["posted_variance_usd"] > 0
    peaks = {row["scope"]: row for row in await pool.fetch(PEAKS, call.tenant_id, _month())}
    assert set(peaks) == {"run", "tenant_day", "tenant_month", "user_day"}
    for row in peaks.values():
        assert row["holds"] == 6
        assert row["charged"] == sums["posted_charge_usd"]
        assert row["held"] == sums["open_usd"] < row["peak"] <= row["cap"]


async def test_caps_are_those_of_the_moment(stage: Stage, pool: Pool, owner: Pool) -> None:
    first = Call(stage.new_tenant(tenant_day_cap_usd="0.02"), uuid4())
    assert await first.reserve(owner) == "held"
    await settle(pool, first.record())
    for cap, step in (("0.5", 2), ("0.1", 3)):
        await owner.execute(
            "UPDATE identity.plans SET tenant_day_cap_usd = $2::numeric"
            " WHERE name = (SELECT plan FROM identity.tenants WHERE tenant_id = $1)",
            *(first.tenant_id, Decimal(cap)),
        )
        assert await replace(first, step=step).reserve(owner, max_output=10_000 if step == 2 else 10) == "held"
        await settle(pool, replace(first, step=step).record())
    assert await _found(pool, first) == []
    caps = await owner.fetch(
        "SELECT cap FROM billing.earlier_caps WHERE tenant_id = $1 AND scope = 'tenant_day' ORDER BY until",
        first.tenant_id,
    )
    assert [row["cap"] for row in caps] == [Decimal("0.02"), Decimal("0.5")]


async def test_a_corrected_and_credited_month_agrees(stage: Stage, pool: Pool, owner: Pool, command: Command) -> None:
    model, epoch = f"m-{uuid4()}", datetime(1970, 1, 1, tzinfo=UTC)
    await owner.execute(LISTED, model, epoch, None, Decimal(3))
    tenant = stage.new_tenant(LONG_AGO, free_allowance_usd="0.001", monthly_fee_usd="49")
    call = Call(tenant, uuid4(), user_id="anna", model=model)
    await spend_in(pool, owner, call, LONG_AGO)
    assert await _found(pool, call, LONG_AGO) == []
    assert (await command("invoices", "issue", "2026-01", "--tenant", f"{tenant}", "--by", "ada"))[0] == 0
    assert await _found(pool, call, LONG_AGO) == []
    await owner.execute("UPDATE billing.prices SET superseded_at = clock_timestamp() WHERE model = $1", model)
    await owner.execute(LISTED, model, epoch, None, Decimal(1))
    at = datetime.now(UTC)
    await rerate(pool, 20, at - timedelta(hours=1), at + timedelta(hours=1), post=True)
    pending = {what for what, _ in await _found(pool, call, LONG_AGO)}
    assert "invoices of what is posted: issue the credit note" in pending
    assert (await command("invoices", "issue", "2026-01", "--tenant", f"{call.tenant_id}", "--by", "ada"))[0] == 0
    assert await _found(pool, call, LONG_AGO) == []


TAMPERED = {
    "a cap that was lower": (
        "UPDATE billing.balances SET cap = 0.001 WHERE scope = 'tenant_day'; DELETE FROM billing.earlier_caps",
        "held and charged above the cap",
    ),
    "a hold that leaked": (
        "UPDATE billing.balances SET held = held + 1 WHERE scope = 'user_day'",
        "balance of open holds",
    ),
    "spend that was lost": (
        "UPDATE billing.balances SET charged = 0 WHERE scope = 'tenant_month'",
        "balance of charges",
    ),
    "a hold that was forgotten": (
        "UPDATE billing.holds SET state = 'open', charged = NULL WHERE state = 'settled'",
        "hold settled without usage, or not settled with it",
    ),
    "a record that was lost": ("DELETE FROM billing.usage", "hold settled without usage, or not settled with it"),
    "usage that was changed": ("UPDATE billing.usage SET cost = 7, variance = 7 - charge", "cost of a call"),
    "a posting that is gone": ("DELETE FROM billing.ledger WHERE account = 'receivable'", "charge of a call"),
    "half an entry": ("DELETE FROM billing.ledger WHERE account = 'revenue'", "entry that does not sum to zero"),
    "a call posted twice": (
        "INSERT INTO billing.ledger (entry_id, kind, account, tenant_id, month, amount, attempt_id, hold_id, price_id)"
        " SELECT gen_random_uuid(), 'correction', account, tenant_id, month, amount, attempt_id, hold_id, price_id"
        " FROM billing.ledger WHERE attempt_id IS NOT NULL",
        "charge of a call",
    ),
    "a charge above its hold": (
        "UPDATE billing.holds SET amount = charged / 2, charged = charged / 2 WHERE charged > 0",
        "charge above its hold",
    ),
    "variance that is hidden": ("DELETE FROM billing.ledger WHERE account = 'variance'", "variance of a call"),
    "a price that is missing": (
        "UPDATE billing.usage SET price_id = NULL, cost = NULL, charge = NULL, variance = NULL",
        "usage without a price",
    ),
}


@pytest.mark.parametrize("fault", TAMPERED)
async def test_what_is_wrong_is_listed(
    stage: Stage, pool: Pool, owner: Pool, books: asyncpg.Connection[asyncpg.Record], fault: str
) -> None:
    call = await _busy(stage, pool, owner)
    statements, expected = TAMPERED[fault]
    for relation in ("usage", "holds", "ledger", "balances"):
        await books.execute(f"ALTER TABLE billing.{relation} DISABLE TRIGGER USER")
        await books.execute(f"ALTER TABLE billing.{relation} NO FORCE ROW LEVEL SECURITY")
    for statement in statements.split(";"):
        await books.execute(statement)
    rows = await books.fetch(DIFFERENCES, call.tenant_id, _month())
    assert expected in {row["what"] for row in rows}


async def test_the_moments_are_right_while_many_hold_and_settle_at_once(stage: Stage, pool: Pool, owner: Pool) -> None:
    first = Call(stage.new_tenant(tenant_day_cap_usd=str(HELD * 3)), uuid4(), user_id="anna")

    async def spend(number: int) -> None:
        call = Call(first.tenant_id, uuid4(), number=number, user_id=f"user-{number % 2}")
        for _ in range(50):
            if await call.reserve(owner) == "held":
                await settle(pool, call.record(usage=Usage(input_tokens=10, output_tokens=number)))
                return
            await asyncio.sleep(0.01)

    await asyncio.gather(*(spend(number) for number in range(40)))
    assert await _found(pool, first) == []
    [day] = [row for row in await pool.fetch(PEAKS, first.tenant_id, _month()) if row["scope"] == "tenant_day"]
    assert day["held"] == 0 < day["charged"] <= day["peak"] <= day["cap"] == HELD * 3
