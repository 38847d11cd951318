"""Providers' limits among workers, on a real Redis and through both SDKs against the simulator."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import pytest

from agent_worker.limiter.provider_limits import CallLimit, ModelLimit, ProviderLimits
from agent_worker.limiter.shared import Reservation
from agent_worker.providers.base import CallMeter, ModelRequest, ProviderError, Turn
from common import redis
from common.catalogue import Catalogue, Model
from common.contracts.usage import Usage
from common.lifecycle import stop
from common.pipelining import Pipelined
from tests.integration.agent_worker.proxy import proxied
from tests.integration.agent_worker.test_worker_providers import APIS, connected
from tests.integration.agent_worker.world import AGENTS, TIERS, World, model
from tests.servers import Servers
from tests.stage import eventually

PATIENCE = 10.0


def limited(**limits: int) -> tuple[Catalogue, Model]:
    """A catalogue whose one model nobody else has: its bucket is this test's own."""
    only = model(f"m-{uuid4().hex[:8]}", "messages").model_copy(update=limits)
    agent = AGENTS[0].model_copy(update={"model": only.name})
    return Catalogue(tiers=TIERS, models=(only,), agents=(agent,)), only


@dataclass
class Process:
    """What one worker process has of the limits."""

    limits: ProviderLimits
    model: Model
    granted: list[str] = field(default_factory=list)
    calls: list[asyncio.Task[Reservation]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    @property
    def shared(self) -> ModelLimit:
        return self.limits._models[self.model.name]

    def of(self, tier: str) -> CallLimit:
        return self.limits.of(tier, self.model)

    def call(self, tier: str, tokens: int = 10) -> asyncio.Task[Reservation]:
        """A call that asks to be made."""

        async def reserve() -> Reservation:
            reservation = await self.of(tier).reserve(tokens, lambda: self.told.append(tier))
            self.granted.append(tier)
            return reservation

        self.calls.append(asyncio.create_task(reserve()))
        return self.calls[-1]


@asynccontextmanager
async def process(url: str, catalogue: Catalogue, only: Model, workers: int = 2) -> AsyncIterator[Process]:
    """A process with a connection of its own."""
    async with redis.client(url, timeout=10.0, connections=2) as client:
        made = Process(ProviderLimits(Pipelined(client, 10.0), catalogue, workers), only)
        running = asyncio.create_task(made.limits.run())
        try:
            yield made
        finally:
            for call in made.calls:
                call.cancel()
            await asyncio.gather(*made.calls, return_exceptions=True)
            await stop(running)
            await client.delete(made.shared.bucket.key)


Two = tuple[Process, Process]
MakeTwo = Callable[..., Awaitable[Two]]


@pytest.fixture
async def two(servers: Servers) -> AsyncIterator[MakeTwo]:
    """Two processes with the same limits."""
    async with AsyncExitStack() as stack:

        async def make(**limits: int) -> Two:
            catalogue, only = limited(**limits)
            enter = stack.enter_async_context
            url = servers.redis_state_url
            return await enter(process(url, catalogue, only)), await enter(process(url, catalogue, only))

        yield make


async def until(condition: Callable[[], object]) -> None:
    async def holds() -> object:
        return condition()

    await eventually(holds, PATIENCE)


async def settled(*processes: Process) -> None:
    """Wait until whoever waits has been refused, and the others have their grants."""

    def everybody() -> bool:
        return all(len(p.granted) + len(p.shared.queue) == len(p.calls) for p in processes)

    await until(everybody)


def asking(name: str, text: str) -> ModelRequest:
    return ModelRequest(name, "", (Turn("user", ({"type": "text", "text": text},)),), (), 50, None, uuid4())


async def ask(simulator: str, api: str, limit: CallLimit, name: str, text: str = "hello") -> ProviderError | None:
    """A call through the SDK, accounted for as the worker does."""
    provider, meter = connected(api, simulator), CallMeter(heard=limit.heed)
    reservation = await limit.reserve(60, lambda: None)
    try:
        async with aclosing(provider.stream(asking(name, text), meter)) as stream:
            async for _ in stream:
                pass
    except ProviderError as error:
        meter.failure = error
    finally:
        limit.settle(reservation, meter)
        await provider.close()
    return meter.failure


async def test_two_processes_share_one_bucket(two: MakeTwo) -> None:
    ours, theirs = await two(requests_per_minute=20)
    for _ in range(12):
        ours.call("enterprise")
    await settled(ours)
    for _ in range(30):
        theirs.call("enterprise")
    await settled(ours, theirs)
    assert len(ours.granted) == 12
    assert 8 <= len(theirs.granted) <= 8 + PATIENCE / 3


async def test_a_free_flood_in_every_process_leaves_enterprise_its_part(two: MakeTwo) -> None:
    ours, theirs = await two(requests_per_minute=60)
    for _ in range(100):
        ours.call("free")
        theirs.call("free")
    await settled(ours, theirs)
    granted = ours.granted.count("free") + theirs.granted.count("free")
    assert 36 <= granted < 36 + PATIENCE
    # What is left is 40 %: one after the other, without a second in between, in which one more would fill.
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(ours.call("enterprise") for _ in range(20)))
    assert ours.granted.count("enterprise") == 20
    more = ours.granted.count("free") + theirs.granted.count("free") - granted
    assert more <= 1  # none but what may have been on its way: the level is below their watermark now


