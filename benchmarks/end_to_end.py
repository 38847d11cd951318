"""Tasks that do nothing, until they are recorded, billed and streamed, against other task queues."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from urllib.parse import urlsplit

from benchmarks.figures import Figure, ratio
from benchmarks.load import head, post_all
from benchmarks.stand import RUNS, as_admin, cpu_seconds, process, run, stack_of
from tests.acceptance.stack import Stack
from tests.servers import Servers

TASKS = 3000
CLIENTS = 64
SERVICES = ("gateway", "agent-worker-1", "persister", "billing")
SETTINGS = {"agent-worker-1": {"LANEWAY_SLOTS": "400"}}
TIER = "enterprise"
BODY = json.dumps({"input": "Nothing.", "agent": "no-op"}).encode()
CELERY = ("celery", "-A", "benchmarks.rivals.celery_app", "worker", "--concurrency", "2", "--loglevel", "WARNING")
TASKIQ = ("taskiq", "worker", "--workers", "2", "--log-level", "WARNING", "benchmarks.rivals.taskiq_app:broker")
_SECONDS = 240


def measure(servers: Servers, logs: Path) -> list[Figure]:
    """Tasks per second of each, in turns, from the first submission to the last result. Idle rivals cost nothing."""
    ours, celery, taskiq = [], [], []
    cpu: dict[str, list[float]] = {name: [] for name in SERVICES}
    with stack_of(servers, logs, SERVICES, SETTINGS) as stack:
        with_celery, with_taskiq = _environment(stack, 5), _environment(stack, 6)
        run(_laneway(stack))  # warm
        for _ in range(RUNS):
            before = {name: cpu_seconds(stack.pid(name)) for name in SERVICES}
            ours.append(run(_laneway(stack)))
            for name in SERVICES:
                cpu[name].append((cpu_seconds(stack.pid(name)) - before[name]) * 1000 / TASKS)
            with process(*CELERY, environment=with_celery, log=logs / "celery.log"):
                celery.append(_rival("benchmarks.rivals.celery_app", with_celery))
            with process(*TASKIQ, environment=with_taskiq, log=logs / "taskiq.log"):
                taskiq.append(_rival("benchmarks.rivals.taskiq_app", with_taskiq))
    return [
        ratio("no-op tasks end to end, against Celery", ours, celery, must=0.5, aim=1),
        Figure("no-op tasks, recorded, billed, streamed", "/s", tuple(ours)),
        Figure("Celery: quorum queue, late acks, confirms, Redis results", "/s", tuple(celery)),
        Figure("Taskiq: quorum queue, late acks, Redis results", "/s", tuple(taskiq)),
        *(Figure(f"processor time of a task in {name}", "ms", tuple(runs)) for name, runs in cpu.items()),
    ]


async def _laneway(stack: Stack) -> float:
    [earlier] = await stack.rows("SELECT count(*) AS n FROM billing.usage")
    began = perf_counter()
    await post_all(stack.url, [(head("POST", "/v1/tasks", stack.keys[TIER]), BODY)] * TASKS, CLIENTS)
    async with asyncio.timeout(_SECONDS):
        while await _finished(stack) < earlier["n"] + TASKS:  # noqa: ASYNC110 - what changes is in other processes
            await asyncio.sleep(0.2)
    return TASKS / (perf_counter() - began)


async def _finished(stack: Stack) -> int:
    """Tasks whose end is recorded and whose call is billed."""
    [found] = await stack.rows(
        "SELECT least((SELECT count(*) FROM billing.usage),"
        " (SELECT count(*) FROM history.tasks WHERE status = 'completed')) AS n"
    )
    return int(found["n"])


def _environment(stack: Stack, database: int) -> Mapping[str, str]:
    results = urlsplit(stack.stage.servers.redis_state_url)._replace(path=f"/{database}").geturl()
    return {**os.environ, "RIVAL_BROKER": as_admin(stack.stage), "RIVAL_RESULTS": results}


def _rival(module: str, environment: Mapping[str, str]) -> float:
    """Its own program submits and counts, as Laneway's client does."""
    command = [sys.executable, "-m", module, str(TASKS)]
    found = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=_SECONDS)
    return float(found.stdout)
