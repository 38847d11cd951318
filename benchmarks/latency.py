"""From a submission to the first token at the client, on an idle stack, with a model that answers at once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from statistics import quantiles
from time import perf_counter

from benchmarks.figures import Figure
from benchmarks.load import Connection, connected, head
from benchmarks.stand import RUNS, run, stack_of
from tests.acceptance.stack import Stack
from tests.servers import Servers

TASKS = 300
SERVICES = ("simulator", "gateway", "agent-worker-1", "persister", "billing")
BODY = json.dumps({"input": "What is AI? [[sim text=ok]]"}).encode()
_DEADLINE = 30


def measure(servers: Servers, logs: Path) -> list[Figure]:
    """One task at a time, through `chat/stream`."""
    medians, tails = [], []
    with stack_of(servers, logs, SERVICES) as stack:
        run(_first_tokens(stack, TASKS // 3))  # warm
        for _ in range(RUNS):
            percentiles = quantiles(run(_first_tokens(stack, TASKS)), n=100)
            medians.append(percentiles[49])
            tails.append(percentiles[98])
    return [
        Figure("submit to first token at the client, p50", "ms", tuple(medians), better="less", must=25, aim=10),
        Figure("submit to first token at the client, p99", "ms", tuple(tails), better="less", must=80, aim=30),
    ]


async def _first_tokens(stack: Stack, count: int) -> list[float]:
    """Milliseconds, of each of so many chats, one after the other."""
    request = head("POST", "/v1/chat/stream", stack.keys["enterprise"]) % len(BODY) + BODY
    found = []
    for _ in range(count):
        async with asyncio.timeout(_DEADLINE), connected(stack.url, 1) as [connection]:
            found.append(await _first_token(connection, request))
    return found


async def _first_token(connection: Connection, request: bytes) -> float:
    began = perf_counter()
    connection.writer.write(request)
    await connection.reader.readuntil(b"event: token\n")
    seconds = perf_counter() - began
    await connection.reader.readuntil(b"event: done\n")
    return seconds * 1000
