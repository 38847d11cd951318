"""Tokens a second from models through one worker and one gateway to clients, all streams at once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from time import perf_counter

from benchmarks.figures import Figure, ratio
from benchmarks.load import Connection, Failed, connected, head, post_all
from benchmarks.runs.bare import bare
from benchmarks.stand import RUNS, run, stack_of
from tests.acceptance.stack import Stack
from tests.servers import Servers

STREAMS = 500
TOKENS = 400
WAIT = 8
"""Seconds until the models speak: by then all tasks run, and all clients listen."""
PROMPT = f"Speak. [[sim ttft={WAIT} tokens={TOKENS}]]"
SERVICES = ("simulator", "gateway", "agent-worker-1", "persister", "billing")
SETTINGS = {"agent-worker-1": {"LANEWAY_SLOTS": str(2 * STREAMS)}}
TIER = "enterprise"
_CLIENTS = 32
_OPENING = 50
_DEADLINE = 180


def measure(servers: Servers, logs: Path) -> list[Figure]:
    """In turns, each from the first token at a client to the end of the last stream."""
    ours, theirs = [], []
    with stack_of(servers, logs, SERVICES, SETTINGS) as stack:
        run(_relayed(stack, STREAMS // 10))  # warm
        for _ in range(RUNS):
            ours.append(run(_relayed(stack, STREAMS)))
            theirs.append(bare("streams", stack.simulator, PROMPT, STREAMS))
    return [
        ratio(f"{STREAMS} streams at once relayed, against the bare SDK", ours, theirs, must=0.4, aim=0.8),
        Figure("tokens relayed by one worker and one gateway", "/s", tuple(ours)),
        Figure("tokens read by the bare SDK", "/s", tuple(theirs)),
    ]


async def _relayed(stack: Stack, streams: int) -> float:
    """Tokens per second."""
    key = stack.keys[TIER]
    body = json.dumps({"input": PROMPT, "max_output_tokens": 4096}).encode()
    _, answers = await post_all(stack.url, [(head("POST", "/v1/tasks", key), body)] * streams, _CLIENTS)
    tasks = [json.loads(answer)["id"] for answer in answers]
    began: list[float] = []
    async with connected(stack.url, streams) as connections, asyncio.timeout(_DEADLINE):
        opening = asyncio.Semaphore(_OPENING)
        tokens = await asyncio.gather(
            *(_read(one, opening, key, task, began) for one, task in zip(connections, tasks, strict=True))
        )
        took = perf_counter() - began[0]
    if set(tokens) != {TOKENS}:
        raise Failed(f"streams of {sorted(set(tokens))} tokens, instead of {TOKENS}")
    return sum(tokens) / took


async def _read(connection: Connection, opening: asyncio.Semaphore, key: str, task: str, began: list[float]) -> int:
    """The tokens that the end says were spoken; `began` is when anybody heard the first."""
    async with opening:
        connection.writer.write(head("GET", f"/v1/tasks/{task}/events", key) % 0)
        status, _ = await connection.answer()
        if status != 200:
            raise Failed(f"{status} for the events of {task}")
    while True:
        block = await connection.reader.readuntil(b"\n\n")
        if b"event: token\n" in block and not began:
            began.append(perf_counter())
        elif b"event: done\n" in block:
            return int(json.loads(block.partition(b"data: ")[2].strip())["usage"]["output_tokens"])
