"""Streams: each event once and in order, wherever it must be fetched from; or a gap that says so."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

from common import streams
from common.contracts import RunFinished
from common.contracts.events import StreamEvent
from common.redis import Client
from tests.integration.gateway.conftest import Running, Tenant, forget, running
from tests.integration.gateway.relay import relaying
from tests.stage import Stage, eventually, pipelined


def _event(fence: int, seq: int, kind: str = "token", **data: Any) -> StreamEvent:
    return StreamEvent.model_validate(
        {"fence": fence, "seq": seq, "type": kind, "at": datetime(2026, 1, 1, tzinfo=UTC), "data": data}
    )


def _run(length: int) -> list[StreamEvent]:
    """A whole run of one fence."""
    tokens = [_event(1, seq, text=str(seq)) for seq in range(2, length)]
    return [_event(1, 1, "start"), *tokens, _event(1, length, "done", status="completed")]


class ComeAgain(Exception):
    """A busy gateway's 503."""


class Reader:
    """Collects what one client is sent."""

    def __init__(self) -> None:
        self.received: list[tuple[str | None, str, dict[str, Any]]] = []
        self.pings = 0

    @property
    def ids(self) -> list[str | None]:
        """Of the events so far."""
        return [one[0] for one in self.received]

    async def has(self, count: int) -> None:
        """Wait for so many events."""

        async def enough() -> bool:
            return len(self.received) >= count

        await eventually(enough)

    async def read(self, response: httpx2.Response) -> None:
        """Read to the end."""
        fields: dict[str, str] = {}
        async for line in response.aiter_lines():
            if line.startswith(":"):
                self.pings += 1
            elif line:
                name, _, value = line.partition(": ")
                fields[name] = value
            else:
                if "data" in fields:
                    self.received.append((fields.get("id"), fields["event"], json.loads(fields["data"])))
                fields = {}


@asynccontextmanager
async def _following(
    gateway: Running, tenant: Tenant, task_id: UUID | str, **headers: str
) -> AsyncIterator[tuple[Reader, asyncio.Task[None]]]:
    reader = Reader()
    async with gateway.client.stream(
        "GET", f"/v1/tasks/{task_id}/events", headers=tenant.headers | headers
    ) as response:
        if response.status_code == 503:
            raise ComeAgain
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-accel-buffering"] == "no"
        task = asyncio.create_task(reader.read(response))
        try:
            yield reader, task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _all(gateway: Running, tenant: Tenant, task_id: UUID | str, **headers: str) -> Reader:
    async with _following(gateway, tenant, task_id, **headers) as (reader, ended):
        async with asyncio.timeout(60):
            await ended
        return reader


async def _insisting(gateway: Running, tenant: Tenant, task_id: str) -> Reader:
    """As a client that comes again when it is told to."""

    async def read() -> list[Reader]:
        with suppress(ComeAgain):
            return [await _all(gateway, tenant, task_id)]
        return []

    (reader,) = await eventually(read, 60)
    return reader


async def _append(state: Client, tenant: Tenant, task_id: UUID | str, events: Sequence[StreamEvent]) -> None:
    key = streams.key(tenant.id, UUID(str(task_id)))
    assert await streams.append(pipelined(state), key, events, create=True) == streams.APPENDED


async def _record(gateway: Running, tenant: Tenant, task_id: UUID | str, events: Sequence[StreamEvent]) -> None:
    await gateway.database.executemany(
        "INSERT INTO history.events (task_id, tenant_id, fence, seq, type, at, data)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7)",
        [
            (UUID(str(task_id)), tenant.id, event.fence, event.seq, event.type, event.at, json.dumps(event.data))
            for event in events
        ],
    )


async def _task(gateway: Running, tenant: Tenant) -> str:
    return str((await gateway.submit(tenant)).json()["id"])


async def test_what_was_and_what_comes_arrive_in_one_sequence(gateway: Running, state: Client) -> None:
    tenant = await gateway.tenant()
    task_id, log = await _task(gateway, tenant), _run(1200)
    await _append(state, tenant, task_id, log[:700])
    async with _following(gateway, tenant, task_id) as (reader, ended):
        await reader.has(700)
        for start in range(700, 1200, 100):
            await _append(state, tenant, task_id, log[start : start + 100])
        async with asyncio.timeout(15):
            await ended
    assert reader.ids == [str(event.id) for event in log]
    assert reader.received[1] == ("1-2", "token", {"type": "token", "at": "2026-01-01T00:00:00+00:00", "text": "2"})
    assert reader.received[-1][1] == "done"


