"""Answers that are given again, and requests that are asked once, with a real Redis between real workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import pytest

from agent_worker.providers.base import TextDelta, ToolCall, TransientError
from agent_worker.providers.scripted import Scripted
from agent_worker.response_cache import Responses
from agent_worker.stopping import StopReason
from common import redis
from common.contracts import RunFinished, TaskSubmitted
from common.pipelining import Pipelined
from common.redis import Client
from tests.integration.agent_worker.proxy import proxied
from tests.integration.agent_worker.test_worker_providers import connected
from tests.integration.agent_worker.test_worker_resilience import calls, events
from tests.integration.agent_worker.world import FIRST, Played, Said, World
from tests.servers import Servers

COMPUTE = (TextDelta("Let me see. "), ToolCall("c1", "calculator", {"expression": "2 * 21"}))
ANSWER = (TextDelta("It is "), TextDelta("42."))


@asynccontextmanager
async def cache_at(url: str, seconds: float = 600) -> AsyncIterator[tuple[Responses, Client]]:
    async with redis.client(url, timeout=1.0, connections=2) as client:
        yield Responses(Pipelined(client, 1.0), seconds), client


@pytest.fixture
async def cache(servers: Servers) -> AsyncIterator[tuple[Responses, Client]]:
    async with cache_at(servers.redis_cache_url) as made:
        yield made


async def ended(world: World, task: TaskSubmitted) -> RunFinished:
    await world.submit(task)
    return await world.heard.end(task.task_id, deadline=30)


def again(task: TaskSubmitted, **changes: Any) -> TaskSubmitted:
    """Another task of the same tenant that asks the same."""
    return task.model_copy(update={"task_id": uuid4(), **changes})


async def keys(client: Client, task: TaskSubmitted, kind: str = "") -> list[bytes]:
    return [key async for key in client.scan_iter(match=f"answer:{{{task.tenant_id}}}:*{kind}", count=10_000)]


async def test_a_hit_streams_as_usual_and_costs_nothing(world: World, cache: tuple[Responses, Client]) -> None:
    provider, task = Played(COMPUTE, ANSWER), world.task(temperature=0.0)
    await world.worker(provider, responses=cache[0])
    first, second = await ended(world, task), await ended(world, repeated := again(task))
    assert len(provider.requests) == 2  # the steps of the first
    assert (first.cached, second.cached) == (False, True)
    assert (second.status, second.output, second.steps) == ("completed", first.output, first.steps)
    assert second.usage.model_dump(exclude_defaults=True) == {"cached_calls": 2}

    log = events(world, second)
    assert [e.type for e in log if e.type != "token"] == [e.type for e in events(world, first) if e.type != "token"]
    assert "".join(e.data["text"] for e in log if e.type == "token") == "Let me see. It is 42."
    assert [e.data for e in log if e.type == "usage"] == [{"cached_calls": 1, "estimated": False, "cached": True}] * 2
    assert (log[-1].type, log[-1].data["cached"]) == ("done", True)

    # No call was made: nothing was held, and there is nothing to be settled. The step before was saved all the same.
    assert await world.holds(repeated) == set()
    assert world.heard.usage(repeated.task_id) == []
    assert await world.steps(repeated) == [1]


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": None},
        {"temperature": 0.5},
        {"no_store": True},
        {"max_output_tokens": 7},
        {"agent": "hurried"},
        {"response_schema": {"type": "object", "properties": {"a": {"type": "string"}}}},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_what_is_not_the_same_is_asked(
    world: World, cache: tuple[Responses, Client], changes: dict[str, Any]
) -> None:
    provider, task = Played((TextDelta('{"a": "b"}'),)), world.task(temperature=0.0)
    await world.worker(provider, responses=cache[0])
    await ended(world, task)
    assert not (await ended(world, again(task, **changes))).cached
    assert len(provider.requests) == 2


async def test_another_tenants_answers_are_not_seen(world: World, cache: tuple[Responses, Client]) -> None:
    provider = Played(ANSWER)
    await world.worker(provider, responses=cache[0])
    for _ in range(2):
        assert not (await ended(world, world.task(temperature=0.0))).cached
    assert len(provider.requests) == 2


async def test_a_conversation_leaves_no_copies(world: World, cache: tuple[Responses, Client]) -> None:
    provider, task = Played(ANSWER), world.task(temperature=0.0, conversation_id=uuid4())
    await world.worker(provider, responses=cache[0])
    await ended(world, task)
    assert await keys(cache[1], task) == []


async def test_identical_requests_in_flight_are_asked_once(world: World, cache: tuple[Responses, Client]) -> None:
    provider, task = Played(ANSWER, hold=True), world.task(temperature=0.0)
    for _ in range(2):
        await world.worker(provider, responses=cache[0], slots=2)
    tasks = [task, again(task), again(task)]
    for one in tasks:
        await world.submit(one)

    async def the_others_wait() -> bool:
        logs = [await world.stream(one) for one in tasks]
        return sum(any(e.data.get("waiting_for") == "same_request" for e in log) for log in logs) == 2

    await world.until(the_others_wait, 30)
    provider.go.set()
    ends = [await world.heard.end(one.task_id, deadline=30) for one in tasks]
    assert {end.output for end in ends} == {"It is 42."}
    assert sorted(end.cached for end in ends) == [False, True, True]
    assert len(provider.requests) == 1
    assert await keys(cache[1], task, ":asked") == []


async def test_who_waits_goes_on_where_the_other_was_cut(world: World, cache: tuple[Responses, Client]) -> None:
    provider, task = Played(ANSWER, hold=True), world.task(temperature=0.0)
    worker = await world.worker(provider, responses=cache[0])
    await world.submit(task)
    await provider.called()
    await world.submit(waiting := again(task))

    async def waits() -> bool:
        return any(e.data.get("waiting_for") == "same_request" for e in await world.stream(waiting))

    await world.until(waits, 30)
    worker.supervisor._runs[task.task_id].stop(StopReason.CANCELLED)
    await provider.called(2)
    provider.go.set()
    end = await world.heard.end(waiting.task_id, deadline=30)
    assert (end.status, end.cached) == ("completed", False)


async def test_and_where_it_died(world: World, cache: tuple[Responses, Client]) -> None:
    """A claim that nobody renews: its holder is gone."""
    responses, client = cache
    provider, task = Played(ANSWER), world.task(temperature=0.0)
    await world.worker(provider, responses=responses)
    await ended(world, task)
    (key,) = await keys(client, task)
    await client.delete(key)
    await client.set(key + b":asked", b"somebody", px=700)
    end = await ended(world, again(task))
    assert (end.status, end.cached, len(provider.requests)) == ("completed", False, 2)


async def test_and_where_it_failed(world: World, cache: tuple[Responses, Client]) -> None:
    said: list[Said] = [(TransientError("provider_unavailable", "down"),), ANSWER]
    answers, task = iter(said), world.task(temperature=0.0)
    await world.worker(Scripted(lambda _: next(answers)), responses=cache[0])
    end = await ended(world, task)  # its retry is the next to ask
    assert (end.status, end.output, end.cached) == ("completed", "It is 42.", False)
    assert (await ended(world, again(task))).cached


async def test_what_does_not_match_is_not_kept(world: World, cache: tuple[Responses, Client]) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    provider, task = Played(ANSWER), world.task(temperature=0.0, response_schema=schema)
    await world.worker(provider, responses=cache[0])
    assert (await ended(world, task)).status == "failed"
    assert await keys(cache[1], task) == []


async def test_it_is_bounded_in_size_and_life(world: World, servers: Servers) -> None:
    async with cache_at(servers.redis_cache_url, seconds=100) as (responses, client):
        provider, small = Played(ANSWER), world.task(temperature=0.0)
        await world.worker(provider, responses=responses)
        await ended(world, small)
        (key,) = await keys(client, small)
        assert 0 < await client.ttl(key) <= 100
        provider.answers = ((TextDelta("x" * 70_000),),)
        large = world.task(temperature=0.0)
        assert (await ended(world, large)).status == "completed"
        assert await keys(client, large) == []


async def test_what_somebody_else_has_put_there_is_no_answer(world: World, cache: tuple[Responses, Client]) -> None:
    responses, client = cache
    provider, task = Played(ANSWER), world.task(temperature=0.0)
    await world.worker(provider, responses=responses)
    await ended(world, task)
    (key,) = await keys(client, task)
    await client.set(key, b"something else", px=60_000)
    assert (await ended(world, again(task))).output == "It is 42."
    await client.delete(key)
    await client.lpush(key, b"of another type")
    assert (await ended(world, again(task))).output == "It is 42."
    await client.delete(key)


async def test_without_redis_there_is_no_cache_and_no_error(world: World, servers: Servers) -> None:
    address = urlsplit(servers.redis_cache_url)
    async with proxied(address.hostname or "", address.port or 6379) as proxy:
        url = address._replace(netloc=f"127.0.0.1:{proxy.port}").geturl()
        async with cache_at(url) as (responses, _):
            provider, task = Played(ANSWER, hold=True), world.task(temperature=0.0)
            await world.worker(provider, responses=responses)
            await world.submit(task)
            await provider.called()
            proxy.cut()  # in the middle of a call that has a claim
            provider.go.set()
            ends = [await world.heard.end(task.task_id, deadline=30), await ended(world, again(task))]
            assert [(end.status, end.cached) for end in ends] == [("completed", False)] * 2
            proxy.restore()


async def test_through_a_real_sdk(
    world: World, cache: tuple[Responses, Client], simulator: str, control: httpx2.AsyncClient
) -> None:
    provider = connected("messages", simulator, silence=60)
    await world.worker(live={"messages": provider}, responses=cache[0])
    await control.delete("/control/audit")
    task = world.task('[[sim tool=calculator:{"expression":"1+1"} text="two"]] hi', model=FIRST, temperature=0.0)
    first, second = await ended(world, task), await ended(world, again(task))
    assert (first.output, second.output, second.cached) == ("two", "two", True)
    assert await calls(control) == {FIRST: 2}
    await provider.close()
