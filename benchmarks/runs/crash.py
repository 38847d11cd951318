"""From `kill -9` of a worker to its runs going on at another one, as the clients of their streams see it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

from benchmarks.figures import Figure
from benchmarks.load import Connection, Failed, connected, head, post_all
from benchmarks.stand import RUNS, run, stack_of
from tests.acceptance.stack import Stack
from tests.servers import Servers

TASKS = 100
"""About half of them run in the worker that is killed."""
VICTIM = "agent-worker-1"
SERVICES = ("simulator", "gateway", VICTIM, "agent-worker-2", "persister", "billing")
SETTINGS = {name: {"LANEWAY_SLOTS": str(2 * TASKS)} for name in (VICTIM, "agent-worker-2")}
BODY = json.dumps({"input": "Speak. [[sim tokens=100 tps=8]]"}).encode()
TIER = "enterprise"
_CLIENTS = 16
_DEADLINE = 120


def measure(servers: Servers, logs: Path) -> list[Figure]:
    """The `reset` that begins a run's second life is the first that its client is told of it."""
    tails, medians, moved = [], [], []
    with stack_of(servers, logs, SERVICES, SETTINGS) as stack:
        for _ in range(RUNS):
            found = run(_crashed(stack))
            stack.start(VICTIM)
            stack.until_ready()
            tails.append(quantiles(found, n=100, method="inclusive")[98])
            medians.append(median(found))
            moved.append(float(len(found)))
    return [
        Figure("killed worker to resumed on another, p99", "s", tuple(tails), better="less", must=10, aim=3),
        Figure("killed worker to resumed on another, p50", "s", tuple(medians), better="less"),
        Figure("runs that the killed worker had", "", tuple(moved)),
    ]


async def _crashed(stack: Stack) -> list[float]:
    """Seconds until each run of the killed worker went on. All runs are followed to their end."""
    key = stack.keys[TIER]
    _, answers = await post_all(stack.url, [(head("POST", "/v1/tasks", key), BODY)] * TASKS, _CLIENTS)
    tasks = [json.loads(answer)["id"] for answer in answers]
    talking = asyncio.Semaphore(0)
    async with connected(stack.url, TASKS) as connections, asyncio.timeout(_DEADLINE):
        reading = [
            asyncio.create_task(_resumed(one, key, task, talking)) for one, task in zip(connections, tasks, strict=True)
        ]
        for _ in tasks:
            await talking.acquire()
        killed = perf_counter()
        await asyncio.to_thread(stack.kill, VICTIM)
        found = await asyncio.gather(*reading)
    moments = [moment - killed for moment in found if moment is not None]
    if len(moments) < 2:
        raise Failed("the killed worker had no runs")
    return moments


async def _resumed(connection: Connection, key: str, task: str, talking: asyncio.Semaphore) -> float | None:
    """When the run went on, read to its end; None where it never had to. `talking` is told of its first token."""
    connection.writer.write(head("GET", f"/v1/tasks/{task}/events", key) % 0)
    await connection.answer()
    moment, talks = None, False
    while True:
        block = await connection.reader.readuntil(b"\n\n")
        if b"event: token\n" in block and not talks:
            talks = True
            talking.release()
        elif b"event: reset\n" in block:
            moment = perf_counter()
        elif b"event: done\n" in block:
            return moment
