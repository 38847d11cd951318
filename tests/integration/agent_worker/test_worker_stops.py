"""Runs that are cut: cancelled, drained, lost; and what is accounted for and kept of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from agent_worker.providers.anthropic import AnthropicMessages
from agent_worker.providers.base import CallMeter, ModelRequest, Piece, TextDelta, ToolCall, TransientError
from agent_worker.resilience.retry import Retry
from agent_worker.run import Run
from agent_worker.stopping import StopReason
from common.admission import outstanding_key
from common.contracts.base import now
from tests.integration.agent_worker.world import Played, World

COMPUTE = (TextDelta("Let me see. "), ToolCall("c1", "calculator", {"expression": "2 * 21"}))
ANSWER = (TextDelta("It is "), TextDelta("42."))


class HeldAt(Played):
    """Holds back every call from a step on."""

    def __init__(self, step: int, *answers: Any) -> None:
        super().__init__(*answers, hold=True)
        self._step = step

    async def stream(self, request: ModelRequest, meter: CallMeter) -> AsyncGenerator[Piece, None]:
        if sum(turn.role == "assistant" for turn in request.turns) + 1 < self._step:
            self.go.set()
            async for piece in super().stream(request, meter):
                yield piece
            self.go.clear()
        else:
            async for piece in super().stream(request, meter):
                yield piece


async def test_a_task_that_is_cancelled_before_it_runs(world: World) -> None:
    provider, task = Played(ANSWER), world.task()
    assert await world.cancel(task, bell=False) == "cancelled"
    await world.worker(provider)
    await world.submit(task)
    end = await world.heard.end(task.task_id)
    assert (end.status, [event.type for event in end.events], provider.requests) == ("cancelled", ["done"], [])


async def test_a_task_that_a_cancel_of_many_covers_never_runs_though_nobody_has_recorded_it(world: World) -> None:
    provider, task = Played(ANSWER), world.task(metadata={"order": "4711"})
    later = world.task(tenant_id=task.tenant_id, submitted_at=now() + timedelta(minutes=1))
    place = outstanding_key(task.tenant_id, task.priority)
    await world.state.zadd(place, {str(task.task_id): 9e15})
    cancel = "SELECT runtime.begin_cancellation($1, $2, now(), NULL, NULL, $3)"
    await world.owner.execute(cancel, uuid4(), task.tenant_id, {"order": "4711"})
    await world.worker(provider)
    for one in (task, later):
        await world.submit(one)
    assert (await world.heard.end(task.task_id)).status == "cancelled"
    assert (await world.heard.end(later.task_id)).status == "completed"
    assert len(provider.requests) == 1

    async def told() -> bool:
        ended = [event.type for event in await world.stream(task)] == ["done"]
        return ended and await world.state.zscore(place, str(task.task_id)) is None

    await world.until(told)


@pytest.mark.parametrize("bell", [True, False], ids=["by the bell", "by the lease's renewal"])
async def test_a_running_model_call_is_cut_within_a_second(
    world: World, control: httpx2.AsyncClient, bell: bool
) -> None:
    provider = AnthropicMessages("any", world.simulator, httpx2.Timeout(30.0), 4)
    task = world.task("[[sim tokens=900 tps=30]] hi", agent="live")
    worker = await world.worker(live={"messages": provider})
    await world.submit(task)

    async def streaming() -> bool:
        return any(event.type == "token" for event in await world.stream(task))

    await world.until(streaming)
    started = asyncio.get_running_loop().time()
    assert await world.cancel(task, bell=bell) == "cancelling"
    end = await world.heard.end(task.task_id)
    assert asyncio.get_running_loop().time() - started < 1.0
    await worker.idle()
    (record,) = world.heard.usage(task.task_id)
    assert record.estimated
    assert record.usage.output_tokens > 0
    assert (end.status, end.usage) == ("cancelled", record.usage)

    async def audited() -> list[dict[str, Any]]:
        query = {"client_request_id": str(record.attempt_id)}
        calls: list[dict[str, Any]] = (await control.get("/control/audit", params=query)).json()["calls"]
        return calls

    await world.until(audited)
    (call,) = await audited()
    assert call["outcome"] == "client_gone"
    assert call["output_tokens"] < 300
    await provider.close()


async def test_a_run_that_waits_for_a_retry_is_cancelled_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Retry, "delay", lambda *_: 60.0)
    provider, task = Played((TextDelta("a"), TransientError("rate_limited", "later"))), world.task()
    worker = await world.worker(provider)
    await world.submit(task)

    async def waiting() -> bool:
        return any(event.type == "reset" for event in await world.stream(task))

    await world.until(waiting)
    await world.cancel(task)
    end = await world.heard.end(task.task_id, deadline=3)
    await worker.idle()
    assert end.status == "cancelled"
    assert len(world.heard.usage(task.task_id)) == 1


async def test_a_run_that_waits_for_holds_is_cancelled_at_once(world: World) -> None:
    # The second call fits only when the first's hold is settled, which nobody does here.
    provider, task = Played(COMPUTE, ANSWER), world.task(caps={"run_cap_usd": "0.016"}, max_output_tokens=1000)
    worker = await world.worker(provider)
    await world.submit(task)

    async def saved() -> bool:
        return bool(await world.steps(task))

    await world.until(saved)
    await world.cancel(task)
    end = await world.heard.end(task.task_id, deadline=3)
    await worker.idle()
    assert (end.status, len(provider.requests), end.steps) == ("cancelled", 1, 1)


async def test_a_run_whose_worker_died_in_a_call_waits_until_the_dead_hold_is_resolved(world: World) -> None:
    # As large a call as half of the cap: a second hold does not fit beside the dead one's.
    task = world.task(caps={"run_cap_usd": "0.01"}, max_output_tokens=1000)
    dying, provider = Played(ANSWER, hold=True), Played(ANSWER)
    first = await world.worker(dying, slots=1)
    await world.submit(task)
    await dying.called()
    first.leases.cancel()
    await world.worker(provider)
    await world.submit(task)

    async def told() -> list[object]:
        return [event for event in await world.stream(task) if "waiting_for" in event.data]

    await world.until(told)
    assert provider.requests == []
    leased_until = (await world.run_row(task))["lease_until"]

    async def leased_still() -> bool:
        return bool((await world.run_row(task))["lease_until"] > leased_until)

    await world.until(leased_still)
    await world.owner.execute("UPDATE billing.holds SET state = 'voided' WHERE task_id = $1", task.task_id)
    await world.owner.execute("UPDATE billing.balances SET held = 0 WHERE tenant_id = $1", task.tenant_id)
    end = await world.heard.end(task.task_id)
    assert (end.status, end.fence, len(provider.requests)) == ("completed", 2, 1)
    dying.go.set()


class Broken:
    """Says something, and then nothing for ever, as a worker that is killed in a call has received it."""

    name = "anthropic"

    async def stream(self, request: ModelRequest, meter: CallMeter) -> AsyncGenerator[Piece, None]:
        """See `Provider.stream`."""
        meter.accepted = True
        yield TextDelta("x" * 400)
        await asyncio.Event().wait()

    async def close(self) -> None:
        """See `Provider.close`."""


@pytest.mark.parametrize("then", ["it goes on", "it is cancelled", "nobody knows its agent"])
async def test_of_a_call_whose_worker_died_what_was_received_is_put_down_for_billing(world: World, then: str) -> None:
    task = world.task(metadata={"team": "red"})
    first = await world.worker(Broken(), slots=1)
    await world.submit(task)

    async def streamed() -> bool:
        return any(event.type == "token" for event in await world.stream(task))

    await world.until(streamed)
    first.leases.cancel()  # dead, as far as anybody can see
    if then == "it is cancelled":
        assert await world.cancel(task, bell=False) == "cancelling"
    second = Played(ANSWER)
    await world.worker(second)
    await world.submit(task.model_copy(update={"agent": "gone"} if then == "nobody knows its agent" else {}))
    end = await world.heard.end(task.task_id)
    status = {"it goes on": "completed", "it is cancelled": "cancelled", "nobody knows its agent": "failed"}[then]
    assert (end.status, end.fence, len(second.requests)) == (status, 2, int(then == "it goes on"))
    row = await world.owner.fetchrow(
        "SELECT state, received, input_estimate FROM billing.holds WHERE task_id = $1 AND fence = 1", task.task_id
    )
    assert row is not None
    assert row["state"] == "open"
    agent = "gone" if then == "nobody knows its agent" else "default"
    assert row["received"] == {"agent": agent, "metadata": {"team": "red"}, "output_tokens": 100}
    assert 0 < row["input_estimate"] < 100


async def test_draining_lets_runs_finish_within_the_grace(world: World) -> None:
    provider, task = Played(ANSWER, hold=True), world.task()
    worker = await world.worker(provider)
    await world.submit(task)
    await provider.called()
    draining = asyncio.create_task(worker.supervisor.drain(20))
    provider.go.set()
    await draining
    assert (await world.heard.end(task.task_id)).status == "completed"
    assert worker.supervisor.held == 0


async def test_what_does_not_finish_is_given_back_and_goes_on_elsewhere(world: World) -> None:
    first, second = HeldAt(2, COMPUTE, ANSWER), Played(COMPUTE, ANSWER)
    task = world.task()
    leaving = await world.worker(first, slots=1)
    await world.submit(task)
    await first.called(2)  # the first step is over, and it is in the second
    draining = asyncio.create_task(leaving.supervisor.drain(0.05))
    await world.worker(second)
    end = await world.heard.end(task.task_id)
    await draining
    assert (end.status, end.output, end.fence, end.attempts) == ("completed", "It is 42.", 2, 1)
    assert len(second.requests) == 1  # the first step's call was not made again
    assert [m.role for m in end.messages] == ["assistant", "tool", "assistant"]
    usage = world.heard.usage(task.task_id)
    assert sorted(record.estimated for record in usage) == [False, False, True]
    assert {record.attempt_id for record in usage} == await world.holds(task)
    events = [event for event in await world.stream(task) if event.fence == 2]
    assert events[0].type == "reset"
    last = [event for part in world.heard.progress(task.task_id) for event in part.events][-1]
    assert events[0].data["after"] == str(last.id)


def stopped(run: Run) -> Callable[[], Awaitable[bool]]:
    async def asked() -> bool:
        return run._stop_reason is not None

    return asked


async def test_a_step_that_is_finished_but_not_saved_is_given_back_with_the_run(world: World) -> None:
    provider, task = Played(COMPUTE, ANSWER), world.task()
    worker = await world.worker(provider, slots=1)
    publish, reached = worker.publisher.publish, asyncio.Event()

    async def slow(exchange: str, key: str, contract: Any, **rest: Any) -> None:
        if key == "run.progressed" and not reached.is_set():
            (run,) = worker.supervisor._runs.values()
            reached.set()
            await world.until(stopped(run))  # the broker takes its time, and the drain comes meanwhile
        await publish(exchange, key, contract, **rest)

    worker.publisher.publish = slow  # type: ignore[assignment,method-assign]
    await world.submit(task)
    await reached.wait()
    await worker.supervisor.drain(0)
    assert await world.steps(task) == [1]
    assert len(provider.requests) == 1


async def test_a_draining_worker_begins_nothing(world: World) -> None:
    provider, other, task = Played(ANSWER, hold=True), Played(ANSWER), world.task()
    worker = await world.worker(provider)
    await world.submit(task)
    await world.submit(task)  # waits in the same process for the first
    await provider.called()

    async def both_held() -> bool:
        return worker.supervisor.held == 2

    await world.until(both_held)
    draining = asyncio.create_task(worker.supervisor.drain(0.05))
    await world.worker(other)
    await world.heard.end(task.task_id)
    await draining
    assert (len(provider.requests), len(other.requests)) == (1, 1)


async def test_a_run_that_is_lost_stops_and_publishes_nothing(world: World) -> None:
    provider, task = Played(ANSWER, hold=True), world.task()
    worker = await world.worker(provider)
    await world.submit(task)
    await provider.called()
    await world.owner.execute("UPDATE runtime.runs SET fence = 9, lease_until = now() + interval '1h'")

    async def cut() -> bool:
        return bool(world.heard.usage(task.task_id))

    await world.until(cut)

    async def forgotten() -> bool:
        return not worker.supervisor._runs

    await world.until(forgotten)
    assert world.heard.ends(task.task_id) == []
    (record,) = world.heard.usage(task.task_id)
    assert (record.fence, record.estimated) == (1, True)
    assert (await world.run_row(task))["status"] == "running"


async def test_redis_tells_a_run_that_it_was_fenced_off(world: World) -> None:
    provider, task = HeldAt(2, COMPUTE, ANSWER), world.task()
    worker = await world.worker(provider, lease=60)
    await world.submit(task)
    await provider.called(2)
    (run,) = worker.supervisor._runs.values()
    await world.state.xadd(run.log.key, {"e": "{}"}, id="7-1")
    run.log.emit("usage", {})

    async def stopped() -> bool:
        return run._stop_reason is StopReason.LOST

    await world.until(stopped)