@pytest.mark.parametrize("by", ["header", "query"])
async def test_a_client_that_comes_back_misses_nothing_and_sees_nothing_twice(
    gateway: Running, state: Client, by: str
) -> None:
    tenant = await gateway.tenant()
    task_id, log = await _task(gateway, tenant), _run(20)
    await _append(state, tenant, task_id, log)
    address, headers = f"/v1/tasks/{task_id}/events", dict(tenant.headers)
    if by == "header":
        headers["Last-Event-ID"] = "1-15"
    else:
        address += "?last_event_id=1-15"
    reader = Reader()
    async with gateway.client.stream("GET", address, headers=headers) as response:
        await reader.read(response)
    assert reader.ids == [f"1-{seq}" for seq in range(16, 21)]


@pytest.mark.parametrize("named", ["x", "1", "1-", "-1", "1-2-3", "1-x", "9" * 50, "99999999999-1", "1-2147483648"])
async def test_an_id_that_is_none_is_refused(gateway: Running, named: str) -> None:
    tenant = await gateway.tenant()
    response = await gateway.client.get(
        f"/v1/tasks/{uuid4()}/events", headers=tenant.headers | {"Last-Event-ID": named}
    )
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "Last-Event-ID")


async def test_an_id_of_another_task_that_is_ahead_of_this_one_is_no_error_and_the_stream_goes_on_after_it(
    gateway: Running, state: Client
) -> None:
    tenant = await gateway.tenant()
    task_id, log = await _task(gateway, tenant), _run(12)
    await _append(state, tenant, task_id, log[:3])
    async with _following(gateway, tenant, task_id, **{"Last-Event-ID": "1-8"}) as (reader, ended):
        await _append(state, tenant, task_id, log[3:])
        async with asyncio.timeout(60):
            await ended
    assert reader.ids == [f"1-{seq}" for seq in range(9, 13)]


async def test_an_id_of_another_task_that_is_beyond_the_end_of_this_one_is_told_the_end(
    gateway: Running, state: Client
) -> None:
    tenant = await gateway.tenant()
    task_id, log = await _task(gateway, tenant), _run(5)
    await _append(state, tenant, task_id, log)
    await _record(gateway, tenant, task_id, log)
    await gateway.database.execute(
        "INSERT INTO history.tasks (task_id, tenant_id, tier, status) VALUES ($1, $2, 'pro', 'completed')",
        UUID(task_id),
        tenant.id,
    )
    reader = await _all(gateway, tenant, task_id, **{"Last-Event-ID": "7-900"})
    assert [(one[1], one[2]["status"]) for one in reader.received] == [("done", "completed")]


async def test_another_tenants_task_is_none_whatever_id_is_named(gateway: Running) -> None:
    mine, other = await gateway.tenant(), await gateway.tenant()
    task_id = await _task(gateway, other)
    response = await gateway.client.get(f"/v1/tasks/{task_id}/events", headers=mine.headers | {"Last-Event-ID": "1-1"})
    assert response.status_code == 404


async def test_a_finished_task_whose_log_is_gone_is_read_from_the_record(gateway: Running, state: Client) -> None:
    tenant = await gateway.tenant()
    task_id, log = await _task(gateway, tenant), _run(1100)
    await _record(gateway, tenant, task_id, log)
    await gateway.database.execute(
        "INSERT INTO history.tasks (task_id, tenant_id, tier, status) VALUES ($1, $2, 'pro', 'completed')",
        UUID(task_id),
        tenant.id,
    )
    await forget(state, tenant)
    assert (await _all(gateway, tenant, task_id)).ids == [str(event.id) for event in log]


async def test_an_end_that_nobody_recorded_yet_is_read_from_the_run(gateway: Running, state: Client) -> None:
    tenant = await gateway.tenant()
    task_id, log = await _task(gateway, tenant), _run(10)
    await _record(gateway, tenant, task_id, log[:4])
    outcome = RunFinished(
        task_id=UUID(task_id), tenant_id=tenant.id, tier="pro", fence=1, status="completed",
        events=tuple(log[4:]), finished_at=datetime.now(UTC),
    )  # fmt: skip
    await gateway.database.execute(
        "INSERT INTO runtime.runs (task_id, tenant_id, tier, status, fence, attempts, outcome)"
        " VALUES ($1, $2, 'pro', 'completed', 1, 1, $3)",
        UUID(task_id),
        tenant.id,
        outcome.encode(),
    )
    assert (await _all(gateway, tenant, task_id)).ids == [str(event.id) for event in log]


