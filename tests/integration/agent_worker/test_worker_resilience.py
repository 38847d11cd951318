"""Models that fail, through both real SDKs against the simulator: who answers instead, and when the first is back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx2
import pytest

from agent_worker.providers.base import Provider, TransientError
from agent_worker.resilience.advice import CLOSING, key_of
from agent_worker.resilience.breakers import Breaker, Breakers
from agent_worker.resilience.circuit import CircuitOpenError, Rules
from agent_worker.resilience.deadlines import Deadlines, Timed
from common import redis
from common.contracts import RunFinished
from common.contracts.events import StreamEvent
from common.contracts.runs import Fallback
from common.lifecycle import stop
from common.pipelining import Pipelined
from tests.integration.agent_worker.proxy import Proxy, proxied
from tests.integration.agent_worker.test_worker_providers import audited, connected
from tests.integration.agent_worker.world import FIRST, SECOND, TEST_CATALOGUE, World, redis_through
from tests.servers import Servers
from tests.stage import eventually

SHORT = Deadlines(first_token=0.3, total=60)
QUICK = Rules(minimum=4, window=600, rest=0.3, longest_rest=1.0, proofs=2)
DOWN = TransientError("provider_unavailable", "down")


@pytest.fixture
async def live(simulator: str) -> AsyncIterator[dict[str, Provider]]:
    made = {api: connected(api, simulator, silence=60) for api in ("messages", "chat")}
    yield made
    for provider in made.values():
        await provider.close()


async def breaks(control: httpx2.AsyncClient, model: str, **reply: Any) -> None:
    """Each call of the model meets with this fault."""
    response = await control.post("/control/rules", json={"match": {"model": model}, "reply": reply})
    response.raise_for_status()


async def calls(control: httpx2.AsyncClient) -> Counter[str]:
    """How often each model was called since the audit was cleared."""
    answer: dict[str, Any] = (await control.get("/control/audit")).json()
    return Counter(call["model"] for call in answer["calls"])


def events(world: World, end: RunFinished) -> list[StreamEvent]:
    """The whole log."""
    return [e for p in world.heard.progress(end.task_id) for e in p.events] + list(end.events)


async def held_for(world: World, task_id: UUID) -> Counter[str]:
    """The models for which money was held, and how often."""
    rows = await world.owner.fetch("SELECT model FROM billing.holds WHERE task_id = $1", task_id)
    return Counter(row["model"] for row in rows)


async def ran(world: World, text: str = "hello", **changes: Any) -> RunFinished:
    """A task of the guarded model, to its end."""
    task = world.task(text, **{"model": FIRST, **changes})
    await world.submit(task)
    return await world.heard.end(task.task_id, deadline=30)


FAULTS: list[tuple[dict[str, Any], str, int]] = [
    ({"fault": "529"}, "provider_unavailable", 2),
    ({"fault": "500"}, "provider_unavailable", 2),
    ({"fault": "429", "retry_after": 60}, "rate_limited", 1),
    ({"fault": "401"}, "provider_refused_credentials", 1),
    ({"fault": "stall", "tokens": 20}, "provider_timeout", 2),
    ({"fault": "cut", "fault_after": 3, "tokens": 20}, "provider_unavailable", 2),
    ({"fault": "malformed", "fault_after": 3, "tokens": 20}, "provider_unavailable", 2),
    ({"fault": "error_event", "fault_after": 3, "tokens": 20}, "provider_unavailable", 2),
]


@pytest.mark.parametrize(("reply", "reason", "tries"), FAULTS, ids=[str(reply["fault"]) for reply, _, _ in FAULTS])
async def test_another_provider_answers(
    world: World,
    control: httpx2.AsyncClient,
    live: dict[str, Provider],
    reply: dict[str, Any],
    reason: str,
    tries: int,
) -> None:
    await breaks(control, FIRST, **reply)
    if reply["fault"] == "stall":  # it says nothing however long one waits, so this is no race
        live["messages"] = Timed(live["messages"], SHORT)
    await world.worker(live=live)
    end = await ran(world, '[[sim text="from the other"]] hi')
    assert (end.status, end.output, end.provider, end.model) == ("completed", "from the other", "openai", SECOND)
    assert end.fallbacks == (Fallback(step=1, from_model=FIRST, to_model=SECOND, reason=reason),)

    log = events(world, end)
    moves = [event.data for event in log if event.type == "status" and "fallback" in event.data]
    told = {"from_model": FIRST, "to_model": SECOND, "reason": reason}
    assert moves == [{"status": "running", "step": 1, "fallback": told}]
    last_reset = max(number for number, event in enumerate(log) if event.type == "reset")
    assert "".join(e.data["text"] for e in log[last_reset:] if e.type == "token") == "from the other"
    assert log[last_reset].data["after"] == "1-1"

    # Each call has its own hold, at the price of the model that it is of, and its own record.
    assert await held_for(world, end.task_id) == {FIRST: tries, SECOND: 1}
    usage = world.heard.usage(end.task_id)
    assert [record.model for record in usage] == [FIRST] * tries + [SECOND]
    assert len({record.attempt_id for record in usage}) == tries + 1
    assert usage[-1].provider == "openai"


async def test_a_provider_that_is_not_there_at_all(
    world: World, simulator: str, unused_tcp_port: int, control: httpx2.AsyncClient
) -> None:
    gone, there = connected("messages", f"http://127.0.0.1:{unused_tcp_port}"), connected("chat", simulator, silence=60)
    await world.worker(live={"messages": gone, "chat": there})
    end = await ran(world)
    assert (end.status, end.model, len(end.fallbacks)) == ("completed", SECOND, 1)
    await gone.close()
    await there.close()


async def test_both_down_is_a_clear_error(world: World, control: httpx2.AsyncClient, live: dict[str, Provider]) -> None:
    await breaks(control, FIRST, fault="529")
    await breaks(control, SECOND, fault="500")
    await world.worker(live=live)
    end = await ran(world)
    assert end.error is not None
    assert (end.status, end.error.type, end.model) == ("failed", "provider_unavailable", SECOND)
    assert "the provider is not available" in end.error.message
    assert [fallback.to_model for fallback in end.fallbacks] == [SECOND]
    assert await held_for(world, end.task_id) == {FIRST: 2, SECOND: 4}


async def test_both_down_is_tried_again_later_and_goes_on_when_one_is_back(
    world: World, control: httpx2.AsyncClient, live: dict[str, Provider]
) -> None:
    await breaks(control, FIRST, fault="529")
    await breaks(control, SECOND, fault="500")
    worker = await world.worker(live=live, provider_retries=15)
    task = world.task('[[sim text="after all"]] hi', model=FIRST)
    await world.submit(task)

    async def deferred() -> bool:
        row = await world.run_row(task)
        return bool(row and row["deferrals"] >= 1 and row["attempts"] == 0)

    await world.until(deferred, 30)
    await worker.idle()  # it takes up no slot while it waits
    await control.delete("/control/rules")
    end = await world.heard.end(task.task_id, 60)
    assert (end.status, end.output, end.attempts) == ("completed", "after all", 1)

    async def told() -> list[Any]:
        return [event for event in await world.stream(task) if event.data.get("deferred") == "provider_unavailable"]

    await world.until(told)
    assert world.heard.dead == []


async def test_both_down_for_good_is_a_clear_error_and_a_dead_letter(
    world: World, control: httpx2.AsyncClient, live: dict[str, Provider]
) -> None:
    await breaks(control, FIRST, fault="529")
    await breaks(control, SECOND, fault="500")
    await world.worker(live=live, provider_retries=2)
    task = world.task("hi", model=FIRST)
    await world.submit(task)
    end = await world.heard.end(task.task_id, 60)
    assert end.error is not None
    assert (end.status, end.error.type) == ("failed", "provider_unavailable")
    assert end.error.message.endswith("it was tried again later 2 times")

    async def dead() -> bool:
        return [letter.message.correlation_id for letter in world.heard.dead] == [str(task.task_id)]

    await world.until(dead, 30)
    assert len(world.heard.ends(task.task_id)) == 1
    assert {record.attempt_id for record in world.heard.usage(task.task_id)} == await world.holds(task)


async def test_a_tenants_own_mistake_goes_nowhere_else_and_opens_nothing(
    world: World, control: httpx2.AsyncClient, live: dict[str, Provider]
) -> None:
    await breaks(control, FIRST, fault="400")
    worker = await world.worker(live=live, rules=QUICK)
    for _ in range(QUICK.minimum + 1):
        end = await ran(world)
        assert end.error is not None
        assert (end.status, end.error.type, end.fallbacks) == ("failed", "provider_refused_request", ())
    assert worker.breakers.of(FIRST).circuit.slices == ()
    assert worker.breakers.of(FIRST).circuit.opened == 0


async def test_a_rate_limit_opens_nothing(world: World, control: httpx2.AsyncClient, live: dict[str, Provider]) -> None:
    await breaks(control, FIRST, fault="429", retry_after=0.01)
    worker = await world.worker(live=live, rules=QUICK)
    ends = [await ran(world) for _ in range(QUICK.minimum)]
    assert {end.model for end in ends} == {SECOND}
    assert worker.breakers.of(FIRST).circuit.opened == 0


async def test_the_circuit_opens_is_probed_and_closes(
    world: World, control: httpx2.AsyncClient, live: dict[str, Provider]
) -> None:
    await breaks(control, FIRST, fault="529")
    worker = await world.worker(live=live, rules=Rules(minimum=4, rest=600, longest_rest=600))
    breaker = worker.breakers.of(FIRST)
    for _ in range(2):  # two calls each
        await ran(world)
    assert breaker.circuit.opened == 1

    await control.delete("/control/audit")
    end = await ran(world)
    assert (end.status, end.model, end.fallbacks[0].reason) == ("completed", SECOND, "provider_unavailable")
    assert await calls(control) == {SECOND: 1}  # the first was left alone: nothing was called, or held
    assert await held_for(world, end.task_id) == {SECOND: 1}
    assert "reset" not in {event.type for event in end.events}  # nothing had been said

    await control.delete("/control/rules")
    await world.state.delete(key_of("anthropic", FIRST))  # as if the rest were over
    breaker.circuit = breaker.circuit.__class__(QUICK, opened=1)
    answered = [await ran(world) for _ in range(QUICK.proofs)]
    assert {end.model for end in answered} == {FIRST}
    assert breaker.circuit.opened == 0
    assert (await ran(world)).model == FIRST


async def test_without_a_fallback_a_run_waits_for_the_rest_to_be_over(
    world: World, control: httpx2.AsyncClient, live: dict[str, Provider]
) -> None:
    # Long enough for the run to begin meanwhile, however slow the machine is.
    worker = await world.worker(live=live, rules=replace(QUICK, rest=5.0, longest_rest=5.0))
    breaker = worker.breakers.of(SECOND)
    for _ in range(QUICK.minimum):
        breaker.left(await breaker.enter(), DOWN)
    end = await ran(world, model=SECOND)
    assert (end.status, end.fallbacks) == ("completed", ())
    waits = [event.data for event in end.events if event.data.get("waiting_for") == "provider"]
    assert waits
    assert "reset" not in {event.type for event in end.events}
    assert await held_for(world, end.task_id) == {SECOND: 1}


async def test_the_rules_pick_the_model_and_say_why(
    world: World, control: httpx2.AsyncClient, live: dict[str, Provider]
) -> None:
    await world.worker(live=live)
    simple = await ran(world, "hello", model="auto")
    strong = await ran(world, "Please prove it.", model="auto")
    assert (simple.model, strong.model) == ("claude-haiku-4-5", SECOND)
    assert strong.routing is not None
    assert strong.routing.reason == "rule 1, class strong: the newest message says 'prove'"
    assert events(world, strong)[0].data["routing"] == {"model": SECOND, "reason": strong.routing.reason}
    assert (await ran(world)).routing is None


@pytest.mark.parametrize("model", [FIRST, SECOND], ids=["messages", "chat"])  # their names differ by process
async def test_a_model_that_calls_tools_for_ever_is_asked_to_wrap_up(
    world: World, control: httpx2.AsyncClient, live: dict[str, Provider], model: str
) -> None:
    await world.worker(live=live)
    said = '[[sim tool=calculator:{"expression":"1+1"} steps=50 text="as far as I know"]] hi'
    end = await ran(world, said, model=model, max_steps=3)
    assert (end.status, end.output, end.steps) == ("completed", "as far as I know", 3)
    log = events(world, end)
    wrapping = [event.data for event in log if "wrapping_up" in event.data]
    assert wrapping == [{"status": "running", "step": 3, "wrapping_up": "max_steps"}]
    assert sum(event.type == "tool_start" for event in log) == 2


@pytest.mark.parametrize("model", [FIRST, SECOND], ids=["messages", "chat"])
async def test_a_model_that_never_stops_talking_is_cut_and_what_came_is_the_answer_and_billed(
    world: World, control: httpx2.AsyncClient, live: dict[str, Provider], model: str
) -> None:
    await world.worker(live=live)
    task = world.task("[[sim tokens=4000 tps=400]] hi", model=model, agent="terse", max_output_tokens=4000)
    await world.submit(task)
    end = await world.heard.end(task.task_id, deadline=30)
    assert (end.status, end.events[-1].data["stop_reason"]) == ("completed", "max_output_bytes")
    assert end.output is not None
    assert 200 < len(end.output.encode()) <= 300
    (usage,) = world.heard.usage(task.task_id)
    assert usage.estimated
    assert len(end.output) // 4 <= usage.usage.output_tokens <= 300
    assert end.usage == usage.usage

    call = await audited(control, usage.attempt_id)
    assert call["outcome"] == "client_gone"
    assert call["output_tokens"] < 4000


# ---- Between workers


@pytest.fixture
async def cache(servers: Servers) -> AsyncIterator[Proxy]:
    address = urlsplit(servers.redis_state_url)
    async with proxied(address.hostname or "", address.port or 6379) as proxy:
        yield proxy


@pytest.fixture
async def workers(servers: Servers, cache: Proxy) -> AsyncIterator[tuple[Breakers, Breakers]]:
    """The circuits of two processes that share a Redis, which may be cut."""
    async with AsyncExitStack() as stack:
        made: list[Breakers] = []
        for _ in range(2):
            url = redis_through(servers, cache.port)
            client = await stack.enter_async_context(redis.client(url, timeout=1.0, connections=2))
            breakers = Breakers(Pipelined(client, 1.0), TEST_CATALOGUE, QUICK)
            stack.push_async_callback(stop, asyncio.create_task(breakers.run()))
            await client.delete(key_of("anthropic", FIRST))
            made.append(breakers)
        yield made[0], made[1]


@pytest.fixture
def pair(workers: tuple[Breakers, Breakers]) -> tuple[Breaker, Breaker]:
    """Its circuit in both."""
    return workers[0].of(FIRST), workers[1].of(FIRST)


async def opened(breaker: Breaker) -> None:
    for _ in range(QUICK.minimum):
        breaker.left(await breaker.enter(), DOWN)
    assert breaker.circuit.opened


async def let_through(breaker: Breaker) -> Any:
    """Wait until a call is let through."""

    async def tried() -> Any:
        try:
            return await breaker.enter()
        except CircuitOpenError:
            return None

    return await eventually(tried, 30)


async def test_what_one_worker_finds_out_the_others_need_not(pair: tuple[Breaker, Breaker]) -> None:
    first, second = pair
    await opened(first)

    async def heard() -> bool:
        return second.circuit.opened > 0

    await eventually(heard, 30)
    for _ in range(QUICK.proofs):  # whoever probes, it counts for the one that probed
        passage = await let_through(first)
        assert passage.probe
        first.left(passage, None)
    assert first.circuit.opened == 0

    async def closed() -> bool:
        return second.circuit.opened == 0

    await eventually(closed, 30)


async def test_a_provider_with_other_keys_is_trusted_again_by_all(
    workers: tuple[Breakers, Breakers], pair: tuple[Breaker, Breaker]
) -> None:
    first, second = pair
    await opened(first)

    async def heard() -> bool:
        return second.circuit.opened > 0

    await eventually(heard, 30)
    workers[0].trust("openai")
    assert first.circuit.opened, "another provider's keys"
    workers[0].trust("anthropic")
    assert not (await first.enter()).probe

    async def closed() -> bool:
        return second.circuit.opened == 0

    await eventually(closed, 30)


async def test_all_workers_together_make_one_probe_at_a_time(pair: tuple[Breaker, Breaker]) -> None:
    first, second = pair
    await opened(first)

    async def heard() -> bool:
        return second.circuit.opened > 0

    await eventually(heard, 30)
    passage = await let_through(first)
    with pytest.raises(CircuitOpenError):
        await second.enter()
    first.leave(passage, None)  # cut: it has told nothing, and its place is free
    assert (await let_through(second)).probe


async def test_without_redis_each_goes_by_its_own_calls(pair: tuple[Breaker, Breaker], cache: Proxy) -> None:
    first, second = pair
    cache.cut()
    await opened(first)
    for _ in range(QUICK.proofs):
        passage = await let_through(first)
        assert passage.probe
        first.left(passage, None)
    assert first.circuit.opened == 0
    assert second.circuit.opened == 0
    cache.restore()


async def test_a_word_that_was_lost_keeps_nobody_from_probing(
    pair: tuple[Breaker, Breaker], cache: Proxy, world: World
) -> None:
    first, _ = pair
    first.untold = [CLOSING]
    await first.exchange()
    cache.cut()
    await opened(first)  # nobody hears of it: what Redis has says that it is closed
    await first.exchange()
    cache.restore()
    assert (await let_through(first)).probe


async def test_a_redis_that_was_emptied_or_has_something_else_there_changes_nothing(
    pair: tuple[Breaker, Breaker], world: World
) -> None:
    first, _ = pair
    await opened(first)
    await world.state.delete(key_of("anthropic", FIRST))
    await first.exchange()
    assert first.circuit.opened
    await world.state.set(key_of("anthropic", FIRST), "something else")
    await first.exchange()
    assert (await let_through(first)).probe
    await world.state.delete(key_of("anthropic", FIRST))
