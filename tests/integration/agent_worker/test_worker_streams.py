"""The writer of streams, against a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from agent_worker.progress import RunLog
from agent_worker.stream_writer import StreamWriter
from common import redis, streams
from common.contracts.base import now
from common.contracts.events import BEGINNING, StreamEvent
from common.errors import CacheUnavailable
from common.pipelining import Pipelined
from common.redis import Client
from tests.integration.agent_worker.proxy import Proxy, proxied
from tests.servers import Servers
from tests.stage import eventually


@pytest.fixture
async def away(servers: Servers) -> AsyncIterator[Proxy]:
    address = urlsplit(servers.redis_state_url)
    async with proxied(address.hostname or "", address.port or 6379) as proxy:
        yield proxy


@pytest.fixture
async def client(servers: Servers, away: Proxy) -> AsyncIterator[Client]:
    address = urlsplit(servers.redis_state_url)
    login = f"{address.username or ''}:{address.password}@" if address.password else ""
    through = address._replace(netloc=f"{login}127.0.0.1:{away.port}").geturl()
    async with redis.client(through, timeout=1.0, connections=2) as made:
        yield made


class Lost:
    """Remembers which logs were fenced off."""

    def __init__(self) -> None:
        self.logs: list[RunLog] = []

    def __call__(self, log: RunLog) -> None:
        self.logs.append(log)


def log_of(writer: StreamWriter, fence: int = 1, key: str | None = None) -> RunLog:
    return RunLog(key or f"{{test}}:events:{uuid4()}", fence, writer)


async def read(client: Client, log: RunLog) -> list[StreamEvent]:
    return await streams.read(client, log.key, BEGINNING, 1000)


async def test_events_are_written_in_order_and_tokens_together(client: Client) -> None:
    writer = StreamWriter(Pipelined(client, 1.0), Lost())
    log = log_of(writer)
    log.emit("start", {})
    for word in ("It ", "is ", "42"):
        log.token(word)
    await writer.flush()
    log.emit("done", {})
    await writer.flush()
    written = await read(client, log)
    assert [(event.type, event.data) for event in written] == [
        ("start", {}),
        ("token", {"text": "It is 42"}),
        ("done", {}),
    ]
    assert written == list(log.not_durable())


async def test_a_log_that_redis_lost_is_written_anew_from_what_is_durable(client: Client) -> None:
    writer = StreamWriter(Pipelined(client, 1.0), Lost())
    log = log_of(writer)
    log.emit("start", {})
    log.emit("status", {})
    last = log.last_id
    assert last is not None
    await writer.flush()
    log.mark_durable(last)
    log.emit("usage", {"n": 1})
    await writer.flush()
    await client.delete(log.key)
    log.emit("usage", {"n": 2})
    await writer.flush()  # finds it gone
    await writer.flush()
    assert [event.seq for event in await read(client, log)] == [3, 4]


async def test_a_newer_fence_is_reported(client: Client) -> None:
    lost = Lost()
    writer = StreamWriter(Pipelined(client, 1.0), lost)
    old = log_of(writer)
    new = log_of(writer, fence=2, key=old.key)
    old.emit("start", {})
    await writer.flush()
    new.emit("reset", {})
    await writer.flush()
    old.emit("usage", {})
    await writer.flush()
    assert lost.logs == [old]
    assert [event.fence for event in await read(client, new)] == [1, 2]


async def test_what_redis_did_not_take_is_kept_and_written_later(client: Client, away: Proxy) -> None:
    writer = StreamWriter(Pipelined(client, 1.0), Lost())
    log = log_of(writer)
    log.emit("start", {})
    await writer.flush()
    away.cut()
    log.emit("usage", {})
    with pytest.raises(CacheUnavailable):
        await writer.flush()
    log.emit("done", {})
    away.restore()

    async def flushed() -> bool:
        with suppress(CacheUnavailable):  # for a moment nobody asks a server that did not answer
            await writer.flush()
            return True
        return False

    await eventually(flushed)
    assert [event.type for event in await read(client, log)] == ["start", "usage", "done"]


async def test_the_background_task_survives_an_outage(client: Client, away: Proxy) -> None:
    writer = StreamWriter(Pipelined(client, 1.0), Lost())
    log = log_of(writer)
    running = asyncio.create_task(writer.run())
    away.cut()
    log.emit("start", {})
    log.token("x")
    away.restore()
    log.emit("done", {})

    async def written() -> bool:
        return [event.type for event in await read(client, log)] == ["start", "token", "done"]

    await eventually(written)
    assert not running.done()
    running.cancel()
    await asyncio.wait({running})


async def test_one_log_that_cannot_be_written_keeps_none_back(client: Client) -> None:
    writer = StreamWriter(Pipelined(client, 1.0), Lost())
    bad, good = log_of(writer), log_of(writer)
    bad._kept.append(StreamEvent.model_construct(fence=1, seq=1, type="usage", at=now(), data={"n": 10**40}))
    writer.notice(bad, urgent=True)
    good.emit("start", {})
    await writer.flush()
    assert [event.type for event in await read(client, good)] == ["start"]
    assert await read(client, bad) == []


async def test_what_redis_refuses_of_one_run_is_that_runs_alone(client: Client) -> None:
    writer = StreamWriter(Pipelined(client, 1.0), Lost())
    refused, other = log_of(writer), log_of(writer)
    await client.set(refused.key, "not a stream")
    refused.emit("start", {})
    other.emit("start", {})
    await writer.flush()
    assert await read(client, other) == list(other.not_durable())
    assert other.not_written() == []
    await client.delete(refused.key)

    async def written() -> bool:
        await writer.flush()
        return await read(client, refused) == list(refused.not_durable())

    await eventually(written)


async def test_the_log_of_a_run_that_is_over_is_kept_for_minutes_only(client: Client) -> None:
    writer = StreamWriter(Pipelined(client, 1.0), Lost())
    log, newer = log_of(writer), log_of(writer, fence=2)
    newer.key = log.key
    log.emit("start", {})
    await writer.flush()
    assert await client.ttl(log.key) > streams.KEEP_ENDED_SECONDS
    log.emit("done", {})
    await writer.flush()
    assert 0 < await client.ttl(log.key) <= streams.KEEP_ENDED_SECONDS
    newer.emit("reset", {})  # the end was another worker's to decide, and the run goes on
    await writer.flush()
    assert await client.ttl(log.key) > streams.KEEP_ENDED_SECONDS
