"""The database itself keeps the ledger: nobody changes it, and what does not add up cannot be posted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date
from decimal import Decimal
from uuid import UUID, uuid4

import asyncpg
import pytest

from billing import repository
from billing.ledger import Entry, Line, Source, reversal, usage_entry
from billing.pricing import Settlement
from common.postgres import Pool, transaction
from tests.integration.billing.calls import Call, ledger, settle
from tests.stage import Stage

COST = Decimal("0.0015")
CHARGE = Decimal("0.0018")
"""With a markup of 20 %."""
HELD = Decimal("0.0084")


@pytest.fixture
async def admin(stage: Stage) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """The database's administrator, to whom no right is denied."""
    connection = await asyncpg.connect(stage.admin_dsn)
    yield connection
    await connection.close()


@pytest.fixture
async def settled(call: Call, pool: Pool, owner: Pool) -> Entry:
    """A call's entry, as it was posted."""
    await call.reserve(owner)
    await settle(pool, call.record())
    row = await owner.fetchrow(
        "SELECT price_id, month FROM billing.ledger WHERE entry_id = $1 LIMIT 1", call.attempt_id
    )
    assert row is not None
    source = Source(call.attempt_id, call.attempt_id, row["price_id"])
    return usage_entry(source, call.tenant_id, row["month"], Settlement(COST, COST), "anthropic")


async def _post(pool: Pool, *entries: Entry) -> None:
    async with transaction(pool, 10) as connection:
        await repository.post(connection, entries)