async def test_a_run_that_ends_while_redis_knows_nothing_is_noticed(gateway: Running, state: Client) -> None:
    tenant = await gateway.tenant()
    task_id, log = await _task(gateway, tenant), _run(6)
    await _append(state, tenant, task_id, log[:3])
    async with _following(gateway, tenant, task_id) as (reader, ended):
        await reader.has(3)
        await forget(state, tenant)
        await _record(gateway, tenant, task_id, log)
        await gateway.database.execute(
            "INSERT INTO history.tasks (task_id, tenant_id, tier, status) VALUES ($1, $2, 'pro', 'completed')",
            UUID(task_id),
            tenant.id,
        )
        async with asyncio.timeout(15):
            await ended
    assert reader.ids == [str(event.id) for event in log]


async def test_a_quiet_stream_shows_that_it_is_alive(gateway: Running, state: Client) -> None:
    tenant = await gateway.tenant()
    async with _following(gateway, tenant, await _task(gateway, tenant)) as (reader, ended):

        async def pinged() -> bool:
            return reader.pings >= 2

        await eventually(pinged)
        assert not ended.done()
    assert not reader.received


async def test_a_hole_is_filled_from_the_record_as_soon_as_it_is_there(gateway: Running, state: Client) -> None:
    tenant = await gateway.tenant()
    task_id, log = await _task(gateway, tenant), _run(10)
    await _append(state, tenant, task_id, log[:3])
    async with _following(gateway, tenant, task_id) as (reader, ended):
        await reader.has(3)
        await forget(state, tenant)
        await _append(state, tenant, task_id, log[6:])
        await _record(gateway, tenant, task_id, log[:6])
        async with asyncio.timeout(15):
            await ended
    assert reader.ids == [str(event.id) for event in log]


async def test_what_is_gone_for_good_is_a_gap(gateway: Running, state: Client) -> None:
    tenant = await gateway.tenant()
    task_id, log = await _task(gateway, tenant), _run(10)
    await _append(state, tenant, task_id, log[:3])
    await _append(state, tenant, task_id, log[6:])
    reader = await _all(gateway, tenant, task_id)
    assert reader.ids == ["1-1", "1-2", "1-3", None, "1-7", "1-8", "1-9", "1-10"]
    assert reader.received[3][1:] == ("gap", {"type": "gap", "after": "1-3", "before": "1-7"})


async def test_a_run_that_was_taken_over_begins_again_with_a_reset(gateway: Running, state: Client) -> None:
    tenant = await gateway.tenant()
    task_id = await _task(gateway, tenant)
    first = [_event(1, 1, "start"), _event(1, 2), _event(1, 3)]
    second = [_event(2, 1, "reset", after="1-2"), _event(2, 2), _event(2, 3, "done", status="completed")]
    await _append(state, tenant, task_id, first)
    async with _following(gateway, tenant, task_id) as (reader, ended):
        await reader.has(3)
        await _append(state, tenant, task_id, second)
        async with asyncio.timeout(15):
            await ended
    assert reader.ids == ["1-1", "1-2", "1-3", "2-1", "2-2", "2-3"]


async def test_a_task_that_is_cancelled_before_it_ran_ends_its_streams(gateway: Running, state: Client) -> None:
    tenant = await gateway.tenant()
    task_id = await _task(gateway, tenant)
    async with _following(gateway, tenant, task_id) as (reader, ended):
        await gateway.client.post(f"/v1/tasks/{task_id}/cancel", headers=tenant.headers)
        async with asyncio.timeout(15):
            await ended
    await forget(state, tenant)
    later = await _all(gateway, tenant, task_id)
    for one in (reader, later):
        assert [(event[0], event[1], event[2]["status"]) for event in one.received] == [("1-1", "done", "cancelled")]


