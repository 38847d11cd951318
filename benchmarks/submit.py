"""Submit, with everything in its path, against an endpoint that only does the same confirmed publish."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.figures import Figure, ratio
from benchmarks.load import head, post_all
from benchmarks.stand import RUNS, as_admin, cpu_seconds, empty_lanes, process, run, stack_of, until_answers
from common.messaging.topology import PERSISTER_QUEUE, lane
from deploy.local.ports import HOST, Ports
from tests.acceptance.stack import Stack
from tests.servers import Servers

REQUESTS = 6000
CLIENTS = 64
TIER = "enterprise"
BODY = json.dumps({"input": "What is AI?"}).encode()


def measure(servers: Servers, logs: Path) -> list[Figure]:
    """Requests per second of each, in turns; and processor time, which a busy machine cannot blur."""
    ours, theirs, our_cpu, their_cpu = [], [], [], []
    with stack_of(servers, logs, ("gateway",)) as stack, _bare(stack, logs) as (bare, bare_pid):
        for _ in range(RUNS):
            rate, cpu = _rate(stack, stack.url, stack.pid("gateway"), stack.keys[TIER])
            ours.append(rate)
            our_cpu.append(cpu)
            rate, cpu = _rate(stack, bare, bare_pid, "")
            theirs.append(rate)
            their_cpu.append(cpu)
    return [
        ratio("submit, against a bare confirmed publish", ours, theirs, must=0.55, aim=0.8),
        Figure("submit, one gateway process", "/s", tuple(ours)),
        Figure("bare FastAPI endpoint with the same publish", "/s", tuple(theirs)),
        Figure("processor time of a submit", "ms", tuple(our_cpu)),
        Figure("processor time of the bare endpoint", "ms", tuple(their_cpu)),
    ]


@contextmanager
def _bare(stack: Stack, logs: Path) -> Iterator[tuple[str, int]]:
    with Ports() as ports:
        arguments = (as_admin(stack.stage), TIER, str(ports["bare"]))
        with process("benchmarks.rivals.submit", *arguments, log=logs / "bare.log") as bare:
            url = f"http://{HOST}:{ports['bare']}"
            run(until_answers(f"{url}/health/ready"))
            yield url, bare.pid


def _rate(stack: Stack, url: str, pid: int, key: str) -> tuple[float, float]:
    """Requests per second, and milliseconds of processor time for each."""
    request = (head("POST", "/v1/tasks", key), BODY)
    run(post_all(url, [request] * (REQUESTS // 10), CLIENTS))  # warm
    before = cpu_seconds(pid)
    seconds, _ = run(post_all(url, [request] * REQUESTS, CLIENTS))
    used = cpu_seconds(pid) - before
    empty_lanes(stack.stage, lane(TIER), PERSISTER_QUEUE)
    return REQUESTS / seconds, used * 1000 / REQUESTS
