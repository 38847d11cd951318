"""Ticks become tasks: on time, one for each, in the right tier, and not where their tenant may not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from common import redis
from common.admission import level_of, outstanding_key
from common.contracts import RunFinished, TaskSubmitted
from common.contracts.identifiers import scheduled_task_id
from common.errors import BrokerUnavailable
from common.messaging.envelope import unseal
from common.messaging.publisher import RabbitPublisher
from common.pipelining import Pipelined
from common.redis import Client
from gateway.scheduling import Scheduling
from persister import waker
from persister.scheduling import fire_due
from tests.integration.gateway.batching import full
from tests.integration.gateway.conftest import Running, Tap, Tenant
from tests.integration.schedules.clockwork import due, due_now, half_past, make, read, ticked, waking
from tests.stage import Stage, eventually, pipelined


async def submitted(tap: Tap, schedule: UUID, tick: datetime) -> TaskSubmitted:
    """The tick's task, as it was published."""
    (message, *_) = await tap.messages(str(scheduled_task_id(schedule, tick)))
    task = unseal(message)
    assert isinstance(task, TaskSubmitted)
    assert message.priority == task.level
    assert message.routing_key == task.tier
    return task


async def test_a_task_is_submitted_within_a_second_of_its_tick(
    gateway: Running, tap: Tap, stage: Stage, sender: RabbitPublisher, state: Client
) -> None:
    tenant = await gateway.tenant()
    task = {"input": "What is new?", "priority": 7, "metadata": {"order": "4711"}, "deadline_seconds": 60}
    schedule = await make(gateway, tenant, task=task)
    late = []
    async with waking(stage, sender, pipelined(state)):
        for number in range(1, 4):
            tick = await due(gateway, schedule, datetime.now(UTC) + timedelta(milliseconds=300))
            ticks = await ticked(gateway, tenant, schedule, number)
            sent = await submitted(tap, schedule, tick)
            late.append((sent.submitted_at - tick).total_seconds())
            assert (ticks[0]["outcome"], ticks[0]["task_id"]) == ("fired", str(sent.task_id))
            assert datetime.fromisoformat(ticks[0]["at"]) == tick
            # Who reads the tick finds its task, though no worker and no other persister is there.
            seen = (await gateway.client.get(f"/v1/tasks/{sent.task_id}", headers=tenant.headers)).json()
            assert (seen["status"], seen["tier"], seen["priority"]) == ("queued", "pro", 7)
            own = {"schedule_id": str(schedule), "scheduled_for": tick.isoformat()}
            assert seen["metadata"] == {"order": "4711"} | own
            assert sent.deadline_at == sent.submitted_at + timedelta(seconds=60)
    assert all(seconds >= 0 for seconds in late)
    assert sorted(late)[1] < 1.0, late
    after = await read(gateway, tenant, schedule)
    assert datetime.fromisoformat(after["next_at"]).strftime("%m-%d %H:%M") == "01-01 00:00"


async def test_a_tenants_scheduled_tasks_rank_with_its_others(
    gateway: Running, tap: Tap, stage: Stage, sender: RabbitPublisher, state: Client
) -> None:
    tenant = await gateway.tenant()
    for _ in range(3):
        await gateway.submit(tenant)
    schedule = await make(gateway, tenant)
    async with waking(stage, sender, pipelined(state)):
        tick = await due_now(gateway, schedule)
        sent = await submitted(tap, schedule, tick)
    assert sent.level == level_of(3)
    assert await state.zcard(outstanding_key(tenant.id, sent.priority)) == 4


async def test_without_redis_a_tick_is_fired_all_the_same(
    gateway: Running, tap: Tap, stage: Stage, sender: RabbitPublisher
) -> None:
    tenant = await gateway.tenant()
    schedule = await make(gateway, tenant)
    async with (
        redis.client("redis://127.0.0.1:1/0", timeout=0.2, connections=1) as nobody,
        waking(stage, sender, Pipelined(nobody, 0.2)),
    ):
        tick = await due_now(gateway, schedule)
        assert (await submitted(tap, schedule, tick)).level == 15
        await ticked(gateway, tenant, schedule)