async def test_a_hundred_readers_need_six_connections(stage: Stage, state: Client) -> None:
    log = _run(30)
    async with relaying(stage.servers.redis_state_url) as (relay, url), running(stage, redis=url) as gateway:
        tenant = await gateway.tenant("enterprise")
        tasks = [await _task(gateway, tenant) for _ in range(10)]
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=gateway.client.base_url, timeout=30, limits=limits) as client:
            busy = Running(gateway.gateway, client, stage, gateway.database)
            async with asyncio.TaskGroup() as group:
                readers = [group.create_task(_insisting(busy, tenant, task)) for task in tasks for _ in range(10)]

                async def all_open() -> bool:
                    text = (await gateway.client.get("/metrics")).text
                    return "laneway_streams_open 100.0" in text

                await eventually(all_open, 60)
                for start in range(0, 30, 10):
                    for task in tasks:
                        await _append(state, tenant, task, log[start : start + 10])
        assert all(reader.result().ids == [str(event.id) for event in log] for reader in readers)
        assert relay.connections <= 6


async def test_streams_survive_the_loss_of_redis_and_its_return(stage: Stage, state: Client) -> None:
    log = _run(40)
    async with relaying(stage.servers.redis_state_url) as (relay, url), running(stage, redis=url) as gateway:
        tenant = await gateway.tenant()
        task_id = await _task(gateway, tenant)
        await _append(state, tenant, task_id, log[:10])
        async with _following(gateway, tenant, task_id) as (reader, ended):
            await reader.has(10)
            relay.cut()
            await _append(state, tenant, task_id, log[10:20])
            relay.restore()
            await reader.has(20)
            await _append(state, tenant, task_id, log[20:])
            async with asyncio.timeout(15):
                await ended
        assert reader.ids == [str(event.id) for event in log]


async def test_a_client_that_does_not_read_costs_no_memory_and_no_event(gateway: Running, state: Client) -> None:
    tenant = await gateway.tenant()
    task_id, log = await _task(gateway, tenant), _run(3000)
    fat = [event.model_copy(update={"data": event.data | {"text": "x" * 1000}}) for event in log]
    async with gateway.client.stream("GET", f"/v1/tasks/{task_id}/events", headers=tenant.headers) as response:
        for start in range(0, 3000, 200):
            await _append(state, tenant, task_id, fat[start : start + 200])
        (readers,) = [one for channel, one in gateway.gateway.hub._readers.items() if task_id in channel]
        assert all(len(one._queue) <= 500 for one in readers)
        reader = Reader()
        await reader.read(response)
    assert reader.ids == [str(event.id) for event in log]


async def test_chat_submits_and_streams_and_is_cancelled_with_its_client(gateway: Running, state: Client) -> None:
    tenant = await gateway.tenant()
    reader = Reader()
    async with gateway.client.stream(
        "POST", "/v1/chat/stream", json={"input": "x"}, headers=tenant.headers
    ) as response:
        assert response.status_code == 200
        task_id = response.headers["x-laneway-task-id"]
        reading = asyncio.create_task(reader.read(response))
        await reader.has(1)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    assert reader.received[0][:2] == (None, "status")
    assert reader.received[0][2]["id"] == task_id

    async def cancelled() -> bool:
        answer = await gateway.client.get(f"/v1/tasks/{task_id}", headers=tenant.headers)
        return bool(answer.json()["status"] == "cancelled")

    await eventually(cancelled)


async def test_a_chat_that_came_to_its_end_is_not_cancelled(gateway: Running, state: Client) -> None:
    tenant = await gateway.tenant()
    reader = Reader()
    async with gateway.client.stream(
        "POST", "/v1/chat/stream", json={"input": "x"}, headers=tenant.headers
    ) as response:
        await _append(state, tenant, response.headers["x-laneway-task-id"], _run(5))
        await reader.read(response)
    assert reader.ids[1:] == [f"1-{seq}" for seq in range(1, 6)]
    runs = "SELECT count(*) FROM runtime.runs WHERE task_id = $1"
    assert await gateway.database.fetchval(runs, UUID(response.headers["x-laneway-task-id"])) == 0


async def test_when_the_gateway_stops_streams_end_and_nothing_is_cancelled(stage: Stage, state: Client) -> None:
    async with running(stage) as gateway, httpx2.AsyncClient(base_url=gateway.client.base_url) as client:
        tenant = await gateway.tenant()
        reader = Reader()
        async with client.stream("POST", "/v1/chat/stream", json={"input": "x"}, headers=tenant.headers) as response:
            reading = asyncio.create_task(reader.read(response))
            await reader.has(1)
            gateway.gateway.hub.close()
            async with asyncio.timeout(30):
                await reading
        runs = "SELECT count(*) FROM runtime.runs WHERE tenant_id = $1"
        assert await gateway.database.fetchval(runs, tenant.id) == 0
