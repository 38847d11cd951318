"""What the loop adds to a model call: leave and hold, events, usage and checkpoint made durable, and the tool."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median

from benchmarks.figures import Figure
from benchmarks.load import Connection, connected, head, post_all
from benchmarks.runs.bare import bare
from benchmarks.stand import RUNS, cpu_seconds, run, stack_of
from tests.acceptance.stack import Stack
from tests.servers import Servers

STEPS = 90
TASKS = 3
WORKER = "agent-worker-1"
SERVICES = ("simulator", "gateway", WORKER, "persister", "billing")
AGENT = "stepping"
PROMPT = 'Count. [[sim tool=calculator:{"expression":"1+1"} steps=1000]]'
_DEADLINE = 120


def measure(servers: Servers, logs: Path) -> list[Figure]:
    """One run at a time. Of ours a call is what lies between the ends of two: all that a step consists of."""
    ours, theirs, cpu = [], [], []
    with stack_of(servers, logs, SERVICES) as stack:
        run(_steps(stack))  # warm
        for _ in range(RUNS):
            before = cpu_seconds(stack.pid(WORKER))
            found = [took for _ in range(TASKS) for took in run(_steps(stack))]
            cpu.append((cpu_seconds(stack.pid(WORKER)) - before) * 1000 / (TASKS * STEPS))
            ours.append(median(found))
            theirs.append(median(bare("calls", stack.simulator, PROMPT, STEPS)))
    added = tuple(a - b for a, b in zip(ours, theirs, strict=True))
    return [
        Figure("added to a model call by everything around it, p50", "ms", added, better="less", must=3, aim=1),
        Figure("a step: model call, tool, all made durable, p50", "ms", tuple(ours), better="less"),
        Figure("the same call by the bare SDK, p50", "ms", tuple(theirs), better="less"),
        Figure("processor time of a step in the worker", "ms", tuple(cpu), better="less"),
    ]


async def _steps(stack: Stack) -> list[float]:
    """Milliseconds of each step of one run but its first and its last."""
    key = stack.keys["enterprise"]
    body = json.dumps({"input": PROMPT, "agent": AGENT, "max_steps": STEPS, "max_cost_usd": 100}).encode()
    _, [answer] = await post_all(stack.url, [(head("POST", "/v1/tasks", key), body)], 1)
    task = json.loads(answer)["id"]
    async with asyncio.timeout(_DEADLINE), connected(stack.url, 1) as [connection]:
        connection.writer.write(head("GET", f"/v1/tasks/{task}/events", key) % 0)
        await connection.answer()
        ends = await _usages(connection)
    return [(later - earlier).total_seconds() * 1000 for earlier, later in pairwise(ends)][:-1]


async def _usages(connection: Connection) -> list[datetime]:
    """When the worker had each call accounted for."""
    found = []
    while True:
        block = await connection.reader.readuntil(b"\n\n")
        _, _, data = block.partition(b"data: ")
        if b"event: usage\n" in block:
            found.append(datetime.fromisoformat(json.loads(data)["at"]))
        elif b"event: done\n" in block:
            return found
