"""A hold whose record never comes is doubted, then given up; a record that comes after costs its tenant nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY

from billing.settings import Sweep
from billing.sweeper import ONE_AT_A_TIME, sweep_once
from common.contracts.usage import Usage
from common.postgres import Pool
from tests.integration.billing.calls import Call, balances, ledger, settle
from tests.stage import Stage, eventually

SOON = Sweep(grace=0.000001, doubt=0.000001)
PATIENT = Sweep(grace=3600, doubt=3600)
HELD = Decimal("0.007")
COST = Decimal("0.0015")
NOTHING = Decimal(0)


POLICIES = ("own_record", "received", "platform_pays")


def counted(name: str, **labels: str) -> float:
    """What the process exports of a metric."""
    value = REGISTRY.get_sample_value(name, labels)
    assert value is not None
    return value


def row_of(rows: Sequence[Any], call: Call) -> Any:
    """The row about a call's task."""
    return next(row for row in rows if row["task_id"] == call.task_id)


async def _run(owner: Pool, call: Call, status: str, fence: int = 1) -> None:
    await owner.execute(
        """INSERT INTO runtime.runs (task_id, tenant_id, tier, status, fence, attempts)
        VALUES ($1, $2, 'free', $3, $4, 1)
        ON CONFLICT (task_id) DO UPDATE SET status = excluded.status, fence = excluded.fence""",
        *(call.task_id, call.tenant_id, status, fence),
    )


async def _state(owner: Pool, call: Call) -> str:
    state = await owner.fetchval("SELECT state FROM billing.holds WHERE attempt_id = $1", call.attempt_id)
    assert isinstance(state, str)
    return state


async def test_a_hold_of_a_live_run_is_left_alone(call: Call, pool: Pool, owner: Pool) -> None:
    await call.reserve(owner)
    await _run(owner, call, "running")
    await sweep_once(pool, 10, SOON, void=True)
    assert await _state(owner, call) == "open"


@pytest.mark.parametrize(("status", "fence"), [("completed", 1), ("failed", 1), ("cancelled", 1), ("running", 2)])
async def test_a_run_that_moved_on_leaves_its_hold_in_doubt(
    call: Call, pool: Pool, owner: Pool, status: str, fence: int
) -> None:
    await call.reserve(owner)
    await _run(owner, call, status, fence)
    await sweep_once(pool, 10, PATIENT, void=True)
    assert await _state(owner, call) == "open"
    await sweep_once(pool, 10, SOON.model_copy(update={"doubt": 3600.0}), void=True)
    assert await _state(owner, call) == "in_doubt"
    assert (await balances(owner, call.tenant_id))["run"] == (HELD, NOTHING)


async def test_a_record_that_comes_in_doubt_settles(call: Call, pool: Pool, owner: Pool) -> None:
    await call.reserve(owner)
    await _run(owner, call, "completed")
    await sweep_once(pool, 10, SOON, void=False)
    assert await _state(owner, call) == "in_doubt"
    await settle(pool, call.record())
    assert await _state(owner, call) == "settled"
    assert (await balances(owner, call.tenant_id))["run"] == (NOTHING, COST)


async def test_nothing_is_given_up_while_records_may_be_queued(call: Call, pool: Pool, owner: Pool) -> None:
    await call.reserve(owner)
    await _run(owner, call, "failed")
    for _ in range(3):
        await sweep_once(pool, 10, SOON, void=False)
    assert await _state(owner, call) == "in_doubt"


async def test_what_is_given_up_is_free_again_and_never_charged(call: Call, pool: Pool, owner: Pool) -> None:
    await call.reserve(owner)
    await _run(owner, call, "failed")
    for _ in range(2):
        await sweep_once(pool, 10, SOON, void=True)
    assert await _state(owner, call) == "voided"
    assert set((await balances(owner, call.tenant_id)).values()) == {(NOTHING, NOTHING)}
    await settle(pool, call.record())
    assert await _state(owner, call) == "voided"
    assert set((await balances(owner, call.tenant_id)).values()) == {(NOTHING, NOTHING)}
    assert await ledger(owner, call.attempt_id) == {"variance": COST, "payable:anthropic": -COST}


RECEIVED = {"agent": "default", "metadata": {"team": "red"}, "output_tokens": 100}


@pytest.mark.parametrize("status", ["running", "cancelled"])
async def test_what_was_received_of_a_call_whose_worker_died_is_billed_as_an_estimate(
    call: Call, pool: Pool, owner: Pool, status: str
) -> None:
    await call.reserve(owner, input_estimate=1000)
    await _run(owner, call, "running", fence=2)
    await owner.execute("SELECT runtime.note_received($1, 2, $2, $3)", call.task_id, call.attempt_id, RECEIVED)
    await _run(owner, call, status, fence=2)
    for _ in range(2):
        await sweep_once(pool, 10, SOON, void=True)
    assert await _state(owner, call) == "settled"
    assert (await balances(owner, call.tenant_id))["run"] == (NOTHING, COST)
    row = await owner.fetchrow("SELECT * FROM billing.usage WHERE attempt_id = $1", call.attempt_id)
    assert row is not None
    assert (row["estimated"], row["input_tokens"], row["output_tokens"]) == (True, 1000, 100)
    assert row["metadata"] == {"team": "red"}


