"""The bucket in Redis against the bucket as a value: the same history, the same answers, to the last bit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from redis import Redis

from agent_worker.limiter.bucket import Ask, Bucket, Side
from agent_worker.limiter.script import Question, belief, bucket_script, drawing, key_of, read
from common import redis
from common.pipelining import Pipelined
from tests.servers import Servers
from tests.unit.agent_worker.limiting import buckets, histories

_TOLD = bucket_script(clock="tonumber(ARGV[#ARGV])")
"""The same text, with a clock that the test sets."""


@pytest.fixture(scope="module")
def server(servers: Servers) -> Iterator[Redis]:
    with Redis.from_url(servers.redis_state_url) as client:
        yield client


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=buckets, history=histories)
def test_redis_and_the_value_agree(server: Redis, start: Bucket, history: list[tuple[float, Question]]) -> None:
    key, now, bucket = f"{{test:{uuid4()}}}:limit", start.at, start
    begun = False
    for seconds, question in history:
        now += seconds
        # What is believed is only read where there is no bucket: what comes after must be the server's own.
        believed = belief(start, start.at)
        answer = server.eval(_TOLD.text, 1, key, *believed, *question.arguments, repr(now))
        if not begun and question.arguments == ("look",):
            assert answer == []
            continue
        if not begun:
            bucket = Bucket(now, start.requests, start.tokens)
            begun = True
        seen, granted = read(answer, start, now)
        moved, expected = question.apply(bucket, now)
        # A look is not written down, so that what it sees may fill by itself.
        bucket = bucket if question.arguments == ("look",) else moved
        assert granted == expected
        assert (seen.requests, seen.tokens, seen.factor, seen.claim) == (
            moved.requests,
            moved.tokens,
            moved.factor,
            moved.claim,
        )
        assert _times(seen) == pytest.approx(_times(moved), abs=1e-9)
    server.delete(key)


def _times(bucket: Bucket) -> list[float]:
    """Seconds that are left; where it began in Redis, what has passed lies nearer."""
    return [max(0.0, until - bucket.at) for until in (bucket.paused_until, bucket.shrunk_until, bucket.claim_until)]


@pytest.fixture
async def pipelined(servers: Servers) -> AsyncIterator[Pipelined]:
    async with redis.client(servers.redis_state_url, timeout=10.0, connections=2) as client:
        yield Pipelined(client, 10.0)


async def test_by_the_servers_clock_it_fills_and_expires(pipelined: Pipelined, server: Redis) -> None:
    key, script = key_of("test", str(uuid4())), bucket_script()
    believed, fresh = Bucket(0.0, Side(600.0)), drawing(Ask(0.0, 0.0))
    seen = [
        read(await pipelined.run(script, [key], [*belief(believed, 0.0), *fresh.arguments]), believed, 0.0)
        for _ in range(3)
    ]
    assert all(grant.granted for _, grant in seen)
    levels = [bucket.requests.level for bucket, _ in seen]
    assert levels[0] == 599.0
    assert levels[0] > levels[1] > levels[2] > 597.0 - 1e-9
    assert 0 < server.ttl(key) <= 86_400
    server.delete(key)


async def test_a_bucket_that_was_lost_begins_with_what_was_believed_of_it(pipelined: Pipelined, server: Redis) -> None:
    key, script = key_of("test", str(uuid4())), bucket_script()
    believed = Bucket(0.0, Side(600.0, 0.0, 30.0), Side(0.0, 9_000.0, 500.0), 0.5, 10.0)
    asked = [*belief(believed, 0.0), *drawing(Ask(0.0, 0.0)).arguments]
    bucket, grant = read(await pipelined.run(script, [key], asked), believed, 0.0)
    assert (bucket.requests.level, bucket.tokens.level, bucket.tokens.limit, bucket.factor) == (
        30.0,
        500.0,
        9_000.0,
        0.5,
    )
    assert not grant.granted
    assert grant.wait == pytest.approx(10.0)
    server.delete(key)
