"""What becomes of a run whose next call does not fit into a budget: it ends, waits, or parks until there is room."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest

from agent_worker.accounts import RunAccounts
from agent_worker.budgets import Patience
from agent_worker.providers.base import TextDelta, ToolCall
from billing.handlers import settle_usage
from common import postgres
from common.contracts import TaskSubmitted
from common.contracts.base import now
from common.messaging.publisher import Publisher
from persister import repository as persister_repository
from tests.integration.agent_worker.world import Played, World
from tests.integration.parking.yard import ANSWER, parked_row, until_parked, waking

# Of a run with a tool: each of its calls is held at a little above this, as its input is a few kilobytes at most.
TWO_STEPS = ((ToolCall("c1", "calculator", {"expression": "6*7"}),), (TextDelta("42."),))
QUICK = Patience(settling=0.3, waiting=1.5, in_slot=0.1)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    made = RunAccounts.__init__

    def quick(self: RunAccounts, *arguments: object) -> None:
        made(self, *arguments[:8], QUICK, *arguments[9:])  # type: ignore[arg-type,call-arg]

    monkeypatch.setattr(RunAccounts, "__init__", quick)


async def put(world: World, tenant: UUID, scope: str, cap: str, subject: str = "") -> None:
    statement = "SELECT billing.put_budget($1, $2, $3, $4::numeric, 'ada', 'a test')"
    assert await world.owner.fetchval(statement, tenant, scope, subject, Decimal(cap))


async def settled(world: World, task: TaskSubmitted) -> None:
    """Let billing settle what the run has used so far."""
    async with postgres.pool(world.stage.postgres("laneway_billing"), "test") as pool:
        await settle_usage(world.heard.usage(task.task_id), pool, 30)


async def test_a_run_that_is_to_fail_ends_with_the_scope_and_what_is_missing(world: World) -> None:
    task = world.task(user_id="anna")
    await put(world, task.tenant_id, "user_day", "0.001")
    await world.worker(Played(ANSWER))
    await world.submit(task)
    end = await world.heard.end(task.task_id)
    assert end.error is not None
    assert (end.status, end.error.type) == ("failed", "budget_exceeded")
    hold = Decimal(end.error.message.split("could cost ")[1].split(" USD")[0])
    assert f"the user_day budget of anna of 0.001 USD has {hold - Decimal('0.001'):f} USD too little" in (
        end.error.message.replace("0.0010000000", "0.001")
    )


@pytest.mark.parametrize("scope", ["run", "user_day", "tenant_day", "tenant_month", "conversation"])
async def test_a_parked_run_goes_on_once_its_budget_is_raised(world: World, resender: Publisher, scope: str) -> None:
    conversation = UUID(int=now().microsecond + 1) if scope == "conversation" else None
    task = world.task(user_id="anna", on_budget_exhausted="park", conversation_id=conversation)
    await put(world, task.tenant_id, scope, "0.0001")
    worker = await world.worker(Played(ANSWER))
    await world.submit(task)
    subjects = {"run": str(task.task_id), "user_day": "anna", "conversation": str(conversation)}
    row = await until_parked(world, task, "budget")
    assert row["key"] == f"{scope}:{subjects[scope]}" if scope in subjects else scope
    await worker.idle()
    async with waking(world, resender):
        await put(world, task.tenant_id, scope, "1")
        end = await world.heard.end(task.task_id)
    assert (end.status, end.attempts) == ("completed", 1)
    assert await parked_row(world, task) == {}


async def test_it_waits_until_its_period_is_renewed_and_no_longer(world: World, resender: Publisher) -> None:
    """The day of its tenant ends as its zone has it: that is when it is looked at again."""
    task = world.task(user_id="anna", on_budget_exhausted="park")
    cap = "0.05"
    await put(world, task.tenant_id, "tenant_day", cap)
    await world.owner.execute(
        "INSERT INTO billing.balances (tenant_id, scope, subject, period, cap, charged)"
        " SELECT $1, 'tenant_day', '', billing.day_at($1, now()), $2::numeric, $2::numeric",
        *(task.tenant_id, Decimal(cap)),
    )
    await world.worker(Played(ANSWER))
    await world.submit(task)
    row = await until_parked(world, task, "budget")
    ends = await world.owner.fetchval(
        "SELECT ends_at FROM billing.period_of($1, 'tenant_day', billing.day_at($1, now()))", task.tenant_id
    )
    assert row["wake_at"] == ends
    async with waking(world, resender):
        # Its day is over: as if the one that it is were one that begins now.
        await world.owner.execute(
            "UPDATE identity.tenants SET zone_day = current_date + 3, zone_day_began = now() WHERE tenant_id = $1",
            task.tenant_id,
        )
        assert (await world.heard.end(task.task_id)).status == "completed"


async def test_what_was_done_before_it_parked_is_not_done_again(world: World, resender: Publisher) -> None:
    provider, task = Played(*TWO_STEPS), world.task(on_budget_exhausted="park", max_output_tokens=100)
    await world.worker(provider)
    await put(world, task.tenant_id, "run", "0.004")
    await world.submit(task)
    await until_parked(world, task, "budget")
    assert len(provider.requests) == 1
    worker = await world.worker(provider)  # another process goes on with it
    async with waking(world, resender):
        await put(world, task.tenant_id, "run", "1", str(task.task_id))
        end = await world.heard.end(task.task_id)
    assert (end.status, end.output, end.steps) == ("completed", "42.", 2)
    assert len(provider.requests) == 2
    assert len({record.attempt_id for record in world.heard.usage(task.task_id)}) == 2
    await worker.idle()


async def test_a_run_that_is_to_wait_gives_its_slot_back_and_goes_on_when_holds_are_settled(
    world: World, resender: Publisher
) -> None:
    provider = Played(ANSWER, hold=True)
    first = world.task(max_output_tokens=100)
    second = world.task(tenant_id=first.tenant_id, max_output_tokens=100, on_budget_exhausted="wait")
    await put(world, first.tenant_id, "tenant_day", "0.004")
    worker = await world.worker(provider)
    await world.submit(first)
    await provider.called()
    await world.submit(second)
    await until_parked(world, second, "budget")
    provider.go.set()
    await worker.idle()
    async with waking(world, resender):
        await settled(world, first)
        assert (await world.heard.end(second.task_id)).status == "completed"


async def test_a_run_that_has_waited_long_enough_ends(world: World, resender: Publisher) -> None:
    provider = Played(ANSWER, hold=True)
    first = world.task(max_output_tokens=100)
    second = world.task(tenant_id=first.tenant_id, max_output_tokens=100, on_budget_exhausted="wait")
    await put(world, first.tenant_id, "tenant_day", "0.004")
    await world.worker(provider)
    await world.submit(first)
    await provider.called()
    await world.submit(second)
    async with waking(world, resender):
        end = await world.heard.end(second.task_id)
    assert end.error is not None
    assert (end.status, end.error.type) == ("failed", "budget_exceeded")
    assert "waiting for open holds" in end.error.message
    provider.go.set()
    await world.heard.end(first.task_id)


async def test_what_the_task_allows_itself_nobody_raises(world: World) -> None:
    task = world.task(on_budget_exhausted="park", max_cost_usd=Decimal("0.0001"))
    await world.worker(Played(ANSWER))
    await world.submit(task)
    end = await world.heard.end(task.task_id)
    assert end.error is not None
    assert (end.status, end.error.type) == ("failed", "budget_exceeded")


async def test_a_cancel_ends_what_is_parked_for_a_budget(world: World, resender: Publisher) -> None:
    task = world.task(on_budget_exhausted="park")
    await put(world, task.tenant_id, "tenant_day", "0.0001")
    await world.worker(Played(ANSWER))
    await world.submit(task)
    await until_parked(world, task, "budget")
    async with waking(world, resender):
        await world.owner.execute("SELECT runtime.cancel($1, $2, $3)", task.task_id, task.tenant_id, task.tier)
        assert (await world.heard.end(task.task_id)).status == "cancelled"


async def test_only_as_many_are_woken_as_there_is_room_for(world: World) -> None:
    first = world.task(on_budget_exhausted="park", max_output_tokens=100)
    tasks = [first, *(world.task(tenant_id=first.tenant_id, on_budget_exhausted="park") for _ in range(3))]
    await put(world, first.tenant_id, "tenant_day", "0")
    await world.worker(Played(ANSWER))
    for task in tasks:
        await world.submit(task)
        await until_parked(world, task, "budget")
    needs = [(await parked_row(world, task))["needs"] for task in tasks]
    await put(world, first.tenant_id, "tenant_day", str(needs[0] + needs[1]))
    assert await persister_repository.wake(world.owner, 100) == 2  # type: ignore[arg-type]
    ready = [(await parked_row(world, task))["ready_at"] is not None for task in tasks]
    assert ready == [True, True, False, False]
    assert await persister_repository.wake(world.owner, 100) == 0  # type: ignore[arg-type]


async def test_a_model_that_the_plan_does_not_have_is_never_called(world: World) -> None:
    provider, task = Played(ANSWER), world.task()
    await world.owner.execute(
        "UPDATE identity.plans SET allowed_models = '{other-model}'"
        " WHERE name = (SELECT plan FROM identity.tenants WHERE tenant_id = $1)",
        task.tenant_id,
    )
    await world.worker(provider)
    await world.submit(task)
    end = await world.heard.end(task.task_id, 30)
    assert end.error is not None
    assert (end.status, end.error.type) == ("failed", "model_not_allowed")
    assert "it allows other-model" in end.error.message
    assert provider.requests == []
    assert end.finished_at - now() < timedelta(minutes=1)