async def test_the_better_tier_goes_first_where_all_wait(two: MakeTwo) -> None:
    ours, theirs = await two(requests_per_minute=120)
    await asyncio.gather(*(ours.call("enterprise") for _ in range(120)))
    waiting = [theirs.call(tier) for tier in ("free", "pro", "enterprise", "enterprise")]
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*waiting[2:])
    assert theirs.granted == ["enterprise", "enterprise"]


@pytest.mark.parametrize("api", APIS)
async def test_limits_are_learned_from_either_familys_headers_and_passed_on(
    two: MakeTwo, api: str, simulator: str, control: httpx2.AsyncClient
) -> None:
    ours, theirs = await two()
    assert not ours.shared.bucket.known
    await control.put("/control/defaults", json={"rpm": 30, "tpm": 6_000})
    asked_at = time.monotonic()
    try:
        assert await ask(simulator, api, ours.of("pro"), ours.model.name) is None
    finally:
        await control.put("/control/defaults", json={})
    for process_ in (ours, theirs):
        bucket = process_.shared.bucket
        await until(lambda: bucket.known)  # noqa: B023
        assert (bucket.bucket.requests.limit, bucket.bucket.tokens.limit) == (30, 6_000)
        refilled = (time.monotonic() - asked_at) * 30 / 60
        assert bucket.bucket.requests.level <= 29.1 + refilled


async def test_a_retry_after_pauses_every_process(two: MakeTwo, simulator: str, control: httpx2.AsyncClient) -> None:
    ours, theirs = await two()
    failure = await ask(simulator, "chat", ours.of("free"), ours.model.name, "[[sim fault=429 retry_after=40]] hi")
    assert failure is not None
    await until(lambda: theirs.shared.bucket.known)
    call = theirs.call("enterprise")
    await settled(theirs)
    assert not call.done()
    bucket = theirs.shared.bucket.bucket
    assert 30 < bucket.paused_until - bucket.at <= 40


async def test_a_storm_of_refusals_shrinks_the_bucket_once_and_it_recovers(
    two: MakeTwo, simulator: str, control: httpx2.AsyncClient
) -> None:
    ours, theirs = await two(requests_per_minute=600, tokens_per_minute=600_000)
    fault = "[[sim fault=429 retry_after=0.5]] hi"
    failures = await asyncio.gather(
        *(ask(simulator, api, p.of("pro"), p.model.name, fault) for api in APIS for p in (ours, theirs) for _ in "abc")
    )
    assert all(failure is not None and failure.reason == "rate_limited" for failure in failures)
    bucket = ours.shared.bucket
    await until(lambda: bucket.bucket.factor < 1)
    assert 0.5 <= bucket.bucket.factor < 0.6
    assert bucket.bucket.requests.level < 300
    shrunk = bucket.bucket.factor
    await until(lambda: bucket.bucket.factor > shrunk)
    async with asyncio.timeout(PATIENCE):
        await theirs.call("enterprise")


async def test_an_overloaded_provider_is_left_alone_and_its_limit_stands(two: MakeTwo) -> None:
    ours, _ = await two(requests_per_minute=600)
    limit = ours.of("pro")
    for retry_after in (None, 30.0):
        reservation = await limit.reserve(10, lambda: None)
        meter = CallMeter(failure=ProviderError("provider_unavailable", "", retry_after=retry_after, refused=True))
        limit.settle(reservation, meter)
    bucket = ours.shared.bucket
    await until(lambda: bucket.bucket.paused_until > bucket.bucket.at)
    assert bucket.bucket.factor == 1.0


