"""Budgets: which cap is in force and from where, when it is renewed, warnings that come once, and who changed what."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import aio_pika
import asyncpg
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.budget_warnings import count_burning, tell
from common import postgres
from common.contracts import BudgetWarned
from common.contracts.usage import Usage
from common.messaging.publisher import publisher
from common.messaging.topology import BILLING, EVENTS
from common.postgres import Pool
from tests.integration.billing.calls import Call, balances, settle
from tests.stage import Stage, eventually

HOLD = Decimal("0.007")
USED = Usage(input_tokens=1500, output_tokens=300)
"""Costs 0.003 of that."""
ZONES = ("UTC", "Europe/Vienna", "Asia/Tokyo", "America/Santiago", "Pacific/Kiritimati", "Pacific/Pago_Pago",
         "America/Havana", "Africa/Cairo", "Australia/Lord_Howe", "Asia/Beirut", "America/St_Johns")  # fmt: skip


async def put(owner: Pool, tenant: UUID, scope: str, cap: str | None, subject: str = "") -> bool:
    """Set or remove an override."""
    amount = None if cap is None else Decimal(cap)
    made = await owner.fetchval(
        "SELECT billing.put_budget($1, $2, $3, $4::numeric, 'ada', 'a test')", tenant, scope, subject, amount
    )
    return bool(made)


async def refused(owner: Pool, call: Call) -> Any:
    """The whole answer to a hold of 0.007."""
    return await owner.fetchrow(
        "SELECT * FROM billing.reserve($1, $2, $3, $4, 1, $5, $6, 'anthropic', $7, 1000, 1000, NULL, $8)",
        *(call.attempt_id, call.tenant_id, call.user_id, call.task_id, call.step, call.number, call.model),
        call.conversation_id,
    )


async def warnings(owner: Pool, tenant: UUID) -> list[tuple[str, str, int]]:
    rows = await owner.fetch(
        "SELECT scope, subject, threshold FROM billing.budget_warnings WHERE tenant_id = $1 ORDER BY 1, 2, 3", tenant
    )
    return [(row["scope"], row["subject"], row["threshold"]) for row in rows]


@pytest.fixture
async def many(stage: Stage) -> Any:
    settings_ = stage.postgres("laneway_owner").model_copy(update={"pool_size": 16, "timeout": 30.0})
    async with postgres.pool(settings_, "test-many") as made:
        yield made


async def test_the_caps_of_a_plan_are_a_dollar_a_run_and_twenty_a_user_and_day(owner: Pool) -> None:
    name = f"plan-{uuid4()}"
    row = await owner.fetchrow(
        "INSERT INTO identity.plans (name, tier, requests_per_minute, max_outstanding, tenant_day_cap_usd,"
        " tenant_month_cap_usd) VALUES ($1, 'free', 1, 1, 100, 100)"
        " RETURNING run_cap_usd, user_day_cap_usd, conversation_cap_usd",
        name,
    )
    assert row is not None
    assert tuple(row) == (1, 20, None)


@pytest.mark.parametrize("scope", ["run", "conversation", "user_day", "tenant_day", "tenant_month"])
async def test_an_override_of_the_tenant_is_in_force_for_the_next_hold(owner: Pool, call: Call, scope: str) -> None:
    call = call.in_conversation(uuid4())
    assert await call.reserve(owner) == "held"
    assert await put(owner, call.tenant_id, scope, "0.01")
    answer = await refused(owner, call.next())
    assert (answer["verdict"], answer["scope"], answer["cap"]) == ("wait", scope, Decimal("0.01"))
    assert answer["missing"] == HOLD + HOLD - Decimal("0.01")
    assert await put(owner, call.tenant_id, scope, "0.014")
    assert await call.next().reserve(owner) == "held"


async def test_the_cap_of_one_user_goes_before_that_of_all_and_that_before_the_plans(owner: Pool, call: Call) -> None:
    async def cap(subject: str) -> str:
        query = "SELECT trim_scale(cap)::text || ' ' || source FROM billing.cap_of($1, 'user_day', $2)"
        return str(await owner.fetchval(query, call.tenant_id, subject))

    assert await cap("anna") == "1000 plan"
    assert await put(owner, call.tenant_id, "user_day", "5")
    assert await put(owner, call.tenant_id, "user_day", "7", "anna")
    assert [await cap("anna"), await cap("ben")] == ["7 user", "5 tenant"]
    assert await put(owner, call.tenant_id, "user_day", None, "anna")
    assert await cap("anna") == "5 tenant"
    assert not await put(owner, call.tenant_id, "user_day", None, "anna")


async def test_a_conversation_counts_before_it_has_a_cap(pool: Pool, owner: Pool, call: Call) -> None:
    call = call.in_conversation(uuid4())
    assert await call.reserve(owner) == "held"
    await settle(pool, call.record(usage=USED))
    assert await put(owner, call.tenant_id, "conversation", "0.009", str(call.conversation_id))
    other = Call(call.tenant_id, uuid4()).in_conversation(uuid4())
    assert await other.reserve(owner) == "held"
    answer = await refused(owner, call.next())
    assert (answer["verdict"], answer["scope"], answer["subject"]) == (
        "exceeded",
        "conversation",
        str(call.conversation_id),
    )
    assert (answer["missing"], answer["renews_at"]) == (Decimal("0.001"), None)


async def test_a_budget_below_what_is_spent_is_taken_and_nothing_runs(pool: Pool, owner: Pool, call: Call) -> None:
    assert await call.reserve(owner) == "held"
    await settle(pool, call.record(usage=USED))
    assert await put(owner, call.tenant_id, "tenant_month", "0.001")
    answer = await refused(owner, call.next())
    assert (answer["verdict"], answer["scope"]) == ("exceeded", "tenant_month")
    assert answer["missing"] == Decimal("0.003") + HOLD - Decimal("0.001")
    # The rows say what was held under which cap: none of that was ever exceeded.
    exceeded = await owner.fetchval(
        "SELECT count(*) FROM billing.balances WHERE tenant_id = $1 AND held + charged > cap", call.tenant_id
    )
    assert exceeded == 0
    assert ("tenant_month", "", 100) in await warnings(owner, call.tenant_id)


async def test_a_change_and_the_holds_under_way_come_one_after_the_other(many: Pool, call: Call) -> None:
    """Lowered while hundreds are taken: none that comes after goes by the old cap."""
    tenant = call.tenant_id
    calls = [Call(tenant, uuid4()) for _ in range(150)]
    taking = [asyncio.create_task(one.reserve(many)) for one in calls]
    assert await put(many, tenant, "tenant_day", "0.05")
    at = await many.fetchval("SELECT at FROM billing.budget_log WHERE tenant_id = $1", tenant)
    async with asyncio.timeout(60):
        await asyncio.gather(*taking)
    held = await many.fetch("SELECT opened_at, amount FROM billing.holds WHERE tenant_id = $1", tenant)
    before = sum((row["amount"] for row in held if row["opened_at"] < at), Decimal(0))
    after = sum((row["amount"] for row in held if row["opened_at"] >= at), Decimal(0))
    assert after == 0 or before + after <= Decimal("0.05")


async def test_changes_are_logged_and_the_log_is_for_ever(owner: Pool, call: Call) -> None:
    await put(owner, call.tenant_id, "user_day", "7", "anna")
    await put(owner, call.tenant_id, "user_day", "7.5", "anna")
    await put(owner, call.tenant_id, "user_day", None, "anna")
    rows = await owner.fetch(
        "SELECT action, scope, subject, old_value, new_value, set_by, reason FROM billing.budget_log"
        " WHERE tenant_id = $1 ORDER BY id",
        call.tenant_id,
    )
    assert [tuple(row)[3:5] for row in rows] == [("1000", "7"), ("7", "7.5"), ("7.5", "1000")]
    assert {(row["set_by"], row["reason"]) for row in rows} == {("ada", "a test")}
    for statement in ("UPDATE billing.budget_log SET reason = 'x'", "DELETE FROM billing.budget_log"):
        with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
            await owner.execute(statement)


async def test_each_warning_comes_once_though_many_settle_at_the_same_time(
    stage: Stage, pool: Pool, many: Pool
) -> None:
    tenant = stage.new_tenant(tenant_day_cap_usd="0.035")
    calls = [Call(tenant, uuid4(), user_id="anna") for _ in range(5)]
    for call in calls:
        assert await call.reserve(many) == "held"
    await asyncio.gather(
        *(settle(pool, call.record(usage=Usage(input_tokens=1000, output_tokens=1000))) for call in calls)
    )
    assert (await balances(many, tenant))["tenant_day"] == (Decimal(0), Decimal("0.03"))
    assert await warnings(many, tenant) == [("tenant_day", "", 50), ("tenant_day", "", 80)]
    verdicts = await asyncio.gather(*(Call(tenant, uuid4()).reserve(many) for _ in range(20)))
    assert set(verdicts) == {"exceeded"}
    assert await warnings(many, tenant) == [("tenant_day", "", each) for each in (50, 80, 100)]


async def test_a_call_that_the_whole_cap_is_too_small_for_is_no_use_of_the_budget(
    stage: Stage, pool: Pool, owner: Pool
) -> None:
    tenant = stage.new_tenant(run_cap_usd="0.006")
    assert await Call(tenant, uuid4()).reserve(owner) == "exceeded"
    assert await warnings(owner, tenant) == []


async def test_warnings_are_told_until_the_broker_has_them_and_then_no_more(
    stage: Stage, pool: Pool, owner: Pool
) -> None:
    tenant = stage.new_tenant(user_day_cap_usd="0.01")
    heard: list[BudgetWarned] = []
    address = stage.servers.rabbit_url.rstrip("/")
    async with (
        await aio_pika.connect(f"{address}/{stage.name}") as connection,
        publisher(stage.rabbit(BILLING), BILLING) as sender,
    ):
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(await channel.get_exchange(EVENTS), "budget.#")
        call = Call(tenant, uuid4(), user_id="anna")
        assert await call.reserve(owner) == "held"
        await settle(pool, call.record(usage=Usage(input_tokens=500, output_tokens=1000)))
        await asyncio.gather(*(tell(pool, 10, sender) for _ in range(3)))

        async def told() -> bool:
            message = await queue.get(fail=False, no_ack=True)
            if message is not None:
                heard.append(BudgetWarned.decode(message.body))
            return message is None and bool(heard)

        await eventually(told)
        assert await tell(pool, 10, sender) == 0
    mine = [warning for warning in heard if warning.tenant_id == tenant]
    assert [(warning.scope, warning.subject, warning.threshold) for warning in mine] == [("user_day", "anna", 50)]
    assert (mine[0].cap_usd, mine[0].charged_usd) == (Decimal("0.01"), Decimal("0.0055"))


async def test_a_warning_that_nobody_has_a_queue_for_is_told_all_the_same(
    stage: Stage, pool: Pool, owner: Pool
) -> None:
    tenant = stage.new_tenant(run_cap_usd="0.007")
    call = Call(tenant, uuid4())
    assert await call.reserve(owner) == "held"
    await settle(pool, call.record(usage=Usage(input_tokens=1000, output_tokens=1000)))
    async with publisher(stage.rabbit(BILLING), BILLING) as sender:
        assert await tell(pool, 10, sender) >= 2
        assert await tell(pool, 10, sender) == 0


async def test_a_tenant_that_would_use_up_its_month_is_named(stage: Stage, pool: Pool, owner: Pool) -> None:
    # Whatever day of the month it is: at this rate the rest lasts minutes.
    hot, cool = stage.new_tenant(tenant_month_cap_usd="0.0071"), stage.new_tenant()
    for tenant in (hot, cool):
        call = Call(tenant, uuid4())
        assert await call.reserve(owner) == "held"
        await settle(pool, call.record(usage=Usage(input_tokens=1000, output_tokens=1190)))
    rows = {row["tenant_id"]: row for row in await owner.fetch("SELECT * FROM billing.burning()")}
    assert hot in rows
    assert cool not in rows
    assert rows[hot]["used_up_at"] < rows[hot]["month_ends_at"]
    await count_burning(pool, 10)


# ---- periods


def _zoned(connection: psycopg.Connection, tenant: UUID, moment: datetime) -> tuple[date, datetime, datetime]:
    row = connection.execute(
        "SELECT d.day, p.begins_at, p.ends_at FROM (SELECT billing.day_at(%s, %s) AS day) d,"
        " LATERAL billing.period_of(%s, 'tenant_day', d.day) p",
        (tenant, moment, tenant),
    ).fetchone()
    assert row is not None
    return row[0], row[1], row[2]


MOMENTS = st.integers(0, 5 * 366 * 86_400).map(lambda s: datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=s))


@given(zone=st.sampled_from(ZONES), moment=MOMENTS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_moment_is_in_one_day_of_23_to_25_hours_as_the_zone_has_it(
    stage: Stage, zone: str, moment: datetime
) -> None:
    tenant = stage.new_tenant()
    with psycopg.connect(stage.admin_dsn) as connection:
        connection.execute("UPDATE identity.tenants SET time_zone = %s WHERE tenant_id = %s", (zone, tenant))
        day, begins, ends = _zoned(connection, tenant, moment)
        assert day == moment.astimezone(ZoneInfo(zone)).date()
        assert begins <= moment < ends
        assert timedelta(hours=23) <= ends - begins <= timedelta(hours=25)
        # The days are a partition of time: the next one begins where this one ends.
        after, its_begin, _ = _zoned(connection, tenant, ends)
        assert (after, its_begin) == (day + timedelta(days=1), ends)


@given(zones=st.lists(st.sampled_from(ZONES), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_however_often_the_zone_is_changed_no_day_comes_again_or_is_left_out_of_time(
    stage: Stage, zones: list[str]
) -> None:
    """Each change is in force at once; the day never goes back, and a period that goes on keeps its beginning."""
    tenant = stage.new_tenant()
    with psycopg.connect(stage.admin_dsn, autocommit=True) as connection:
        before = _zoned(connection, tenant, datetime.now(UTC))
        first = before[0]
        for zone in zones:
            connection.execute("SELECT billing.put_time_zone(%s, %s, 'ada', 'a test')", (tenant, zone))
            now = datetime.now(UTC)
            after = _zoned(connection, tenant, now)
            assert after[0] >= before[0]
            assert after[1] <= now < after[2]
            if after[0] == before[0]:
                assert after[1] == before[1]
            else:
                assert after[1] > before[1]
            before = after
        # However often it is changed: one day may begin early, and no more.
        assert before[0] - first <= timedelta(days=2)


async def test_what_is_held_before_a_change_of_zone_is_settled_where_it_was_held(
    pool: Pool, owner: Pool, call: Call
) -> None:
    assert await call.reserve(owner) == "held"
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        assert await owner.fetchval("SELECT billing.put_time_zone($1, $2, 'ada', 'a test')", call.tenant_id, zone)
        assert await call.next().reserve(owner) == "held"
        await settle(pool, call.next().record(usage=USED))
        call = call.next()
    await settle(pool, Call(call.tenant_id, call.task_id, user_id="anna").record(usage=USED))
    rows = await owner.fetch(
        "SELECT scope, sum(held) AS held, sum(charged) AS charged FROM billing.balances WHERE tenant_id = $1"
        " GROUP BY 1",
        call.tenant_id,
    )
    assert {(row["scope"], row["held"], row["charged"]) for row in rows} == {
        (scope, 0, Decimal("0.009")) for scope in ("run", "tenant_day", "tenant_month", "user_day")
    }


async def test_a_zone_that_is_none_is_refused(owner: Pool, call: Call) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError):
        await owner.execute("SELECT billing.put_time_zone($1, 'Mars/Base', 'ada', 'x')", call.tenant_id)


async def test_the_proof_knows_conversations_with_a_cap_and_without(pool: Pool, owner: Pool, call: Call) -> None:
    call = call.in_conversation(uuid4())
    assert await call.reserve(owner) == "held"
    await settle(pool, call.record(usage=USED))
    await put(owner, call.tenant_id, "conversation", "0.02", str(call.conversation_id))
    assert await call.next().reserve(owner) == "held"
    month = (await owner.fetchval("SELECT billing.day_at($1, now())", call.tenant_id)).replace(day=1)
    peak = await owner.fetchrow(
        "SELECT holds, held, charged, cap FROM billing.scope_peaks($1, $2) WHERE scope = 'conversation'",
        *(call.tenant_id, month),
    )
    assert peak is not None
    assert tuple(peak) == (2, HOLD, Decimal("0.003"), Decimal("0.02"))
    differences = await owner.fetch("SELECT * FROM billing.proof_differences($1, $2)", call.tenant_id, month)
    assert differences == []
