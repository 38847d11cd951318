"""The persister against a consumer that does nothing but acknowledge, on the same messages."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from time import perf_counter
from uuid import UUID

import httpx2
import uuid_utils.compat

from benchmarks.figures import Figure, ratio
from benchmarks.stand import RUNS, as_admin, empty_lanes, run, stack_of
from common.contracts import Contract, RunFinished, RunProgressed, TaskSubmitted
from common.contracts.events import StreamEvent
from common.contracts.runs import RunMessage
from common.contracts.tasks import InputMessage
from common.contracts.usage import Usage
from common.messaging.publisher import Publisher, publisher
from common.messaging.topology import AGENT_WORKER, EVENTS, GATEWAY, PERSISTER_QUEUE, lane
from common.messaging.topology import TASKS as TASKS_EXCHANGE
from deploy.local.ports import HOST
from tests.acceptance.stack import Stack
from tests.servers import Servers

TASKS = 8000
MESSAGES = 3 * TASKS
TOKENS = 20
IN_FLIGHT = 500
TIER = "pro"


def measure(servers: Servers, logs: Path) -> list[Figure]:
    """Messages per second of each, from the first to the last, in turns."""
    ours, theirs, events = [], [], []
    with stack_of(servers, logs, ()) as stack:
        for _ in range(RUNS):
            run(_fill(stack))
            theirs.append(_bare(stack))
            run(_fill(stack))
            stack.start("persister")
            rate, per_second = run(_recorded(stack))
            stack.terminate("persister")
            ours.append(rate)
            events.append(per_second)
    return [
        ratio("persister, against bare consume-and-ack", ours, theirs, must=0.3, aim=0.6),
        Figure("persister, messages recorded", "/s", tuple(ours)),
        Figure("persister, events of runs in them", "/s", tuple(events)),
        Figure("bare consume-and-ack", "/s", tuple(theirs)),
    ]


async def _fill(stack: Stack) -> None:
    """What the persister hears of so many tasks: that they came, a step with its tokens, and their end."""
    stage = stack.stage
    tenant = stage.new_tenant()
    as_gateway, as_worker = (
        publisher(stage.rabbit(GATEWAY), GATEWAY),
        publisher(stage.rabbit(AGENT_WORKER), AGENT_WORKER),
    )
    async with as_gateway as gateway, as_worker as worker:
        left = (message for _ in range(TASKS) for message in _story(tenant))
        while batch := list(islice(left, IN_FLIGHT)):
            async with asyncio.TaskGroup() as group:
                for message in batch:
                    if isinstance(message, TaskSubmitted):
                        group.create_task(_publish(gateway, TASKS_EXCHANGE, TIER, message))
                    else:
                        group.create_task(_publish(worker, EVENTS, message.kind, message))
    empty_lanes(stage, lane(TIER))


async def _publish(sender: Publisher, exchange: str, key: str, message: Contract) -> None:
    subject = uuid_utils.compat.uuid4()
    await sender.publish(exchange, key, message, subject=subject, stable_id=str(subject))


def _story(tenant: UUID) -> list[Contract]:
    task, now = uuid_utils.compat.uuid7(), datetime.now(UTC)
    submitted = TaskSubmitted(
        task_id=task, tenant_id=tenant, tier=TIER, level=20, priority=5, agent="default",
        input=(InputMessage(role="user", content="What is AI?"),), request_hash="0" * 64, submitted_at=now,
    )  # fmt: skip
    kinds = ("start", *("token",) * TOKENS, "usage")
    step = tuple(
        StreamEvent(fence=1, seq=seq, type=kind, at=now + timedelta(milliseconds=seq), data={"text": "word "})
        for seq, kind in enumerate(kinds, 1)
    )
    done = StreamEvent(fence=1, seq=len(step) + 1, type="done", at=now, data={"status": "completed"})
    answer = "word " * TOKENS
    finished = RunFinished(
        task_id=task, tenant_id=tenant, tier=TIER, fence=1, status="completed", output=answer,
        usage=Usage(input_tokens=10, output_tokens=TOKENS), provider="anthropic", model="claude-haiku-4-5",
        steps=1, attempts=1, events=(done,), started_at=now, finished_at=now,
        messages=(RunMessage(step=1, role="assistant", content=({"type": "text", "text": answer},)),),
    )  # fmt: skip
    return [submitted, RunProgressed(task_id=task, tenant_id=tenant, fence=1, step=1, events=step), finished]


def _bare(stack: Stack) -> float:
    command = ["benchmarks.rivals.consume", as_admin(stack.stage), PERSISTER_QUEUE, str(MESSAGES)]
    found = subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True, text=True, timeout=180)
    return float(found.stdout)


async def _recorded(stack: Stack) -> tuple[float, float]:
    """Messages and events per second, by the persister's own count, from its first batch on."""
    url = f"http://{HOST}:{stack.port('persister')}/metrics"
    first: tuple[float, float, float] | None = None
    async with asyncio.timeout(120), httpx2.AsyncClient() as client:
        while True:
            try:
                text = (await client.get(url)).text
            except httpx2.HTTPError:
                await asyncio.sleep(0.01)
                continue
            now, messages = perf_counter(), _total(text, "laneway_persister_recorded_total")
            events = _total(text, "laneway_persister_events_total")
            if first is None and messages:
                first = (now, messages, events)
            if first is not None and messages >= MESSAGES:
                seconds = now - first[0]
                return (messages - first[1]) / seconds, (events - first[2]) / seconds
            await asyncio.sleep(0.2)


def _total(metrics: str, name: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in metrics.splitlines() if line.startswith(name))