async def test_a_change_and_a_delete_take_effect(
    gateway: Running, tap: Tap, stage: Stage, sender: RabbitPublisher, state: Client
) -> None:
    tenant = await gateway.tenant()
    changed, stopped, deleted, last = [await make(gateway, tenant) for _ in range(4)]
    tick = datetime.now(UTC) + timedelta(milliseconds=600)
    for schedule in (changed, stopped, deleted, last):
        await due(gateway, schedule, tick)
    client, headers = gateway.client, tenant.headers
    await client.patch(f"/v1/schedules/{changed}", json={"task": {"input": "Another."}}, headers=headers)
    await client.patch(f"/v1/schedules/{stopped}", json={"enabled": False}, headers=headers)
    await client.delete(f"/v1/schedules/{deleted}", headers=headers)
    async with waking(stage, sender, pipelined(state)):
        assert (await submitted(tap, changed, tick)).input[0].content == "Another."
        await ticked(gateway, tenant, changed)
        await ticked(gateway, tenant, last)
        again = await due(gateway, last, datetime.now(UTC) + timedelta(milliseconds=200))
        await submitted(tap, last, again)
    subjects = {message.correlation_id for message in tap.seen}
    assert not subjects & {str(scheduled_task_id(schedule, tick)) for schedule in (stopped, deleted)}
    assert (await read(gateway, tenant, stopped))["ticks"] == []


@pytest.mark.parametrize(("policy", "outcomes"), [("skip", ["missed"]), ("run_once", ["fired", "missed"])])
async def test_ticks_that_nobody_was_there_for(
    gateway: Running,
    tap: Tap,
    stage: Stage,
    sender: RabbitPublisher,
    state: Client,
    policy: str,
    outcomes: list[str],
) -> None:
    tenant = await gateway.tenant()
    cron, last = half_past(datetime.now(UTC))
    schedule = await make(gateway, tenant, cron, missed=policy)
    first = await due(gateway, schedule, last - timedelta(hours=5))
    async with waking(stage, sender, pipelined(state)):
        ticks = await ticked(gateway, tenant, schedule, len(outcomes))
        assert [tick["outcome"] for tick in ticks] == outcomes
        missed = ticks[-1]
        assert (datetime.fromisoformat(missed["at"]), missed["reason"], missed["task_id"]) == (first, "late", None)
        if policy == "run_once":
            assert datetime.fromisoformat(missed["until"]) == last - timedelta(hours=1)
            assert datetime.fromisoformat(ticks[0]["at"]) == last
            await submitted(tap, schedule, last)
        else:
            assert datetime.fromisoformat(missed["until"]) == last
        after = await read(gateway, tenant, schedule)
    assert datetime.fromisoformat(after["next_at"]) == last + timedelta(hours=1)
    all_of_it = {str(scheduled_task_id(schedule, last - timedelta(hours=n))) for n in range(6)}
    published = [message for message in tap.seen if message.correlation_id in all_of_it]
    assert len(published) == outcomes.count("fired")


async def test_a_tenant_that_may_not_submit_has_no_ticks(
    gateway: Running, tap: Tap, stage: Stage, sender: RabbitPublisher, state: Client
) -> None:
    disabled, keyless, full_up, fine = [
        await gateway.tenant(max_outstanding=1, requests_per_minute=100) for _ in range(4)
    ]
    schedules = {tenant.id: await make(gateway, tenant) for tenant in (disabled, keyless, full_up, fine)}
    assert (await gateway.submit(full_up)).status_code == 202
    tick = datetime.now(UTC)
    for schedule in schedules.values():
        await due(gateway, schedule, tick)
    await gateway.database.execute("UPDATE identity.tenants SET disabled_at = now() WHERE tenant_id = $1", disabled.id)
    await gateway.database.execute("UPDATE identity.api_keys SET revoked_at = now() WHERE tenant_id = $1", keyless.id)
    async with waking(stage, sender, pipelined(state)):
        await submitted(tap, schedules[fine.id], tick)

        async def settled() -> dict[UUID, tuple[str, str | None]]:
            rows = await gateway.database.fetch("SELECT schedule_id, outcome, reason FROM runtime.ticks")
            found = {row["schedule_id"]: (row["outcome"], row["reason"]) for row in rows}
            return found if len(found) >= 4 else {}

        found = await eventually(settled)
    assert {tenant: found[schedule] for tenant, schedule in schedules.items()} == {
        disabled.id: ("skipped", "tenant_disabled"),
        keyless.id: ("skipped", "no_valid_key"),
        full_up.id: ("skipped", "too_many_outstanding"),
        fine.id: ("fired", None),
    }