async def test_a_doubt_says_how_it_was_resolved(stage: Stage, pool: Pool, owner: Pool) -> None:
    tenant = stage.new_tenant()
    own, cut, lost, open_ = (Call(tenant, uuid4()) for _ in range(4))
    before = {policy: counted("laneway_billing_doubts_resolved_total", policy=policy) for policy in POLICIES}
    doubted = counted("laneway_billing_doubts_total")
    for one in (own, cut, lost):
        await one.reserve(owner)
        await _run(owner, one, "failed", fence=2)
    await owner.execute("UPDATE runtime.runs SET status = 'running' WHERE task_id = $1", cut.task_id)
    await owner.execute("SELECT runtime.note_received($1, 2, $2, $3)", cut.task_id, cut.attempt_id, RECEIVED)
    await sweep_once(pool, 10, SOON, void=False)
    assert counted("laneway_billing_doubts_total") - doubted >= 3
    assert counted("laneway_billing_oldest_doubt_seconds") > 0
    await settle(pool, own.record())
    await sweep_once(pool, 10, SOON, void=True)
    await open_.reserve(owner)
    await _run(owner, open_, "failed")
    await sweep_once(pool, 10, SOON, void=False)
    rows = await owner.fetch("SELECT * FROM billing.doubts($1, NULL, NULL, NULL, 10)", tenant)
    assert {row["task_id"]: (row["policy"], row["charged"]) for row in rows} == {
        own.task_id: ("own_record", COST),
        cut.task_id: ("received", row_of(rows, cut)["charged"]),
        lost.task_id: ("platform_pays", None),
        open_.task_id: (None, None),
    }
    assert row_of(rows, cut)["charged"] > 0
    assert rows[0]["task_id"] == open_.task_id  # the newest first
    for policy in POLICIES:
        assert counted("laneway_billing_doubts_resolved_total", policy=policy) - before[policy] >= 1
    await sweep_once(pool, 10, SOON, void=True)


async def test_a_doubt_whose_remains_cannot_be_read_is_in_no_others_way(stage: Stage, pool: Pool, owner: Pool) -> None:
    tenant = stage.new_tenant()
    odd, cut = Call(tenant, uuid4()), Call(tenant, uuid4())
    for one, remains in ((odd, {"tokens": 100}), (cut, RECEIVED)):
        await one.reserve(owner)
        await _run(owner, one, "running", fence=2)
        await owner.execute("SELECT runtime.note_received($1, 2, $2, $3)", one.task_id, one.attempt_id, remains)
    for _ in range(2):
        await sweep_once(pool, 10, SOON, void=True)
    rows = await owner.fetch("SELECT * FROM billing.doubts($1, NULL, NULL, NULL, 10)", tenant)
    assert {row["task_id"]: row["policy"] for row in rows} == {odd.task_id: "platform_pays", cut.task_id: "received"}


async def test_what_is_settled_and_what_is_given_up_queue_for_their_tenants_in_everyones_order(
    stage: Stage, pool: Pool, owner: Pool
) -> None:
    """Else a sweep that has one tenant and waits for another one meets who has that and waits for the first."""
    key = "SELECT hashtext($1::uuid::text)"
    keys = {tenant: await owner.fetchval(key, tenant) for tenant in (stage.new_tenant() for _ in range(2))}
    low, high = sorted(keys, key=lambda tenant: keys[tenant])
    lost, cut = Call(low, uuid4()), Call(high, uuid4())
    for one in (lost, cut):
        await one.reserve(owner)
        await _run(owner, one, "running", fence=2)
    await owner.execute("SELECT runtime.note_received($1, 2, $2, $3)", cut.task_id, cut.attempt_id, RECEIVED)
    await sweep_once(pool, 10, SOON, void=False)
    async with owner.acquire() as other, other.transaction():
        queue = "SELECT billing.queue_for(ARRAY[$1::uuid])"
        await other.execute(queue, low)
        sweeping = asyncio.create_task(sweep_once(pool, 60, SOON, void=True))

        async def waits() -> bool:
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            return bool(await owner.fetchval(waiting))

        await eventually(waits, 30)
        await other.execute(queue, high)
    await sweeping
    assert [await _state(owner, one) for one in (lost, cut)] == ["voided", "settled"]


async def test_its_own_record_counts_where_it_comes_after_all(call: Call, pool: Pool, owner: Pool) -> None:
    await call.reserve(owner)
    await _run(owner, call, "running", fence=2)
    await owner.execute("SELECT runtime.note_received($1, 2, $2, $3)", call.task_id, call.attempt_id, RECEIVED)
    await sweep_once(pool, 10, SOON, void=False)
    await settle(pool, call.record(usage=Usage(input_tokens=10, output_tokens=20)))
    await sweep_once(pool, 10, SOON, void=True)
    row = await owner.fetchrow("SELECT * FROM billing.usage WHERE attempt_id = $1", call.attempt_id)
    assert row is not None
    assert (row["estimated"], row["output_tokens"]) == (False, 20)


async def test_only_who_has_the_run_says_what_was_received(call: Call, pool: Pool, owner: Pool) -> None:
    await call.reserve(owner)
    await _run(owner, call, "running", fence=3)
    for fence in (1, 2):
        await owner.execute(
            "SELECT runtime.note_received($1, $2, $3, $4)", call.task_id, fence, call.attempt_id, RECEIVED
        )
    assert await owner.fetchval("SELECT received FROM billing.holds WHERE attempt_id = $1", call.attempt_id) is None


async def test_one_sweeps_at_a_time(call: Call, pool: Pool, owner: Pool) -> None:
    await call.reserve(owner)
    await _run(owner, call, "failed")
    async with owner.acquire() as other, other.transaction():
        assert await other.fetchval(ONE_AT_A_TIME)
        await sweep_once(pool, 10, SOON, void=True)
    assert await _state(owner, call) == "open"