async def test_what_a_call_did_not_use_is_given_back_and_a_call_that_was_not_made_gives_all(two: MakeTwo) -> None:
    ours, theirs = await two(requests_per_minute=60, tokens_per_minute=6_000)
    used, unmade = await ours.call("pro", 4_000), await ours.call("pro", 800)
    ours.of("pro").settle(used, CallMeter(usage=Usage(input_tokens=90, output_tokens=10)))
    ours.of("pro").give_back(unmade)
    ours.of("pro").give_back(unmade)
    ours.of("pro").settle(used, CallMeter())
    await until(lambda: theirs.shared.bucket.bucket.tokens.level > 5_000)
    bucket = theirs.shared.bucket.bucket
    # A hundred tokens and a request are gone, and fill again: a hundred, and one, a second.
    assert 5_900 <= bucket.tokens.level <= 6_000
    assert 59 <= bucket.requests.level <= 60


async def test_a_bucket_that_redis_loses_does_not_begin_full(two: MakeTwo, servers: Servers) -> None:
    ours, _ = await two(requests_per_minute=20)
    await asyncio.gather(*(ours.call("enterprise") for _ in range(20)))
    async with redis.client(servers.redis_state_url, timeout=10.0, connections=1) as client:
        await client.delete(ours.shared.bucket.key)
    for _ in range(20):
        ours.call("enterprise")
    await settled(ours)
    assert len(ours.granted) <= 20 + PATIENCE / 3


async def test_without_redis_a_process_has_its_share_and_is_back_by_itself(servers: Servers) -> None:
    address = urlsplit(servers.redis_state_url)
    catalogue, only = limited(requests_per_minute=40)
    async with proxied(address.hostname or "", address.port or 6379) as proxy:
        user, at, _ = address.netloc.rpartition("@")
        through = address._replace(netloc=f"{user}{at}127.0.0.1:{proxy.port}").geturl()
        async with process(servers.redis_state_url, catalogue, only), process(through, catalogue, only) as ours:
            await ours.call("enterprise")
            proxy.cut()
            for _ in range(40):
                ours.call("enterprise")
            await settled(ours)
            # Half of forty, and what fills while the test waits.
            assert 19 <= len(ours.granted) <= 21 + PATIENCE / 3
            assert ours.shared.bucket._alone
            proxy.restore()
            await until(lambda: not ours.shared.bucket._alone)


async def test_a_call_that_is_cut_while_it_waits_leaves_nothing_behind(two: MakeTwo) -> None:
    ours, _ = await two(requests_per_minute=20)
    await asyncio.gather(*(ours.call("enterprise") for _ in range(20)))
    waiting = [ours.call("enterprise") for _ in range(5)]
    await settled(ours)
    for call in waiting:
        call.cancel()
    await asyncio.wait(waiting)
    assert len(ours.shared.queue) == 0


async def test_a_long_wait_is_told_once(two: MakeTwo) -> None:
    ours, _ = await two(requests_per_minute=20)
    await asyncio.gather(*(ours.call("enterprise") for _ in range(20)))
    call = ours.call("pro")
    await until(lambda: ours.told)
    assert ours.told == ["pro"]
    assert not call.done()


async def test_a_run_that_waits_for_the_provider_says_so_and_holds_no_money(world: World) -> None:
    limit = Closed()
    worker = await world.worker()
    runner = cast(Any, worker.runner)
    runner._equipment.limits._tiers["free", "claude-haiku-4-5"] = limit
    task = world.task()
    await world.submit(task)
    await asyncio.wait_for(limit.asked.wait(), PATIENCE)
    assert await world.holds(task) == set()
    limit.go.set()
    end = await world.heard.end(task.task_id)
    assert end.status == "completed"
    status = {"status": "running", "step": 1, "waiting_for": "provider"}
    assert [event.data for event in await world.stream(task) if event.type == "status"].count(status) == 1
    assert len(limit.settled) == len(await world.holds(task)) == 1


class Closed:
    """A limit that has no room until it is let go."""

    def __init__(self) -> None:
        self.asked, self.go = asyncio.Event(), asyncio.Event()
        self.settled: list[Reservation] = []

    async def reserve(self, tokens: int, on_long_wait: Callable[[], None]) -> Reservation:
        on_long_wait()
        self.asked.set()
        await self.go.wait()
        return Reservation(0.4)

    def give_back(self, reservation: Reservation) -> None:
        raise AssertionError("the call is made")

    def settle(self, reservation: Reservation, meter: CallMeter) -> None:
        self.settled.append(reservation)

    def heed(self, limits: object) -> None:
        raise AssertionError("the scripted provider says nothing of limits")
