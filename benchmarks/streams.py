"""Thousands of open event streams on one gateway process: its connections to Redis, and whether an event is lost."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from benchmarks.concurrency import CLIENTS, SETTINGS, SHARES
from benchmarks.figures import Figure
from benchmarks.load import Connection, Failed, connected, head, post_all
from benchmarks.stand import RUNS, run, stack_of
from tests.acceptance.stack import Stack
from tests.servers import Servers

SERVICES = ("simulator", "gateway", "agent-worker-1", "persister", "billing")
STREAMS = {2000: 2, 5000: 5}
"""Streams, and how many of them follow each of the thousand tasks."""
SPOKEN = "[[sim ttft={wait} tokens=20 tps=2]]"
WAIT = {2000: 8, 5000: 20}
"""Seconds in which all streams are opened."""
_EVENT = re.compile(rb"^id: (\d+)-(\d+)\nevent: (\w+)$", re.MULTILINE)
_OPENING = 100
"""Streams that are being opened at the same time: thousands at once would be a test of refusing."""
_DEADLINE = 180


def measure(servers: Servers, logs: Path) -> list[Figure]:
    """Every stream is read to its end, and must hold each event once."""
    figures = []
    with stack_of(servers, logs, SERVICES, SETTINGS) as stack:
        for streams in STREAMS:
            found = [run(_streamed(stack, streams)) for _ in range(RUNS)]
            connections, lost, events = (tuple(float(each[n]) for each in found) for n in range(3))
            most, none = (6.0, 0.0) if streams == min(STREAMS) else (None, None)
            figures += [
                Figure(f"{streams:,} open streams: connections to Redis", "", connections, better="less", must=most),
                Figure(f"{streams:,} open streams: events lost", "", lost, better="less", must=none),
                Figure(f"{streams:,} open streams: events received", "", events),
            ]
    return figures


async def _streamed(stack: Stack, streams: int) -> tuple[int, int, int]:
    """Connections of the gateway to Redis while all are open, events that were missing, events that came."""
    body = json.dumps({"input": f"Speak. {SPOKEN.format(wait=WAIT[streams])}"}).encode()
    requests = [
        (head("POST", "/v1/tasks", stack.keys[tier]), body) for tier, share in SHARES.items() for _ in range(share)
    ]
    keys = dict.fromkeys(stack.keys.values())
    _, answers = await post_all(stack.url, requests, CLIENTS)
    tasks = [(stack.keys[task["tier"]], task["id"]) for task in map(json.loads, answers)]
    assert set(keys) == {key for key, _ in tasks}
    followed = tasks * STREAMS[streams]
    async with connected(stack.url, streams) as connections, asyncio.timeout(_DEADLINE):
        opening = asyncio.Semaphore(_OPENING)
        reading = [
            asyncio.create_task(_follow(connection, opening, key, task))
            for connection, (key, task) in zip(connections, followed, strict=True)
        ]
        most = 0
        while not all(each.done() for each in reading):
            most = max(most, _redis_connections(stack))
            await asyncio.sleep(1)
        found = [each.result() for each in reading]
    return most, sum(lost for lost, _ in found), sum(came for _, came in found)


async def _follow(connection: Connection, opening: asyncio.Semaphore, key: str, task: str) -> tuple[int, int]:
    """Events that are missing or out of order in one stream, and those that came."""
    async with opening:
        connection.writer.write(head("GET", f"/v1/tasks/{task}/events", key) % 0)
        status, _ = await connection.answer()
        if status != 200:
            raise Failed(f"{status} for the events of {task}")
    came, lost, last = 0, 0, 0
    while True:
        block = await connection.reader.readuntil(b"\n\n")
        found = _EVENT.search(block)
        if found is None:
            continue
        seq = int(found[2])
        lost += seq != last + 1
        last, came = seq, came + 1
        if found[3] == b"done":
            return lost, came


def _redis_connections(stack: Stack) -> int:
    port = urlsplit(stack.stage.servers.redis_state_url).port
    found = psutil.Process(stack.pid("gateway")).net_connections("tcp")
    return sum(1 for each in found if each.raddr and each.raddr.port == port)