async def _user(gateway: Running, tenant: Tenant, tier: str) -> None:
    await gateway.database.execute(
        "INSERT INTO identity.users VALUES ($1, 'ada', $2) ON CONFLICT (tenant_id, user_id) DO UPDATE SET tier = $2",
        tenant.id,
        tier,
    )


async def test_the_tier_is_the_one_that_its_user_has_then(
    gateway: Running, tap: Tap, stage: Stage, sender: RabbitPublisher, state: Client
) -> None:
    tenant = await gateway.tenant()
    own = await make(gateway, tenant, task={"input": "x", "user_id": "ada"})
    asked = await make(gateway, tenant, task={"input": "x", "user_id": "ada", "tier": "pro"})
    below = await make(gateway, tenant, task={"input": "x", "user_id": "ada", "tier": "free"})
    async with waking(stage, sender, pipelined(state)):
        tick = datetime.now(UTC)
        for schedule in (own, asked, below):
            await due(gateway, schedule, tick)
        tiers = [(await submitted(tap, schedule, tick)).tier for schedule in (own, asked, below)]
        assert tiers == ["pro", "pro", "free"]
        for schedule in (own, asked, below):
            await ticked(gateway, tenant, schedule)
        await _user(gateway, tenant, "free")
        tick = datetime.now(UTC)
        for schedule in (own, asked, below):
            await due(gateway, schedule, tick)
        assert (await submitted(tap, own, tick)).tier == "free"
        assert (await submitted(tap, below, tick)).tier == "free"
        latest = (await ticked(gateway, tenant, asked, 2))[0]
    assert (latest["outcome"], latest["reason"]) == ("skipped", "tier_not_allowed")


async def _fill(gateway: Running, stage: Stage) -> None:
    """Until the lane takes no more."""
    crowd = await gateway.tenant("enterprise")

    async def refused() -> bool:
        return (await gateway.submit(crowd)).status_code == 503

    await eventually(refused)


async def test_a_full_lane_is_tried_again_until_it_has_room(
    gateway: Running, tap: Tap, stage: Stage, sender: RabbitPublisher, state: Client
) -> None:
    tenant = await gateway.tenant("enterprise")
    schedule = await make(gateway, tenant)

    async def waits() -> dict[str, Any]:
        document = await read(gateway, tenant, schedule)
        return document if document["waiting"] else {}

    async with waking(stage, sender, pipelined(state)):
        with full(stage, "enterprise", 1):
            await _fill(gateway, stage)
            tick = await due_now(gateway, schedule)
            document = await eventually(waits)
            assert (document["waiting"], document["ticks"]) == ("lane_full", [])
            assert datetime.fromisoformat(document["next_at"]) == tick
            assert await state.zcard(outstanding_key(tenant.id, 5)) == 0
        ticks = await ticked(gateway, tenant, schedule, deadline=30)
    assert (ticks[0]["outcome"], datetime.fromisoformat(ticks[0]["at"])) == ("fired", tick)
    assert (await read(gateway, tenant, schedule))["waiting"] is None


class Forgetful(RabbitPublisher):
    """Publishes, and does not hear of the confirm the first time."""

    forgotten = False

    async def publish(self, exchange: str, routing_key: str, contract: Any, **rest: Any) -> None:
        await super().publish(exchange, routing_key, contract, **rest)
        if not self.forgotten:
            self.forgotten = True
            raise BrokerUnavailable("the confirm was lost")


