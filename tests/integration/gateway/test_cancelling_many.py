"""Cancelling a batch or all of a tenant's: durable before anything is done, true of each task, told once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from common import streams
from common.admission import outstanding_key
from common.contracts import CancelsRequested, RunFinished
from common.messaging.envelope import unseal
from common.messaging.topology import CONTROL
from common.redis import Client
from gateway.batch_records import Batch, Batches
from tests.integration.gateway.batching import follow, questions, read, recorded, recording, submit
from tests.integration.gateway.conftest import ADMIN_KEY, Running, Tap, Tenant, tapping
from tests.stage import Stage, eventually

_ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
_ACQUIRE = "SELECT runtime.acquire($1, $2, 'pro', 'w', interval '1 minute')"


async def _batch(gateway: Running, tenant: Tenant, count: int, **fields: Any) -> dict[str, Any]:
    """A batch that is recorded."""
    batch: dict[str, Any] = (await submit(gateway, tenant, questions(count, **fields))).json()
    await recorded(gateway, batch)
    return batch


async def _cancel(gateway: Running, tenant: Tenant, address: str, body: Any = None) -> dict[str, Any]:
    response = await gateway.client.post(address, headers=tenant.headers, json=body)
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


async def _statuses(gateway: Running, batch: dict[str, Any]) -> list[str]:
    rows = await gateway.database.fetch(
        "SELECT r.task_id, r.status, r.cancel_requested_at FROM runtime.runs r WHERE r.task_id = ANY ($1)",
        [UUID(task["id"]) for task in batch["tasks"]],
    )
    found = {
        str(row["task_id"]): (
            "cancelling" if row["cancel_requested_at"] and row["status"] == "running" else row["status"]
        )
        for row in rows
    }
    return [found.get(task["id"], "queued") for task in batch["tasks"]]


async def test_a_batch_in_all_states_is_cancelled_and_told_truly(gateway: Running, stage: Stage, state: Client) -> None:
    tenant = await gateway.tenant()
    async with recording(stage):
        batch = await _batch(gateway, tenant, 8, priority=3)
        other = await _batch(gateway, tenant, 2)
        ids = [UUID(task["id"]) for task in batch["tasks"]]
        for task in ids[:5]:
            await gateway.database.execute(_ACQUIRE, task, tenant.id)
        at = datetime.now(UTC)
        end = RunFinished(task_id=ids[0], tenant_id=tenant.id, tier="pro", fence=1, status="completed", finished_at=at)
        await gateway.database.execute("SELECT runtime.finish($1, 1, 'completed', $2, $3)", ids[0], end.encode(), at)
        await gateway.database.execute(
            "UPDATE runtime.runs SET status = 'parked', fence = 0 WHERE task_id = $1", ids[1]
        )
        async with tapping(stage, CONTROL) as bells:
            following = asyncio.create_task(follow(gateway, tenant, {**batch}, until=None))
            answer = await _cancel(gateway, tenant, batch["links"]["cancel"])
            (bell,) = await bells.messages(str(tenant.id))
        assert answer["id"] == batch["id"]
        counted = {name: answer[name] for name in ("cancelled", "cancelling", "already_ended", "pending")}
        assert counted == {"cancelled": 4, "cancelling": 3, "already_ended": 1, "pending": 0}
        assert await _statuses(gateway, batch) == ["completed", "cancelled", *["cancelling"] * 3, *["cancelled"] * 3]
        assert await _statuses(gateway, other) == ["queued"] * 2
        rung = unseal(bell)
        assert isinstance(rung, CancelsRequested)
        assert sorted(rung.task_ids) == sorted(ids[2:5]), "one bell for all that run"
        # Running ones keep their place until they have ended; the completed one's worker gives its own back.
        assert await state.zcard(outstanding_key(tenant.id, 3)) == 4
        stream = await gateway.client.get(f"/v1/tasks/{ids[7]}/events", headers=tenant.headers)
        assert "event: done" in stream.text
        again = await _cancel(gateway, tenant, batch["links"]["cancel"])
        assert (again["cancelled"], again["cancelling"], again["already_ended"]) == (0, 3, 5)
        for task in ids[2:5]:
            await gateway.database.execute(
                "SELECT runtime.finish($1, 1, 'cancelled', $2, $3)", task, end.encode(), datetime.now(UTC)
            )
        async with asyncio.timeout(20):
            events = await following
        assert len(events.of("result")) == 8
        assert events.of("done")[0]["counts"]["cancelled"] == 7


async def test_what_ends_while_the_rest_is_counted_is_counted_once(
    gateway: Running, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await gateway.tenant()
    counted = Batches.counts
    async with recording(stage):
        batch = await _batch(gateway, tenant, 3)
        running = UUID(batch["tasks"][0]["id"])
        await gateway.database.execute(_ACQUIRE, running, tenant.id)

        async def cut_by_then(batches: Batches, batch: Batch, **rest: Any) -> dict[str, int]:
            await gateway.database.execute("SELECT runtime.finish($1, 1, 'cancelled', '{}', now())", running)
            return await counted(batches, batch, **rest)

        monkeypatch.setattr(Batches, "counts", cut_by_then)
        answer = await _cancel(gateway, tenant, batch["links"]["cancel"])
    told = {name: answer[name] for name in ("cancelled", "cancelling", "already_ended", "pending")}
    assert told == {"cancelled": 2, "cancelling": 1, "already_ended": 0, "pending": 0}


async def test_a_cancel_covers_what_nobody_has_recorded_yet(gateway: Running, stage: Stage) -> None:
    tenant = await gateway.tenant()
    batch = (await submit(gateway, tenant, questions(5))).json()
    single = (await gateway.submit(tenant)).json()
    begun = UUID(batch["tasks"][2]["id"])
    await gateway.database.execute(_ACQUIRE, begun, tenant.id)
    answer = await _cancel(gateway, tenant, "/v1/tasks/cancel", {})
    assert (answer["cancelled"], answer["complete"]) == (0, True)
    assert datetime.fromisoformat(answer["as_of"]) >= datetime.fromisoformat(single["created_at"])
    later = (await submit(gateway, tenant, questions(2))).json()
    async with recording(stage):
        await recorded(gateway, later)
        await recorded(gateway, batch)

        async def cancelled() -> bool:
            return await _statuses(gateway, batch) == ["cancelled"] * 2 + ["cancelling"] + ["cancelled"] * 2

        await eventually(cancelled)
        assert await _statuses(gateway, {"tasks": [single]}) == ["cancelled"]
        assert await _statuses(gateway, later) == ["queued"] * 2, "accepted after it"


async def test_a_batch_that_is_not_recorded_is_pending_and_then_cancelled(
    gateway: Running, stage: Stage, state: Client
) -> None:
    tenant = await gateway.tenant()
    batch = (await submit(gateway, tenant, questions(3))).json()
    answer = await _cancel(gateway, tenant, batch["links"]["cancel"])
    assert (answer["cancelled"], answer["pending"]) == (0, 3)
    async with recording(stage):

        async def cancelled() -> bool:
            return bool((await read(gateway, tenant, batch))["counts"]["cancelled"] == 3)

        await eventually(cancelled)
        await _told(state, tenant, batch)


async def _told(state: Client, tenant: Tenant, batch: dict[str, Any]) -> None:
    """Whoever cancelled it: its streams have ended, and nothing of it counts any more."""

    async def told() -> bool:
        logs = [streams.key(tenant.id, UUID(task["id"])) for task in batch["tasks"]]
        ended = [bool(await state.xlen(log)) for log in logs]
        return all(ended) and await state.zcard(outstanding_key(tenant.id, 5)) == 0

    await eventually(told)


async def _acquire(gateway: Running, tenant: Tenant, task: str, message: bytes | None = None) -> tuple[str, str | None]:
    """As a worker asks, first without the message."""
    row = await gateway.database.fetchrow(
        "SELECT * FROM runtime.acquire($1, $2, 'pro', 'w', interval '1 minute', NULL, $3)",
        UUID(task),
        tenant.id,
        message,
    )
    assert row is not None
    return row["decision"], row["status"]


async def test_what_was_accepted_before_a_cancel_never_begins_though_nobody_has_recorded_it(
    gateway: Running, tap: Tap
) -> None:
    tenant, stranger = await gateway.tenant(), await gateway.tenant()
    before = (await submit(gateway, tenant, questions(2, metadata={"order": "4711"}))).json()
    single = (await gateway.submit(tenant)).json()
    others = (await gateway.submit(stranger)).json()
    assert (await _cancel(gateway, tenant, "/v1/tasks/cancel", {"metadata": {"order": "4711"}}))["cancelled"] == 0
    await _cancel(gateway, tenant, before["links"]["cancel"])
    after = (await submit(gateway, tenant, questions(1, metadata={"order": "4711"}))).json()

    async def decided(task: str) -> tuple[str, str | None]:
        assert await _acquire(gateway, tenant, task) == ("full", None), "only its message can tell"
        (message, *_) = await tap.messages(task)
        return await _acquire(gateway, tenant, task, message.body)

    assert await decided(before["tasks"][0]["id"]) == ("finished", "cancelled")
    assert await decided(before["tasks"][1]["id"]) == ("finished", "cancelled")
    assert await decided(single["id"]) == ("acquired", "running"), "of another order"
    assert await decided(after["tasks"][0]["id"]) == ("acquired", "running"), "accepted after it"
    assert await _acquire(gateway, stranger, others["id"]) == ("acquired", "running")
    # A day later there is nothing to ask any more: the record has long had all of it.
    await gateway.database.execute(
        "UPDATE runtime.cancellations SET as_of = as_of - interval '25 hours' WHERE tenant_id = $1", tenant.id
    )
    late = (await gateway.submit(tenant)).json()
    assert await _acquire(gateway, tenant, late["id"]) == ("acquired", "running")


async def test_what_a_cancel_has_not_reached_yet_never_begins(gateway: Running, stage: Stage) -> None:
    tenant = await gateway.tenant()
    async with recording(stage):
        batch = await _batch(gateway, tenant, 3)
    begin = "SELECT runtime.begin_cancellation($1, $2, now(), $3, NULL, NULL)"
    first, second, third = (task["id"] for task in batch["tasks"])
    await gateway.database.execute(begin, uuid4(), tenant.id, "parked")
    assert await _acquire(gateway, tenant, first) == ("acquired", "running"), "it was not parked"
    await gateway.database.execute(begin, uuid4(), tenant.id, "queued")
    assert await _acquire(gateway, tenant, second) == ("finished", "cancelled"), "its record tells"
    # One whose worker died had begun before: it is not what was queued.
    await gateway.database.execute(
        "UPDATE runtime.runs SET lease_until = now() - interval '1 second' WHERE task_id = $1", UUID(first)
    )
    assert await _acquire(gateway, tenant, first) == ("acquired", "running")
    await gateway.database.execute(begin, uuid4(), tenant.id, None)
    assert await _acquire(gateway, tenant, third) == ("finished", "cancelled")
    assert await _acquire(gateway, tenant, first) == ("leased", "running")
    assert (await _statuses(gateway, batch))[0] == "cancelling"


async def test_filters_are_kept_to(gateway: Running, stage: Stage) -> None:
    tenant, stranger = await gateway.tenant(), await gateway.tenant()
    async with recording(stage):
        red = await _batch(gateway, tenant, 3, metadata={"colour": "red", "order": "1"})
        blue = await _batch(gateway, tenant, 2, metadata={"colour": "blue"})
        others = await _batch(gateway, stranger, 2, metadata={"colour": "red"})
        await gateway.database.execute(_ACQUIRE, UUID(red["tasks"][0]["id"]), tenant.id)
        which = {"status": "queued", "metadata": {"colour": "red"}}
        answer = await _cancel(gateway, tenant, "/v1/tasks/cancel", which)
        assert (answer["cancelled"], answer["cancelling"]) == (2, 0)
        assert await _statuses(gateway, red) == ["running", "cancelled", "cancelled"]
        answer = await _cancel(gateway, tenant, "/v1/tasks/cancel", {"status": "running"})
        assert (answer["cancelled"], answer["cancelling"]) == (0, 1)
        answer = await _cancel(gateway, tenant, "/v1/tasks/cancel", {"batch_id": others["id"]})
        assert answer["cancelled"] == 0, "another tenant's batch has none of our tasks"
        assert await _statuses(gateway, blue) == ["queued"] * 2
        operators = await gateway.client.post(f"/v1/admin/tenants/{tenant.id}/cancel", json={}, headers=_ADMIN)
        assert (operators.status_code, operators.json()["cancelled"]) == (200, 2)
        assert await _statuses(gateway, others) == ["queued"] * 2


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (None, ""),
        ({"status": "completed"}, "status"),
        ({"metadata": {}}, "metadata"),
        ({"batch_id": "x"}, "batch_id"),
        ({"conversation_id": "c"}, "conversation_id"),
    ],
)
async def test_what_is_no_filter_cancels_nothing(gateway: Running, body: Any, field: str) -> None:
    tenant = await gateway.tenant()
    response = await gateway.client.post("/v1/tasks/cancel", json=body, headers=tenant.headers)
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, field)
    found = await gateway.database.fetchval(
        "SELECT count(*) FROM runtime.cancellations WHERE tenant_id = $1", tenant.id
    )
    assert found == 0


async def test_operators_need_their_key_and_a_tenant_that_exists(gateway: Running) -> None:
    tenant = await gateway.tenant()
    address = f"/v1/admin/tenants/{tenant.id}/cancel"
    assert (await gateway.client.post(address, json={}, headers=tenant.headers)).status_code == 401
    assert (
        await gateway.client.post(f"/v1/admin/tenants/{uuid4()}/cancel", json={}, headers=_ADMIN)
    ).status_code == 404
    assert (await gateway.client.post("/v1/tasks/cancel", json={})).status_code == 401


async def test_what_a_gateway_left_undone_the_persister_finishes(gateway: Running, stage: Stage, state: Client) -> None:
    tenant = await gateway.tenant()
    async with recording(stage):
        batch = await _batch(gateway, tenant, 7)
        cancellation = uuid4()
        async with gateway.database.transaction():
            begin = "SELECT runtime.begin_cancellation($1, $2, now(), NULL, NULL, NULL)"
            await gateway.database.execute(begin, cancellation, tenant.id)
            # As far as a gateway came that died then, some time ago.
            assert len(await gateway.database.fetch("SELECT * FROM runtime.sweep($1, 3)", cancellation)) == 3
            await gateway.database.execute(
                "UPDATE runtime.cancellations SET worked_at = now() - interval '1 minute' WHERE cancellation_id = $1",
                cancellation,
            )

        async def swept() -> bool:
            return await _statuses(gateway, batch) == ["cancelled"] * 7

        await eventually(swept)

        async def released() -> bool:
            return await state.zcard(outstanding_key(tenant.id, 5)) == 3

        await eventually(released)  # all but those whose gateway died before it could


async def test_who_takes_a_cancel_over_goes_on_with_it_at_once_and_others_leave_it_alone(gateway: Running) -> None:
    tenant, cancellation = await gateway.tenant(), uuid4()
    begin = "SELECT runtime.begin_cancellation($1, $2, now(), NULL, NULL, NULL)"
    await gateway.database.execute(begin, cancellation, tenant.id)
    next_one = "SELECT runtime.next_cancellation($1)"
    assert await gateway.database.fetchval(next_one, cancellation) == cancellation
    assert await gateway.database.fetchval(next_one, uuid4()) != cancellation
    await gateway.database.execute("SELECT runtime.sweep($1, 3)", cancellation)  # which finds nothing: it is through
    assert await gateway.database.fetchval(next_one, cancellation) != cancellation


async def test_many_are_cancelled_in_few_steps(gateway: Running, stage: Stage, state: Client) -> None:
    tenant = await gateway.tenant("enterprise")
    async with recording(stage):
        for _ in range(3):
            await _batch(gateway, tenant, 800)
        answer = await _cancel(gateway, tenant, "/v1/tasks/cancel", {})
        if not answer["complete"]:

            async def all_of_it() -> bool:
                found = await gateway.database.fetchval(
                    "SELECT count(*) FROM runtime.runs WHERE tenant_id = $1 AND status = 'cancelled'", tenant.id
                )
                return bool(found == 2400)

            await eventually(all_of_it, 30)
        else:
            assert answer["cancelled"] == 2400
            assert await state.zcard(outstanding_key(tenant.id, 5)) == 0


async def test_a_cancelled_task_that_is_published_late_is_still_cancelled(gateway: Running, stage: Stage) -> None:
    """The repetition of a batch carries the time at which it came first, which the cancel covers."""
    tenant, key = await gateway.tenant(), f"order-{uuid4()}"
    batch = (await submit(gateway, tenant, questions(2), key)).json()
    await _cancel(gateway, tenant, batch["links"]["cancel"])
    again = (await submit(gateway, tenant, questions(2), key)).json()
    assert again["created_at"] == batch["created_at"]
    async with recording(stage):

        async def cancelled() -> bool:
            return await _statuses(gateway, batch) == ["cancelled"] * 2

        await eventually(cancelled)
