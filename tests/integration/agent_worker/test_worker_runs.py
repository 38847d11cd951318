"""Whole runs on real servers: how they end, who may write, and that each is run once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from agent_worker.leave import CallRequest
from agent_worker.providers.base import PermanentError, TextDelta, ToolCall, TransientError
from agent_worker.providers.scripted import Scripted
from agent_worker.repository import SavedStep
from common.contracts import Contract
from common.contracts.base import now
from common.contracts.identifiers import attempt_id
from tests.integration.agent_worker.world import Played, Said, World, publish_raw

COMPUTE = (TextDelta("Let me see. "), ToolCall("c1", "calculator", {"expression": "2 * 21"}))
ANSWER = (TextDelta("It is "), TextDelta("42."))


async def test_a_run_from_delivery_to_end(world: World) -> None:
    provider, task = Played(COMPUTE, ANSWER), world.task(user_id="anna", metadata={"team": "red"})
    worker = await world.worker(provider)
    await world.submit(task)
    end = await world.heard.end(task.task_id)
    await worker.idle()
    assert (end.status, end.output, end.steps, end.attempts, end.fence) == ("completed", "It is 42.", 2, 1, 1)
    assert [message.role for message in end.messages] == ["assistant", "tool", "assistant"]
    assert end.messages[1].content[0]["content"] == "42"

    usage = world.heard.usage(task.task_id)
    assert {record.attempt_id for record in usage} == await world.holds(task)
    assert [(r.step, r.call, r.user_id, r.metadata) for r in usage] == [
        (1, 1, "anna", {"team": "red"}),
        (2, 2, "anna", {"team": "red"}),
    ]
    assert end.usage.output_tokens == sum(record.usage.output_tokens for record in usage) == 4

    durable = [e for progressed in world.heard.progress(task.task_id) for e in progressed.events] + list(end.events)
    assert [event.seq for event in durable] == list(range(1, len(durable) + 1))
    assert [e.type for e in durable if e.type != "token"] == [
        *("start", "usage", "tool_start", "tool_end", "status", "usage", "done"),
    ]
    assert await world.steps(task) == [1]

    async def streamed() -> bool:
        return await world.stream(task) == durable

    await world.until(streamed)
    assert (await world.run_row(task))["status"] == "completed"


async def test_the_same_message_twice_is_one_run(world: World) -> None:
    provider, task = Played(ANSWER, hold=True), world.task()
    worker = await world.worker(provider)
    await world.submit(task)
    await world.submit(task)
    await provider.called()

    async def both_held() -> bool:
        return worker.supervisor.held == 2

    await world.until(both_held)
    provider.go.set()
    await worker.idle()
    assert len(provider.requests) == 1
    bodies = [body for _, body in world.heard.ends(task.task_id)]
    assert len(bodies) == 2
    assert bodies[0] == bodies[1]  # the end that was decided, again


async def test_a_crash_between_the_end_and_its_publish_is_repaired_by_redelivery(world: World) -> None:
    provider, task = Played(COMPUTE, ANSWER), world.task()
    worker = await world.worker(provider)
    published: list[bytes] = []
    publish = worker.publisher.publish

    async def crash(exchange: str, key: str, contract: Contract, **rest: Any) -> None:
        if key == "run.finished" and not published:
            published.append(contract.encode())
            raise RuntimeError("crash")
        await publish(exchange, key, contract, **rest)

    worker.publisher.publish = crash  # type: ignore[assignment,method-assign]
    await world.submit(task)
    await world.heard.end(task.task_id)
    await worker.idle()
    assert [body for _, body in world.heard.ends(task.task_id)] == published
    assert len(provider.requests) == 2


async def test_a_second_worker_waits_for_a_live_lease_and_does_not_spin(world: World) -> None:
    provider, task = Played(ANSWER, hold=True), world.task()
    first = await world.worker(provider, slots=1)
    await world.submit(task)
    await provider.called()
    second = await world.worker(Played(ANSWER))
    await world.submit(task)

    async def several_leases_later() -> bool:
        return len(second.acquisitions) >= 3

    started = asyncio.get_running_loop().time()
    await world.until(several_leases_later)
    assert asyncio.get_running_loop().time() - started > 1.0
    provider.go.set()
    await first.idle()
    await second.idle()
    assert len(second.acquisitions) <= 5
    assert len({body for _, body in world.heard.ends(task.task_id)}) == 1
    assert (await world.run_row(task))["attempts"] == 1


async def test_a_run_whose_worker_is_silent_is_taken_over_and_the_first_can_write_no_more(world: World) -> None:
    slow, quick = Played(COMPUTE, ANSWER, hold=True), Played(COMPUTE, ANSWER)
    task = world.task()
    first = await world.worker(slow, slots=1)
    await world.submit(task)
    await slow.called()
    first.leases.cancel()  # hangs, as far as the others can tell
    second = await world.worker(quick)
    await world.submit(task)
    end = await world.heard.end(task.task_id)
    assert (end.status, end.fence, end.attempts) == ("completed", 2, 2)
    after = await world.stream(task)
    slow.go.set()
    await first.idle()
    await second.idle()
    assert len({body for _, body in world.heard.ends(task.task_id)}) == 1
    assert len(slow.requests) == 1  # it was refused the leave for a second one
    assert await world.steps(task) == [1]
    assert next(event.type for event in after if event.fence == 2) == "reset"
    assert [e for e in await world.stream(task) if e.fence == 1] == [e for e in after if e.fence == 1]
    # What it had bought is accounted for all the same.
    assert {record.attempt_id for record in world.heard.usage(task.task_id)} == await world.holds(task)


async def test_an_old_fence_saves_holds_finishes_and_releases_nothing(world: World) -> None:
    worker, task = await world.worker(), world.task()
    repository = worker.repository
    saved = SavedStep(1, 1, 5, {"turns": [], "usage": {}})
    call = CallRequest(attempt_id(task.task_id, 1, 1), 1, 1, None, "anthropic", "claude-haiku-4-5", 10, 10, None)
    assert (await repository.acquire(task, "a")).decision == "acquired"
    assert (await repository.acquire(task, "b")).decision == "leased"
    await repository.release(task.task_id, 1, None)
    assert (await repository.acquire(task, "b")).fence == 2
    assert (await repository.begin_call(task.tenant_id, task.task_id, 1, call, saved)).verdict == "fenced"
    assert not await repository.finish(task.task_id, 1, "completed", b"old", now())
    await repository.release(task.task_id, 1, saved)
    assert await repository.renew([(task.task_id, 1)]) == {}
    assert (await world.steps(task), await world.holds(task)) == ([], set())
    assert await repository.finish(task.task_id, 2, "completed", b"new", now())
    assert await repository.finish(task.task_id, 2, "completed", b"new", now())
    assert not await repository.finish(task.task_id, 2, "failed", b"other", now())
    assert (await world.run_row(task))["outcome"] == b"new"


async def test_a_budget_that_does_not_suffice(world: World) -> None:
    provider, task = Played(ANSWER), world.task(max_cost_usd=Decimal("0.0001"))
    await world.worker(provider)
    await world.submit(task)
    end = await world.heard.end(task.task_id)
    assert end.error is not None
    assert (end.status, end.error.type, provider.requests) == ("failed", "budget_exceeded", [])
    assert "the run budget of 0.0001 USD" in end.error.message


async def test_a_model_without_a_price_is_not_called(world: World) -> None:
    provider, task = Played(ANSWER), world.task(model="no-price")
    await world.worker(provider)
    await world.submit(task)
    end = await world.heard.end(task.task_id)
    assert end.error is not None
    assert (end.status, end.error.type, provider.requests) == ("failed", "model_unpriced", [])


@pytest.mark.parametrize("changes", [{"agent": "nobody"}, {"model": "gone"}])
async def test_what_is_not_in_the_catalogue_fails(world: World, changes: dict[str, str]) -> None:
    task = world.task(**changes)
    await world.worker()
    await world.submit(task)
    end = await world.heard.end(task.task_id)
    assert end.error is not None
    assert (end.status, end.error.type) == ("failed", "not_in_catalogue")


async def test_a_deadline_that_has_passed(world: World) -> None:
    task = world.task(deadline_at=now() - timedelta(seconds=1))
    await world.worker()
    await world.submit(task)
    end = await world.heard.end(task.task_id)
    assert (end.status, [event.type for event in end.events]) == ("expired", ["done"])


async def test_a_run_that_takes_too_long(world: World) -> None:
    provider, task = Played(ANSWER, hold=True), world.task(agent="hurried")
    worker = await world.worker(provider)
    await world.submit(task)
    end = await world.heard.end(task.task_id)
    await worker.idle()
    assert end.error is not None
    assert (end.status, end.error.type) == ("failed", "timeout")
    assert [event.type for event in end.events][-2:] == ["error", "done"]
    (record,) = world.heard.usage(task.task_id)
    assert record.estimated
    assert end.usage == record.usage


async def test_a_run_that_is_taken_over_has_only_the_time_that_is_left(world: World) -> None:
    provider, task = Played(ANSWER), world.task()  # its agent's runs may take ten minutes
    worker = await world.worker(provider)
    assert (await worker.repository.acquire(task, "dies")).decision == "acquired"
    await world.owner.execute(
        "UPDATE runtime.runs SET lease_until = now() - interval '1s', started_at = now() - interval '11 min'"
    )
    await world.submit(task)
    end = await world.heard.end(task.task_id)
    assert end.error is not None
    assert (end.status, end.error.type) == ("failed", "timeout")


async def test_a_delivery_that_cannot_be_handled_comes_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    provider, task = Played(ANSWER), world.task()
    worker = await world.worker(provider, slots=1)
    failures = [RuntimeError("a fault of ours")]

    async def failing(_: object) -> None:
        if failures:
            raise failures.pop()

    monkeypatch.setattr(worker.supervisor, "_until_alone", failing)
    await world.submit(task)
    assert (await world.heard.end(task.task_id)).status == "completed"


async def test_a_run_that_no_worker_finishes(world: World) -> None:
    provider, task = Played(ANSWER), world.task()
    worker = await world.worker(provider, max_attempts=2)
    for _ in range(2):
        assert (await worker.repository.acquire(task, "dies")).decision == "acquired"
        await world.owner.execute("UPDATE runtime.runs SET lease_until = now() - interval '1s'")
    await world.submit(task)
    end = await world.heard.end(task.task_id)
    assert end.error is not None
    assert (end.status, end.error.type, provider.requests) == ("failed", "too_many_attempts", [])


@pytest.mark.parametrize(("body", "kind"), [(b"\xff{", "task.submitted"), (b"{}", "task.submitted"), (b"{}", "x")])
async def test_poison_goes_to_the_dead_letters(world: World, body: bytes, kind: str) -> None:
    worker = await world.worker()
    # The persister's queue gets it too; nothing of ours is listening there for this one.
    world.heard.take = lambda delivery: None  # type: ignore[method-assign]
    await publish_raw(world.stage, body, kind)

    async def buried() -> bool:
        return bool(world.heard.dead)

    await world.until(buried)
    assert world.heard.dead[0].message.body == body
    await worker.idle()


async def test_an_error_of_the_model_that_will_not_heal(world: World) -> None:
    provider, task = Played((PermanentError("provider_refused_request", "too long"),)), world.task()
    await world.worker(provider)
    await world.submit(task)
    end = await world.heard.end(task.task_id)
    assert end.error is not None
    assert (end.status, end.error.type, len(provider.requests)) == ("failed", "provider_refused_request", 1)


async def test_what_was_said_before_an_error_is_reset(world: World) -> None:
    answers: list[Said] = [(TextDelta("wrong"), TransientError("stream_cut", "gone")), (TextDelta("right"),)]
    provider, task = Scripted(lambda _: answers.pop(0)), world.task()
    await world.worker(provider)
    await world.submit(task)
    end = await world.heard.end(task.task_id)
    assert end.output == "right"
    resets = [event for event in end.events if event.type == "reset"]
    assert [event.data["after"] for event in resets] == ["1-1"]
    assert len(world.heard.usage(task.task_id)) == 2
    assert end.usage.output_tokens == 2


async def test_a_very_long_answer_is_made_durable_in_parts(world: World) -> None:
    said = tuple(TextDelta(f"{number:06d}" * 50) for number in range(3000))
    provider, task = Played(said), world.task(max_output_tokens=60_000)
    await world.worker(provider)
    await world.submit(task)
    end = await world.heard.end(task.task_id)
    parts = world.heard.progress(task.task_id)
    assert len(parts) >= 2
    assert max(len(body) for _, body in world.heard.bodies[task.task_id]) < 2**20
    events = [event for part in parts for event in part.events] + list(end.events)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    text = "".join(event.data["text"] for event in events if event.type == "token")
    assert text == "".join(piece.text for piece in said)


async def test_many_large_results_fit_into_the_end(world: World) -> None:
    calls = tuple(ToolCall(f"c{n}", "calculator", {"expression": "9" * 900}) for n in range(60))
    said: Said = (*calls, TextDelta("x" * 40_000))
    provider, task = Played(*[said] * 8, ANSWER), world.task()
    await world.worker(provider)
    await world.submit(task)
    end = await world.heard.end(task.task_id)
    assert end.status == "completed"
    assert max(len(body) for _, body in world.heard.bodies[task.task_id]) < 2**20


async def test_a_step_that_no_broker_takes_fails_its_run_and_no_other(world: World) -> None:
    huge, task, other = ToolCall("c1", "calculator", {"expression": "9" * 1_200_000}), world.task(), world.task("brief")
    provider = Scripted(lambda request: ANSWER if request.turns[0].content[0]["text"] == "brief" else (huge,))
    worker = await world.worker(provider)
    await world.submit(task)
    end = await world.heard.end(task.task_id)
    assert end.error is not None
    assert (end.status, end.error.type) == ("failed", "too_large")
    assert [event.type for event in end.events][-2:] == ["error", "done"]
    assert worker.publisher.ready
    await world.submit(other)
    assert (await world.heard.end(other.task_id)).status == "completed"