async def test_what_may_have_been_published_is_published_again_as_the_same_task(
    gateway: Running, tap: Tap, stage: Stage, sender: RabbitPublisher, state: Client
) -> None:
    tenant = await gateway.tenant()
    schedule = await make(gateway, tenant, task={"input": "What is new?", "deadline_seconds": 60})
    forgetful = Forgetful(sender._broker, sender._channel, sender._sender, 5.0)
    async with waking(stage, forgetful, pipelined(state)):
        tick = await due_now(gateway, schedule)
        (fired,) = await ticked(gateway, tenant, schedule, deadline=30)
    twice = await tap.messages(str(scheduled_task_id(schedule, tick)), 2)
    assert (len(twice), fired["outcome"], fired["task_id"]) == (2, "fired", twice[0].correlation_id)
    first, second = map(unseal, twice)
    assert first == second  # its deadline too: it counts from the first try
    assert await state.zcard(outstanding_key(tenant.id, 5)) == 1


async def test_what_found_no_room_by_its_deadline_is_skipped_and_ends(
    gateway: Running, tap: Tap, stage: Stage, sender: RabbitPublisher, state: Client
) -> None:
    tenant = await gateway.tenant()
    schedule = await make(gateway, tenant, task={"input": "What is new?", "deadline_seconds": 60})
    tried = await due(gateway, schedule, datetime.now(UTC) - timedelta(seconds=70))
    wait = "UPDATE runtime.schedules SET waiting = 'lane_full', tried_at = $2 WHERE schedule_id = $1"
    await gateway.database.execute(wait, schedule, tried)
    async with waking(stage, sender, pipelined(state)):
        (skipped,) = await ticked(gateway, tenant, schedule)
    assert (skipped["outcome"], skipped["reason"]) == ("skipped", "deadline_passed")
    task_id = scheduled_task_id(schedule, tried)
    assert await _ended(gateway, schedule, tried) == ("failed", "deadline_passed")
    assert str(task_id) not in {message.correlation_id for message in tap.seen}
    assert await state.zcard(outstanding_key(tenant.id, 5)) == 0


async def _refused(gateway: Running, schedule: UUID) -> datetime:
    """The tick that its lane has refused, and that is to be tried again now."""
    tick = await due_now(gateway, schedule)
    wait = "UPDATE runtime.schedules SET waiting = 'lane_full', tried_at = $2 WHERE schedule_id = $1"
    await gateway.database.execute(wait, schedule, tick)
    return tick


async def _run(gateway: Running, schedule: UUID, tick: datetime) -> str | None:
    status = "SELECT status FROM runtime.runs WHERE task_id = $1"
    found: str | None = await gateway.database.fetchval(status, scheduled_task_id(schedule, tick))
    return found


