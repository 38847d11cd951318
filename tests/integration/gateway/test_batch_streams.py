"""One stream for a whole batch: each task begins and ends in it once, though gateways and clients come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from common import batches
from common.contracts import RunFinished
from common.redis import Client
from gateway.batch_streams import Told
from tests.integration.gateway.batching import Events, follow, questions, recorded, recording, submit
from tests.integration.gateway.conftest import Running, Tenant, forget, running
from tests.stage import Stage, eventually, pipelined


@pytest.fixture(autouse=True)
async def persisting(stage: Stage) -> AsyncIterator[None]:
    async with recording(stage):
        yield


async def _begin(gateway: Running, tenant: Tenant, batch: dict[str, Any], *places: int) -> None:
    """As a worker does."""
    for place in places:
        task = UUID(batch["tasks"][place]["id"])
        await gateway.database.execute(
            "SELECT runtime.acquire($1, $2, 'pro', 'w', interval '1 minute')", task, tenant.id
        )


async def _end(
    gateway: Running, tenant: Tenant, batch: dict[str, Any], *places: int, state: Client | None = None
) -> None:
    for place in places:
        task, at = UUID(batch["tasks"][place]["id"]), datetime.now(UTC)
        outcome = RunFinished(
            task_id=task, tenant_id=tenant.id, tier="pro", fence=1, status="completed", output=f"Answer {place}.",
            finished_at=at,
        )  # fmt: skip
        finish = "SELECT runtime.finish($1, 1, 'completed', $2, $3)"
        assert await gateway.database.fetchval(finish, task, outcome.encode(), at)
    if state is not None:
        await batches.ring(pipelined(state), tenant.id, UUID(batch["id"]))


async def test_every_task_begins_and_ends_once_with_its_result(gateway: Running, state: Client) -> None:
    tenant = await gateway.tenant()
    batch = (await submit(gateway, tenant, questions(4))).json()
    await recorded(gateway, batch)
    following = asyncio.create_task(follow(gateway, tenant, batch))
    for place in range(4):
        await _begin(gateway, tenant, batch, place)
        await _end(gateway, tenant, batch, place, state=state)
    async with asyncio.timeout(20):
        events = await following
    assert [data["index"] for data in events.of("status")] == [0, 1, 2, 3]
    results = events.of("result")
    assert [(data["index"], data["status"], data["output"]) for data in results] == [
        (place, "completed", f"Answer {place}.") for place in range(4)
    ]
    assert [data["task_id"] for data in results] == [task["id"] for task in batch["tasks"]]
    ended = [data["ended"] for data in events.of("progress")]
    assert ended == sorted(ended)
    assert ended[-1] == 4
    assert events.all[-1][1] == "done"
    assert events.all[-1][2]["counts"]["completed"] == 4


async def test_a_stream_goes_on_at_another_gateway_though_redis_was_lost(
    gateway: Running, stage: Stage, state: Client
) -> None:
    tenant = await gateway.tenant()
    batch = (await submit(gateway, tenant, questions(6))).json()
    await recorded(gateway, batch)
    await _begin(gateway, tenant, batch, 0, 1, 2)
    await _end(gateway, tenant, batch, 1)
    # Three that have begun, one that has ended, and the first progress.
    seen = await follow(gateway, tenant, batch, until=5)
    await _end(gateway, tenant, batch, 0, 2)
    await _begin(gateway, tenant, batch, 3, 4)
    await forget(state, tenant)
    async with running(stage) as another:
        following = asyncio.create_task(follow(another, tenant, batch, seen.last_id))
        await _end(gateway, tenant, batch, 3, 4)
        await _begin(gateway, tenant, batch, 5)
        await _end(gateway, tenant, batch, 5)
        async with asyncio.timeout(30):
            rest = await following
    for kind, times in (("status", 6), ("result", 6), ("done", 1)):
        told = [data.get("index") for data in (*seen.of(kind), *rest.of(kind))]
        assert len(told) == len(set(told)) == times, f"{kind}: without gap or repeat"
    last = await follow(gateway, tenant, batch, rest.last_id)
    assert last.all == [], "who has heard the end is told nothing more"


async def test_resuming_from_any_event_tells_exactly_the_rest(gateway: Running) -> None:
    tenant = await gateway.tenant()
    batch = (await submit(gateway, tenant, questions(5))).json()
    await recorded(gateway, batch)
    await _begin(gateway, tenant, batch, *range(5))
    await _end(gateway, tenant, batch, *range(5))
    whole = await follow(gateway, tenant, batch)
    named = [(one, kind, data) for one, kind, data in whole.all if one is not None]
    for place, (last, _, _) in enumerate(named[:-1]):
        rest = await follow(gateway, tenant, batch, last)
        assert [one for one in rest.all if one[0] is not None] == named[place + 1 :]


async def test_what_is_told_together_is_told_in_the_order_of_the_batch(stage: Stage) -> None:
    # However PostgreSQL comes by it: it may begin with all that a large tenant has, and changes its mind later.
    planned = f"{stage.login('gateway')}?enable_nestloop=off&enable_mergejoin=off"
    async with running(stage, postgres=planned) as gateway:
        tenant = await gateway.tenant()
        many, few = [(await submit(gateway, tenant, questions(count))).json() for count in (60, 5)]
        for batch in (many, few):
            await recorded(gateway, batch)
            for begun_or_ended in (_begin, _end):
                await begun_or_ended(gateway, tenant, batch, *reversed(range(batch["size"])))
        await gateway.database.execute("ANALYZE history.tasks, runtime.runs")
        whole = await follow(gateway, tenant, few)
    assert [data["index"] for data in whole.of("result")] == list(range(5))


async def test_a_gateway_that_stops_ends_its_streams_and_they_are_resumed(stage: Stage, state: Client) -> None:
    async with running(stage) as first:
        tenant = await first.tenant()
        batch = (await submit(first, tenant, questions(2))).json()
        await recorded(first, batch)
        await _begin(first, tenant, batch, 0)
        seen = Events()
        async with first.client.stream("GET", batch["links"]["events"], headers=tenant.headers) as response:
            reading = asyncio.create_task(seen.read(response))

            async def told() -> bool:
                return len(seen.all) == 2

            await eventually(told)
            first.gateway.hub.close()
            async with asyncio.timeout(10):
                await reading
    assert [kind for _, kind, _ in seen.all] == ["status", "progress"]
    async with running(stage) as second:
        await _end(second, tenant, batch, 0)
        await _begin(second, tenant, batch, 1)
        await _end(second, tenant, batch, 1)
        rest = await follow(second, tenant, batch, seen.last_id)
    assert [data["index"] for data in rest.of("status")] == [1]
    assert [data["index"] for data in rest.of("result")] == [0, 1]


async def test_many_streams_need_no_connection_of_their_own(gateway: Running, state: Client) -> None:
    tenant = await gateway.tenant()
    batch = (await submit(gateway, tenant, questions(2))).json()
    await recorded(gateway, batch)

    async def connections() -> int:
        return len(await state.client_list())

    before = await connections()
    following = [asyncio.create_task(follow(gateway, tenant, batch)) for _ in range(30)]

    async def heard() -> bool:
        ((_, readers),) = await state.pubsub_numsub(batches.channel(tenant.id, UUID(batch["id"])))
        return bool(readers == 1)

    await eventually(heard)
    # Others use the server too.
    assert await connections() - before < 15
    await _begin(gateway, tenant, batch, 0, 1)
    await _end(gateway, tenant, batch, 0, 1, state=state)
    async with asyncio.timeout(20):
        for events in await asyncio.gather(*following):
            assert len(events.of("result")) == 2


@pytest.mark.parametrize("named", ["?", "1-5", "_" * 401, "____", "AAAAAAAB"])
async def test_an_id_of_no_event_of_the_batch_is_refused(gateway: Running, named: str) -> None:
    tenant = await gateway.tenant()
    batch = (await submit(gateway, tenant, questions(2))).json()
    response = await gateway.client.get(batch["links"]["events"], headers=tenant.headers | {"Last-Event-ID": named})
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "Last-Event-ID")


def test_what_was_told_survives_being_an_id() -> None:
    told = Told(1000)
    for place in range(0, 1000, 3):
        told.note(place, ended=False)
        told.note(place, ended=place % 2 == 0)
    again = Told.parse(str(told), 1000)
    assert again.open == told.open
    assert [again.begun(place) for place in range(1000)] == [told.begun(place) for place in range(1000)]
    assert not again.over
    again.note_over()
    assert Told.parse(str(again), 1000).over
    assert len(str(again)) <= 400
