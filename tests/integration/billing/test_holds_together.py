"""A batch takes its holds together where they fit, and one by one where they do not: the verdicts are the same."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest

from agent_worker.leave import CallRequest, Leave
from agent_worker.repository import RunRepository, SavedStep
from common import postgres
from common.postgres import Pool
from tests.integration.billing.calls import MODEL, PROVIDER, Call, balances
from tests.stage import Stage

HOLD = Decimal("0.007")
_BEGUN = """
INSERT INTO runtime.runs (task_id, tenant_id, tier, status, fence, attempts, worker, lease_until)
VALUES ($1, $2, 'free', 'running', 1, 1, 'test', now() + interval '1 day')
"""


@pytest.fixture
async def repository(stage: Stage) -> AsyncIterator[RunRepository]:
    async with postgres.pool(stage.postgres("laneway_worker"), "test-worker") as workers:
        yield RunRepository(workers, 30, timedelta(minutes=1))


async def _begun(owner: Pool, tenant: UUID, count: int) -> list[Call]:
    """The first calls of so many runs that are under way."""
    calls = [Call(tenant, uuid4(), user_id="anna") for _ in range(count)]
    await owner.executemany(_BEGUN, [(call.task_id, tenant) for call in calls])
    return calls


def _asked(call: Call) -> CallRequest:
    return CallRequest(
        call.attempt_id, call.step, call.number, call.user_id, PROVIDER, call.model, 1000, 1000, None,
        call.conversation_id,
    )  # fmt: skip


async def _leaves(
    repository: RunRepository, calls: Sequence[Call], *, fence: int = 1, saved: SavedStep | None = None
) -> list[Leave]:
    """What one batch answers."""
    asking = (repository.begin_call(call.tenant_id, call.task_id, fence, _asked(call), saved) for call in calls)
    return await asyncio.gather(*asking)


async def _assert_balances_are_the_holds(owner: Pool, tenant: UUID, count: int) -> None:
    held = await balances(owner, tenant)
    assert {scope: held[scope] for scope in ("tenant_day", "tenant_month", "user_day")} == dict.fromkeys(
        ("tenant_day", "tenant_month", "user_day"), (count * HOLD, Decimal(0))
    )
    runs = await owner.fetch(
        "SELECT h.attempt_id, h.amount, b.held FROM billing.holds h JOIN billing.balances b"
        " ON b.tenant_id = h.tenant_id AND b.scope = 'run' AND b.subject = h.task_id::text WHERE h.tenant_id = $1",
        tenant,
    )
    assert [(row["amount"], row["held"]) for row in runs] == [(HOLD, HOLD)] * count


async def test_where_all_fit_they_are_all_held_and_each_in_its_scopes(
    stage: Stage, owner: Pool, repository: RunRepository
) -> None:
    tenants = [stage.new_tenant(tenant_day_cap_usd="0.07") for _ in range(3)]  # fits 10
    calls = [call for tenant in tenants for call in await _begun(owner, tenant, 10)]
    leaves = await _leaves(repository, calls)
    assert {(leave.verdict, leave.amount, leave.scope) for leave in leaves} == {("held", HOLD, None)}
    for tenant in tenants:
        await _assert_balances_are_the_holds(owner, tenant, 10)


async def test_a_tenant_that_has_too_little_for_all_has_what_fits_and_is_in_nobodys_way(
    stage: Stage, owner: Pool, repository: RunRepository
) -> None:
    poor, rich = stage.new_tenant(tenant_day_cap_usd="0.04"), stage.new_tenant()  # fits 5
    calls = await _begun(owner, poor, 12) + await _begun(owner, rich, 12)
    leaves = dict(zip(calls, await _leaves(repository, calls), strict=True))
    verdicts = Counter((call.tenant_id == rich, leaves[call].verdict) for call in calls)
    assert verdicts == {(True, "held"): 12, (False, "held"): 5, (False, "wait"): 7}
    assert {leave.scope for leave in leaves.values() if leave.verdict == "wait"} == {"tenant_day"}
    await _assert_balances_are_the_holds(owner, poor, 5)
    await _assert_balances_are_the_holds(owner, rich, 12)


async def test_what_is_not_like_the_others_has_its_own_answer_and_the_others_theirs(
    stage: Stage, owner: Pool, repository: RunRepository
) -> None:
    tenant = stage.new_tenant()
    plain, again, unpriced, cancelled = await _begun(owner, tenant, 4)
    unpriced = replace(unpriced, model="nobody-knows")
    gone = Call(tenant, uuid4(), user_id="anna")
    assert [leave.verdict for leave in await _leaves(repository, [again])] == ["held"]
    await owner.execute("UPDATE runtime.runs SET cancel_requested_at = now() WHERE task_id = $1", cancelled.task_id)
    leaves = await _leaves(repository, [plain, again, unpriced, cancelled, gone, plain])
    assert [leave.verdict for leave in leaves] == ["held", "held", "unpriced", "cancelled", "fenced", "held"]
    await _assert_balances_are_the_holds(owner, tenant, 2)


async def test_steps_are_saved_and_calls_counted_though_there_is_no_room_for_the_hold(
    stage: Stage, owner: Pool, repository: RunRepository
) -> None:
    tenant = stage.new_tenant(tenant_day_cap_usd="0.01")  # fits one
    calls = [replace(call, number=3) for call in await _begun(owner, tenant, 4)]
    leaves = await _leaves(repository, calls, saved=SavedStep(1, 1, 7, {"text": "done"}))
    assert Counter(leave.verdict for leave in leaves) == {"held": 1, "wait": 3}
    rows = await owner.fetch(
        "SELECT r.calls, s.step, s.last_seq, s.state ->> 'text' AS text"
        " FROM runtime.runs r LEFT JOIN runtime.steps s USING (task_id) WHERE r.tenant_id = $1",
        tenant,
    )
    assert [tuple(row) for row in rows] == [(3, 1, 7, "done")] * 4


async def test_two_attempts_of_one_run_share_the_runs_cap(stage: Stage, owner: Pool, repository: RunRepository) -> None:
    tenant = stage.new_tenant(run_cap_usd="0.01")
    [first] = await _begun(owner, tenant, 1)
    leaves = await _leaves(repository, [first, first.next()])
    assert sorted(leave.verdict for leave in leaves) == ["held", "wait"]
    await _assert_balances_are_the_holds(owner, tenant, 1)


async def test_the_proof_finds_nothing_where_a_batch_goes_by_a_cap_that_was_just_changed(
    stage: Stage, owner: Pool, repository: RunRepository
) -> None:
    """A hold that is older than the change would be measured by the cap before it."""
    tenant = stage.new_tenant(tenant_day_cap_usd="0.03")
    calls = await _begun(owner, tenant, 12)
    assert {leave.verdict for leave in await _leaves(repository, calls[:4])} == {"held"}
    assert await owner.fetchval("SELECT billing.put_budget($1, 'tenant_day', '', 0.09, 'ada', 'a test')", tenant)
    assert {leave.verdict for leave in await _leaves(repository, calls[4:])} == {"held"}
    await _assert_balances_are_the_holds(owner, tenant, 12)
    month = (await owner.fetchval("SELECT billing.day_at($1, now())", tenant)).replace(day=1)
    assert await owner.fetch("SELECT * FROM billing.proof_differences($1, $2)", tenant, month) == []


async def test_a_hot_tenants_balances_are_written_once_for_a_whole_batch(
    stage: Stage, owner: Pool, repository: RunRepository
) -> None:
    tenant = stage.new_tenant()
    calls = await _begun(owner, tenant, 24)
    async with owner.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        held = await connection.fetchval(
            "SELECT billing.reserve_together($1, $2, $3, $4, $5, $5, $5, $6, $7, $8, $8, $9, $10, $8)",
            [call.attempt_id for call in calls], [tenant] * 24, ["anna"] * 24, [call.task_id for call in calls],
            [1] * 24, [PROVIDER] * 24, [MODEL] * 24, [1000] * 24, [None] * 24, [None] * 24,
        )  # fmt: skip
        written = await connection.fetchval(
            "SELECT n_tup_ins + n_tup_upd FROM pg_stat_xact_user_tables WHERE relid = 'billing.balances'::regclass"
        )
        used = await connection.fetch(
            "SELECT indexrelid::regclass::text AS name FROM pg_index"
            " WHERE indrelid = ANY ('{billing.holds,billing.balances,identity.tenants}'::regclass[])"
            " AND pg_stat_get_xact_numscans(indexrelid) > 0"
        )
        await transaction.rollback()
    assert held == [HOLD] * 24
    assert {row["name"] for row in used} == {"billing.holds_pkey", "billing.balances_pkey", "identity.tenants_pkey"}
    assert written == 24 + 3  # each run's own, and the tenant's day and month and the user's day