async def test_a_tick_that_was_fired_since_a_change_read_its_schedule_is_not_ended(
    gateway: Running, tap: Tap, stage: Stage, sender: RabbitPublisher, state: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await gateway.tenant()
    schedule = await make(gateway, tenant)
    tick = await _refused(gateway, schedule)
    settled_until = Scheduling._settled_until

    async def fired_meanwhile(self: Scheduling, was: Any) -> datetime:
        assert was["waiting"] == "lane_full"
        async with waking(stage, sender, pipelined(state)):
            await ticked(gateway, tenant, schedule, deadline=30)
        return await settled_until(self, was)

    monkeypatch.setattr(Scheduling, "_settled_until", fired_meanwhile)
    address, changes = f"/v1/schedules/{schedule}", {"cron": "1 1 2 2 *"}
    assert (await gateway.client.patch(address, json=changes, headers=tenant.headers)).status_code == 200
    await submitted(tap, schedule, tick)
    assert await _run(gateway, schedule, tick) is None


class Interrupting(RabbitPublisher):
    """Is confirmed, and before it can say so somebody does something else."""

    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def publish(self, exchange: str, routing_key: str, contract: Any, **rest: Any) -> None:
        await super().publish(exchange, routing_key, contract, **rest)
        if self.meanwhile is not None:
            await self.meanwhile()


@pytest.mark.parametrize("how", ["change", "delete"])
async def test_a_tick_that_is_being_published_is_not_ended(
    gateway: Running, tap: Tap, stage: Stage, sender: RabbitPublisher, state: Client, how: str
) -> None:
    tenant = await gateway.tenant()
    schedule = await make(gateway, tenant)
    tick = await _refused(gateway, schedule)
    interrupting = Interrupting(sender._broker, sender._channel, sender._sender, 5.0)
    answers = []

    async def meanwhile() -> None:
        address, client = f"/v1/schedules/{schedule}", gateway.client
        if how == "delete":
            answers.append(await client.delete(address, headers=tenant.headers))
        else:
            answers.append(await client.patch(address, json={"enabled": False}, headers=tenant.headers))

    interrupting.meanwhile = meanwhile

    async def answered() -> bool:
        return bool(answers)

    async with waking(stage, interrupting, pipelined(state)):
        await submitted(tap, schedule, tick)
        await eventually(answered, 30)
        if how == "change":
            await ticked(gateway, tenant, schedule, deadline=30)
    assert answers[0].is_success
    assert await _run(gateway, schedule, tick) is None


async def test_a_lane_that_refuses_what_it_may_have_taken_before_does_not_make_it_known(
    gateway: Running, stage: Stage, sender: RabbitPublisher, state: Client
) -> None:
    tenant = await gateway.tenant("enterprise")
    schedule = await make(gateway, tenant)
    with full(stage, "enterprise", 1):
        await _fill(gateway, stage)
        tick = await due_now(gateway, schedule)
        wait = "UPDATE runtime.schedules SET waiting = 'internal_error', tried_at = $2 WHERE schedule_id = $1"
        await gateway.database.execute(wait, schedule, tick)

        async def tried() -> bool:
            return bool((await read(gateway, tenant, schedule))["waiting"] == "broker_unavailable")

        async with waking(stage, sender, pipelined(state)):
            await eventually(tried, 30)


async def _ended(gateway: Running, schedule: UUID, tick: datetime) -> tuple[str, str]:
    """How the tick's task ended, and the type of its error."""
    end = "SELECT status, outcome FROM runtime.runs WHERE task_id = $1"
    row = await gateway.database.fetchrow(end, scheduled_task_id(schedule, tick))
    assert row is not None
    error = RunFinished.decode(row["outcome"]).error
    assert error is not None
    return row["status"], error.type


class Failing(RabbitPublisher):
    """Meets an error that nobody expected, with one schedule, until it is mended."""

    schedule: UUID | None = None

    async def publish(self, exchange: str, routing_key: str, contract: Any, **rest: Any) -> None:
        if contract.metadata.get("schedule_id") == str(self.schedule):
            raise ZeroDivisionError
        await super().publish(exchange, routing_key, contract, **rest)


async def test_an_unexpected_error_of_one_schedule_keeps_it_waiting_and_no_other(
    gateway: Running, tap: Tap, stage: Stage, sender: RabbitPublisher, state: Client
) -> None:
    tenant = await gateway.tenant()
    broken, fine = [await make(gateway, tenant) for _ in range(2)]
    failing = Failing(sender._broker, sender._channel, sender._sender, 5.0)
    failing.schedule = broken
    async with waking(stage, failing, pipelined(state)):
        tick = await due_now(gateway, broken)
        await due_now(gateway, fine)
        await ticked(gateway, tenant, fine)

        async def waits() -> bool:
            return bool((await read(gateway, tenant, broken))["waiting"] == "internal_error")

        await eventually(waits)
        failing.schedule = None
        (fired,) = await ticked(gateway, tenant, broken, deadline=30)
    assert (fired["outcome"], datetime.fromisoformat(fired["at"])) == ("fired", tick)


async def test_who_wakes_goes_on_after_an_error_that_nobody_expected(
    gateway: Running, tap: Tap, stage: Stage, sender: RabbitPublisher, state: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await gateway.tenant()
    schedule = await make(gateway, tenant)
    failures: list[object] = []

    async def fails_once(*given: Any) -> int:
        if not failures:
            failures.append(given)
            raise ZeroDivisionError
        return await fire_due(*given)

    monkeypatch.setattr(waker, "fire_due", fails_once)
    async with waking(stage, sender, pipelined(state)):
        tick = await due_now(gateway, schedule)
        await submitted(tap, schedule, tick)
    assert len(failures) == 1


@pytest.mark.parametrize("waiting", ["lane_full", "broker_unavailable"])
async def test_what_found_no_room_until_the_next_tick_is_missed_and_ends(
    gateway: Running, stage: Stage, sender: RabbitPublisher, state: Client, waiting: str
) -> None:
    tenant = await gateway.tenant()
    cron, last = half_past(datetime.now(UTC))
    schedule = await make(gateway, tenant, cron)
    tried = await due(gateway, schedule, last - timedelta(hours=1))
    wait = "UPDATE runtime.schedules SET waiting = $2 WHERE schedule_id = $1"
    await gateway.database.execute(wait, schedule, waiting)
    async with waking(stage, sender, pipelined(state)):
        (missed,) = await ticked(gateway, tenant, schedule)
    assert (missed["outcome"], missed["reason"]) == ("missed", waiting)
    assert await _ended(gateway, schedule, tried) == ("failed", waiting)
    assert await _run(gateway, schedule, last) is None


async def test_a_schedule_that_cannot_be_read_stands_still_and_keeps_nobody_else_waiting(
    gateway: Running, tap: Tap, stage: Stage, sender: RabbitPublisher, state: Client
) -> None:
    tenant = await gateway.tenant()
    unknown, garbled, fine = [await make(gateway, tenant) for _ in range(3)]
    await gateway.database.execute(
        "UPDATE runtime.schedules SET time_zone = 'Atlantis/Capital' WHERE schedule_id = $1", unknown
    )
    await gateway.database.execute("UPDATE runtime.schedules SET message = '{}' WHERE schedule_id = $1", garbled)
    tick = datetime.now(UTC)
    for schedule in (unknown, garbled, fine):
        await due(gateway, schedule, tick)
    async with waking(stage, sender, pipelined(state)):
        await submitted(tap, fine, tick)
        (stuck,) = await ticked(gateway, tenant, unknown)
        (unread,) = await ticked(gateway, tenant, garbled)
    assert (stuck["outcome"], "no time zone 'Atlantis/Capital'" in stuck["reason"]) == ("skipped", True)
    assert (await read(gateway, tenant, unknown))["next_at"] is None
    assert (unread["outcome"], unread["reason"].partition(":")[0]) == ("skipped", "unusable")
    assert (await read(gateway, tenant, garbled))["next_at"] is not None


async def test_the_last_ticks_are_kept_and_no_more(
    gateway: Running, stage: Stage, sender: RabbitPublisher, state: Client
) -> None:
    tenant = await gateway.tenant()
    schedule = await make(gateway, tenant)
    await gateway.database.execute(
        "INSERT INTO runtime.ticks (schedule_id, tenant_id, tick_at, until, outcome, reason)"
        " SELECT $1, $2, now() - n * interval '1 hour', now(), 'missed', 'late' FROM generate_series(1, 80) n",
        schedule,
        tenant.id,
    )
    tick = await due_now(gateway, schedule)
    async with waking(stage, sender, pipelined(state)):

        async def fired() -> bool:
            ticks = (await read(gateway, tenant, schedule))["ticks"]
            return bool(ticks[0]["outcome"] == "fired" and len(ticks) == 20)

        await eventually(fired)
    kept = await gateway.database.fetch("SELECT tick_at FROM runtime.ticks WHERE schedule_id = $1", schedule)
    assert len(kept) == 50
    assert max(row["tick_at"] for row in kept) == tick
