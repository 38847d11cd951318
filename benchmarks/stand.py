"""Where measurements are made: durable servers as of `make up`, services as processes, plans without limits."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import psutil
import psycopg
import uvloop

from tests.acceptance.stack import Settings, Stack, running
from tests.servers import Servers
from tests.stage import Stage, staged

CATALOGUE = Path(__file__).parent / "catalogue"
RUNS = 3
Result = TypeVar("Result")


@contextmanager
def stack_of(
    servers: Servers, logs: Path, services: Sequence[str], settings: Settings | None = None, *, limits: bool = False
) -> Iterator[Stack]:
    """Laneway's services on a stage of their own, by default with plans that limit nothing."""
    with staged(servers, CATALOGUE) as stage:
        if not limits:
            _lift_limits(stage)
        with running(stage, logs, services, settings or {}) as stack:
            yield stack


def _lift_limits(stage: Stage) -> None:
    """What is measured is the path, not the limit."""
    with psycopg.connect(stage.admin_dsn) as connection:
        connection.execute(
            "UPDATE identity.plans SET requests_per_minute = 100000000, max_outstanding = 100000000,"
            " run_cap_usd = 1000, user_day_cap_usd = 100000000, tenant_day_cap_usd = 100000000,"
            " tenant_month_cap_usd = 100000000"
        )


def run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """On the loop that the services have."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


def as_admin(stage: Stage) -> str:
    """The stage's virtual host, as the broker's administrator."""
    return urlsplit(stage.servers.rabbit_url)._replace(path=f"/{stage.name}").geturl()


def empty_lanes(stage: Stage, *queues: str) -> None:
    """Throw away what waits."""
    with stage.management() as client:
        for queue in queues:
            client.delete(f"/api/queues/{stage.name}/{queue}/contents").raise_for_status()


@contextmanager
def process(
    module: str, *arguments: str, environment: Mapping[str, str] | None = None, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A rival's process, ended with the context."""
    with log.open("ab") as output:
        started = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env={**os.environ, **(environment or {})},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, 9)
            started.wait()


def cpu_seconds(pid: int) -> float:
    """What a process and its children have used."""
    root = psutil.Process(pid)
    return sum(sum(each.cpu_times()[:2]) for each in (root, *root.children(recursive=True)))


async def until_answers(url: str, seconds: float = 30) -> None:
    """Wait for a server to serve."""
    async with asyncio.timeout(seconds), httpx2.AsyncClient() as client:
        while True:
            try:
                if (await client.get(url)).status_code == 200:
                    return
            except httpx2.HTTPError:
                await asyncio.sleep(0.05)
