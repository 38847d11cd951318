"""What the loop adds to a model call: leave and hold, events, usage and checkpoint made durable, and the tool.

Measured twice. A model thinks before it speaks; in that time the broker, the persister and billing are done with the
step before, so that what the run waits for is its own. A model that speaks at once leaves them no time: there all of
the stack's work for a step counts that the machine's cores cannot do side by side.
"""

from __future__ import annotations

import asyncio
import json
import os
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks.figures import Figure
from benchmarks.load import Connection, connected, head, post_all
from benchmarks.runs.bare import bare
from benchmarks.stand import RUNS, cpu_seconds, run, stack_of
from tests.acceptance.stack import Stack
from tests.servers import Servers

STEPS = 90
THINKING = 0.05
"""Seconds until the model speaks: a short time for one, and more than the others take for a step."""
WORKER = "agent-worker-1"
SERVICES = ("simulator", "gateway", WORKER, "persister", "billing")
AGENT = "stepping"
PROMPT = 'Count. [[sim ttft=%g tool=calculator:{"expression":"1+1"} steps=1000]]'
_PAGE = 8192
_DEADLINE = 120


def measure(servers: Servers, logs: Path) -> list[Figure]:
    """One run at a time, in turns with the bare SDK."""
    with stack_of(servers, logs, SERVICES) as stack:
        run(_steps(stack, PROMPT % 0))  # warm
        thinking = [_in_turn(stack, PROMPT % THINKING) for _ in range(RUNS)]
        at_once = [_in_turn(stack, PROMPT % 0) for _ in range(RUNS)]
        disk = tuple(_disk(logs / "written") for _ in range(RUNS))
    ours, theirs, _ = zip(*thinking, strict=True)
    _, _, cpu = zip(*at_once, strict=True)  # without what a worker does by the clock while a model thinks
    return [
        Figure("added to a model call by all around it, p50", "ms", _added(thinking), better="less", must=3, aim=1),
        Figure("a step: model call, tool, all made durable, p50", "ms", ours, better="less"),
        Figure("the same call by the bare SDK, p50", "ms", theirs, better="less"),
        Figure("processor time of a step in the worker", "ms", cpu, better="less"),
        Figure("added to a call of a model that speaks at once, p50", "ms", _added(at_once), better="less"),
        Figure("a write that the disk confirms, of which a step awaits two, p50", "ms", disk, better="less"),
    ]


def _in_turn(stack: Stack, prompt: str) -> tuple[float, float, float]:
    """Milliseconds of a step, of the bare SDK's call, and of the worker's processor for a step."""
    before = cpu_seconds(stack.pid(WORKER))
    ours = median(run(_steps(stack, prompt)))
    cpu = (cpu_seconds(stack.pid(WORKER)) - before) * 1000 / STEPS
    return ours, median(bare("calls", stack.simulator, prompt, STEPS)), cpu


def _added(turns: list[tuple[float, float, float]]) -> tuple[float, ...]:
    return tuple(ours - theirs for ours, theirs, _ in turns)


def _disk(path: Path) -> float:
    """Milliseconds of what the broker does for a confirm, and PostgreSQL for a commit, at the least."""
    found = []
    with path.open("wb", buffering=0) as file:
        for _ in range(STEPS):
            file.write(bytes(_PAGE))
            began = perf_counter()
            os.fdatasync(file.fileno())
            found.append((perf_counter() - began) * 1000)
    return median(found)


async def _steps(stack: Stack, prompt: str) -> list[float]:
    """Milliseconds of each step of one run but its first and its last: from the end of a call to that of the next."""
    key = stack.keys["enterprise"]
    body = json.dumps({"input": prompt, "agent": AGENT, "max_steps": STEPS, "max_cost_usd": 100}).encode()
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
