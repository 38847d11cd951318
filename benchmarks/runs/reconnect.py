"""A client that comes back to a long stream: from its request to the first event that it had not seen."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from statistics import quantiles
from time import perf_counter
from uuid import UUID

from benchmarks.figures import Figure
from benchmarks.load import connected, head, post_all
from benchmarks.stand import RUNS, run, stack_of
from common import redis, streams
from common.contracts.base import now
from common.contracts.events import StreamEvent
from common.pipelining import Pipelined
from tests.acceptance.stack import Stack
from tests.servers import Servers

SEEN = 10_000
MORE = 100
TIMES = 200
TIER = "enterprise"
_PAGE = 500
_TIMEOUT = 5.0
_DEADLINE = 60


def measure(servers: Servers, logs: Path) -> list[Figure]:
    """Without a worker: the task waits, and its log is one that a worker would have written."""
    medians, tails = [], []
    with stack_of(servers, logs, ("gateway",)) as stack:
        task = run(_long(stack))
        run(_reconnects(stack, task, TIMES // 4))  # warm
        for _ in range(RUNS):
            percentiles = quantiles(run(_reconnects(stack, task, TIMES)), n=100)
            medians.append(percentiles[49])
            tails.append(percentiles[98])
    return [
        Figure(f"reconnect after {SEEN:,} events to the next one, p50", "ms", tuple(medians), better="less", must=50),
        Figure(f"reconnect after {SEEN:,} events to the next one, p99", "ms", tuple(tails), better="less"),
    ]


async def _long(stack: Stack) -> str:
    """A task whose log is long."""
    request = (head("POST", "/v1/tasks", stack.keys[TIER]), json.dumps({"input": "Speak."}).encode())
    _, [answer] = await post_all(stack.url, [request], 1)
    task = str(json.loads(answer)["id"])
    log = streams.key(stack.tenants[TIER], UUID(task))
    events = [
        StreamEvent(fence=1, seq=seq, type="token" if seq > 1 else "start", at=now(), data={"text": "word " * 5})
        for seq in range(1, SEEN + MORE + 1)
    ]
    async with redis.client(stack.stage.servers.redis_state_url, timeout=_TIMEOUT, connections=1) as client:
        pipelined = Pipelined(client, _TIMEOUT)
        for start in range(0, len(events), _PAGE):
            await streams.append(pipelined, log, events[start : start + _PAGE], create=True)
    return task


async def _reconnects(stack: Stack, task: str, times: int) -> list[float]:
    """Milliseconds, one connection after the other, each a new one."""
    asked = head("GET", f"/v1/tasks/{task}/events?last_event_id=1-{SEEN}", stack.keys[TIER]) % 0
    expected, found = b"id: 1-%d\n" % (SEEN + 1), []
    for _ in range(times):
        async with asyncio.timeout(_DEADLINE):
            began = perf_counter()
            async with connected(stack.url, 1) as [connection]:
                connection.writer.write(asked)
                await connection.reader.readuntil(expected)
                found.append((perf_counter() - began) * 1000)
    return found
