"""A thousand runs at once in one worker process, each waiting for a slow model and then streaming."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil

from benchmarks.figures import Figure
from benchmarks.load import head, post_all
from benchmarks.stand import RUNS, run, stack_of
from tests.acceptance.stack import TIERS, Stack
from tests.servers import Servers

RUNS_AT_ONCE = 1000
SHARES = dict(zip(TIERS, (600, 300, 100), strict=True))
CLIENTS = 32
WORKER = "agent-worker-1"
SERVICES = ("simulator", "gateway", WORKER, "persister", "billing")
SETTINGS = {WORKER: {"LANEWAY_SLOTS": str(RUNS_AT_ONCE)}}
SLOW = "[[sim ttft=9 tokens=20 tps=20]]"
_DEADLINE = 120


def measure(servers: Servers, logs: Path) -> list[Figure]:
    """Seconds from the first submission to the last recorded end, and what the worker grows by for each run."""
    seconds, memory = [], []
    with stack_of(servers, logs, SERVICES, SETTINGS) as stack:
        for _ in range(RUNS):
            # A new process: memory that was used once is not seen to be used again.
            stack.terminate(WORKER)
            stack.start(WORKER)
            stack.until_ready()
            run(_all_at_once(stack, "[[sim tokens=1]]", 50))  # warm
            took, grown = run(_all_at_once(stack, SLOW, RUNS_AT_ONCE))
            seconds.append(took)
            memory.append(grown)
    return [
        Figure("1,000 runs at once in one worker, all done", "s", tuple(seconds), better="less", must=15, aim=12),
        Figure("memory of each of them", "kB", tuple(memory), better="less", must=150, aim=60),
    ]


async def _all_at_once(stack: Stack, directive: str, count: int) -> tuple[float, float]:
    """Seconds until all ended, and kB for each run while all ran."""
    body = json.dumps({"input": f"What is AI? {directive}"}).encode()
    requests = [
        (head("POST", "/v1/tasks", stack.keys[tier]), body)
        for tier, share in SHARES.items()
        for _ in range(share * count // RUNS_AT_ONCE)
    ]
    worker = psutil.Process(stack.pid(WORKER))
    idle = highest = worker.memory_info().rss
    began = perf_counter()
    _, answers = await post_all(stack.url, requests, CLIENTS)
    tasks = [_id(answer) for answer in answers]
    async with asyncio.timeout(_DEADLINE):
        while not await _all_completed(stack, tasks):
            highest = max(highest, worker.memory_info().rss)
            await asyncio.sleep(0.1)
    return perf_counter() - began, (highest - idle) / 1000 / count


async def _all_completed(stack: Stack, tasks: list[str]) -> bool:
    found = await stack.rows(
        "SELECT count(*) AS n FROM history.tasks WHERE status = 'completed' AND task_id = ANY($1::uuid[])", tasks
    )
    return bool(found[0]["n"] == len(tasks))


def _id(answer: bytes) -> str:
    task: dict[str, Any] = json.loads(answer)
    return str(task["id"])