@pytest.mark.parametrize("table", ["ledger", "usage", "holds", "prices"])
async def test_nobody_deletes_from_the_books(
    settled: Entry, pool: Pool, owner: Pool, admin: asyncpg.Connection[asyncpg.Record], table: str
) -> None:
    for statement in (f"DELETE FROM billing.{table}", f"TRUNCATE billing.{table} CASCADE"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await pool.execute(statement)
        for allowed in (owner, admin):
            with pytest.raises(asyncpg.RestrictViolationError):
                await allowed.execute(statement)


@pytest.mark.parametrize("role", ["laneway_gateway", "laneway_worker", "laneway_persister", "laneway_billing"])
async def test_no_service_changes_the_ledger(
    settled: Entry, admin: asyncpg.Connection[asyncpg.Record], role: str
) -> None:
    await admin.execute(f"SET ROLE {role}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await admin.execute("UPDATE billing.ledger SET amount = 0")


async def test_the_owner_changes_no_line_nor_does_a_session_that_skips_triggers(
    settled: Entry, owner: Pool, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
        await owner.execute("UPDATE billing.ledger SET amount = 0")
    await admin.execute("SET session_replication_role = replica")
    with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
        await admin.execute("UPDATE billing.ledger SET amount = 0")
    with pytest.raises(asyncpg.CheckViolationError, match="do not sum to zero"):
        await admin.execute(
            "INSERT INTO billing.ledger (entry_id, kind, account, tenant_id, month, amount)"
            " VALUES ($1, 'fee', 'receivable', $1, '2026-10-01', 1)",
            uuid4(),
        )


async def test_every_line_names_its_usage_its_hold_and_its_price(settled: Entry, call: Call, owner: Pool) -> None:
    rows = await owner.fetch(
        "SELECT l.*, u.attempt_id AS usage, h.attempt_id AS hold, h.price_id AS held_at FROM billing.ledger l"
        " LEFT JOIN billing.usage u ON u.attempt_id = l.attempt_id"
        " LEFT JOIN billing.holds h ON h.attempt_id = l.hold_id"
        " WHERE l.entry_id = $1",
        call.attempt_id,
    )
    assert len(rows) == 4
    for row in rows:
        assert row["usage"] == row["hold"] == row["entry_id"] == call.attempt_id
        assert row["price_id"] == row["held_at"]
        assert row["kind"] == "usage"


async def test_the_provider_is_owed_the_cost_and_the_tenant_owes_it_with_its_markup(
    stage: Stage, pool: Pool, owner: Pool
) -> None:
    call = Call(stage.new_tenant(markup_percent="20"), uuid4())
    await call.reserve(owner)
    assert await owner.fetchval("SELECT amount FROM billing.holds WHERE attempt_id = $1", call.attempt_id) == HELD
    await settle(pool, call.record())
    assert await ledger(owner, call.attempt_id) == {
        "receivable": CHARGE,
        "revenue": -CHARGE,
        "cost": COST,
        "payable:anthropic": -COST,
    }
    filed = await owner.fetchrow("SELECT cost, charge, variance FROM billing.usage WHERE task_id = $1", call.task_id)
    assert filed is not None
    assert tuple(filed.values()) == (COST, CHARGE, 0)


async def test_a_plan_that_changes_during_a_call_changes_nothing_of_it(stage: Stage, pool: Pool, owner: Pool) -> None:
    call = Call(stage.new_tenant(markup_percent="20"), uuid4())
    await call.reserve(owner)
    await owner.execute(
        "UPDATE identity.plans p SET markup_percent = 100 FROM identity.tenants t"
        " WHERE t.plan = p.name AND t.tenant_id = $1",
        call.tenant_id,
    )
    await settle(pool, call.record())
    assert (await ledger(owner, call.attempt_id))["receivable"] == CHARGE


def _unbalanced(entry: Entry) -> Entry:
    return replace(entry, lines=entry.lines[:1])


def _of_another_tenant(entry: Entry) -> Entry:
    return replace(entry, tenant_id=uuid4())


def _of_no_usage(entry: Entry) -> Entry:
    assert entry.source is not None
    unknown = uuid4()
    return replace(entry, source=replace(entry.source, attempt_id=unknown, hold_id=unknown))


def _charged_without_a_hold(entry: Entry) -> Entry:
    assert entry.source is not None
    return replace(entry, source=replace(entry.source, hold_id=None))


def _above_the_hold(entry: Entry) -> Entry:
    return replace(
        entry, lines=(Line("receivable", Decimal("0.0070000001")), Line("revenue", Decimal("-0.0070000001")))
    )


def _at_no_price_of_the_book(entry: Entry) -> Entry:
    assert entry.source is not None
    return replace(entry, source=replace(entry.source, price_id=2**62))


def _without_a_price(entry: Entry) -> Entry:
    return replace(entry, source=None)


@pytest.mark.parametrize(
    "spoil",
    [
        _unbalanced,
        _of_another_tenant,
        _of_no_usage,
        _charged_without_a_hold,
        _above_the_hold,
        _without_a_price,
        _at_no_price_of_the_book,
    ],
)
async def test_an_entry_that_does_not_hold_is_refused(settled: Entry, pool: Pool, spoil: object) -> None:
    assert callable(spoil)
    entry = spoil(replace(settled, entry_id=uuid4(), kind="correction"))
    with pytest.raises((asyncpg.CheckViolationError, asyncpg.ForeignKeyViolationError)):
        await _post(pool, entry)


async def test_an_entry_is_reversed_whole_and_once(settled: Entry, call: Call, pool: Pool, owner: Pool) -> None:
    back = reversal(settled)
    half = replace(back, lines=tuple(line for line in back.lines if line.account in ("receivable", "revenue")))
    other = replace(back, lines=tuple(Line(line.account, 2 * line.amount) for line in back.lines))
    later = replace(back, month=date(2030, 1, 1))
    for spoiled in (half, other, later, replace(back, reverses=uuid4())):
        with pytest.raises(asyncpg.CheckViolationError, match="not the reversal"):
            await _post(pool, spoiled)
    await _post(pool, back)
    for again in (back, replace(back, entry_id=uuid4())):
        with pytest.raises(asyncpg.UniqueViolationError):
            await _post(pool, again)
    assert (
        await owner.fetchval(
            "SELECT sum(amount) FROM billing.ledger WHERE account = 'receivable' AND attempt_id = $1", call.attempt_id
        )
        == 0
    )


async def test_a_tenant_sees_its_own_entries_alone(settled: Entry, stage: Stage, call: Call) -> None:
    gateway = await asyncpg.connect(stage.login("gateway"))
    try:
        async with gateway.transaction():
            assert await gateway.fetchval("SELECT count(*) FROM billing.ledger") == 0
            for tenant, lines in ((call.tenant_id, 4), (UUID(int=0), 0)):
                await gateway.execute("SELECT set_config('app.tenant_id', $1, true)", str(tenant))
                assert await gateway.fetchval("SELECT count(*) FROM billing.ledger") == lines
    finally:
        await gateway.close()
