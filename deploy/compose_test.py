"""`make compose-test`: docker-compose.yml from end to end, on a project, ports and data of its own.

Builds and starts it, runs the demo client, then scales and restarts services while tasks are under way, and checks
that every task completes. Removes everything again, however it ends.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from uuid import uuid4

import httpx2

from common.messaging.topology import lane
from deploy.local import compose
from deploy.local import demo as client
from deploy.local.errors import LocalError

PROJECT = f"{compose.PROJECT}-compose-test"
TAG = "compose-test"
IMAGES = ("gateway", "agent-worker", "persister", "billing", "simulator", "jobs")
PROMPT = "Count to twenty. [[sim tokens=20 tps=40]]"
TIERS = (*["enterprise"] * 6, *["pro"] * 3, "free")
"""By the tiers' weights, so that no lane is what all the others wait for."""
IN_FLIGHT, OUTSTANDING = 20, 300
ATTEMPTS = 5
POLL_SECONDS, SETTLE_SECONDS, SEEN_SECONDS = 1.0, 120, 30


class TestFailed(Exception):
    """The stack did not do what it promises; the message says what."""


class Report:
    """What was done, how long it took and what came of it."""

    def __init__(self) -> None:
        self._rows = [("STEP", "SECONDS", "RESULT")]

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Time a step; it appends what came of it."""
        print(f"== {name}", file=sys.stderr, flush=True)
        began, results = time.monotonic(), list[str]()
        try:
            yield results
        except BaseException as error:
            results.append(f"FAILED {error}".rstrip())
            raise
        finally:
            self._rows.append((name, f"{time.monotonic() - began:.1f}", ", ".join(results)))

    def table(self) -> str:
        """All steps so far."""
        widths = [max(map(len, column)) for column in zip(*self._rows, strict=True)]
        return "\n".join(
            f"{name:<{widths[0]}}  {seconds:>{widths[1]}}  {result}".rstrip() for name, seconds, result in self._rows
        )


class Load:
    """A client that keeps tasks of all tiers outstanding until it is told to stop, and then waits for the last."""

    def __init__(self, http: httpx2.AsyncClient, key: str) -> None:
        self._http, self._headers = http, {"Authorization": f"Bearer {key}"}
        self._outstanding: set[str] = set()
        self._room = asyncio.Semaphore(OUTSTANDING)
        self._stopping = asyncio.Event()
        self.submitted = self.repeated = 0
        self.finished: Counter[str] = Counter()

    @property
    def outstanding(self) -> int:
        """How many tasks are under way."""
        return len(self._outstanding)

    async def run(self) -> None:
        """Submit, and see what becomes of it."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            for _ in range(IN_FLIGHT):
                tasks.create_task(self._submit_all())

    def stop(self) -> None:
        """Submit no more."""
        self._stopping.set()

    async def _submit_all(self) -> None:
        while not self._stopping.is_set():
            await self._room.acquire()
            body = {"input": PROMPT, "tier": TIERS[self.submitted % len(TIERS)]}
            self.submitted += 1
            self._outstanding.add(await self._submit(body))

    async def _submit(self, body: Mapping[str, str]) -> str:
        """Submit one task as a client should: what was refused or left open is repeated with the same key."""
        headers = self._headers | {"Idempotency-Key": uuid4().hex}
        for _ in range(ATTEMPTS):
            answer = await self._http.post("/v1/tasks", json=body, headers=headers)
            if answer.status_code in (200, 202):
                return str(answer.json()["id"])
            if answer.status_code not in (429, 503):
                break
            self.repeated += 1
            await asyncio.sleep(float(answer.headers.get("retry-after", "1")))
        raise TestFailed(f"a task was not accepted: {answer.status_code} {answer.text}")

    async def _watch(self) -> None:
        lines = asyncio.Semaphore(IN_FLIGHT)
        while self._outstanding or not self._stopping.is_set():
            await asyncio.gather(*(self._look_at(task, lines) for task in tuple(self._outstanding)))
            await asyncio.sleep(POLL_SECONDS)

    async def _look_at(self, task: str, lines: asyncio.Semaphore) -> None:
        async with lines:
            answer = await self._http.get(f"/v1/tasks/{task}", headers=self._headers)
        answer.raise_for_status()
        status = answer.json()["status"]
        if status in client.FINISHED:
            self._outstanding.remove(task)
            self._room.release()
            self.finished[status] += 1


class Stack:
    """The running containers: what an operator does with them, and what RabbitMQ and nginx say of it."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._management = addresses["RABBITMQ_UI"]
        self._login = (addresses["RABBITMQ_UI_USER"], addresses["RABBITMQ_UI_PASSWORD"])

    async def scale(self, service: str, count: int) -> None:
        """Run this many containers of a service, and wait until they are healthy."""
        options = ("-d", "--no-deps", "--no-recreate", "--wait", "--scale", f"{service}={count}", service)
        await asyncio.to_thread(compose.compose, PROJECT, "up", *options, quiet=True)

    async def docker(self, *arguments: str) -> None:
        """Run `docker`."""
        process = await asyncio.create_subprocess_exec("docker", *arguments, stdout=subprocess.DEVNULL)
        if await process.wait() != 0:
            raise TestFailed(f"docker {' '.join(arguments)} failed")

    async def workers(self) -> dict[str, int]:
        """By lane, how many containers consume from it."""
        async with httpx2.AsyncClient(auth=self._login, trust_env=False) as http:
            answer = await http.get(f"{self._management}/api/consumers/laneway")
        answer.raise_for_status()
        consumers = {(each["queue"]["name"], each["channel_details"].get("peer_host")) for each in answer.json()}
        return {tier: sum(queue == lane(tier) for queue, _ in consumers) for tier in client.TIERS}

    async def gateways(self) -> int:
        """How many gateways nginx used of late."""
        command = ("docker", "logs", "--tail", "300", f"{PROJECT}-nginx-1")
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        output, _ = await process.communicate()
        return len({line.split()[-1] for line in output.decode().splitlines() if line.endswith(":8000")})


async def seen(what: str, probe: Callable[[], Awaitable[object]], expected: object) -> None:
    """Wait until a probe says what is expected; RabbitMQ's figures and nginx's log come a moment later."""
    found: object = None
    try:
        async with asyncio.timeout(SEEN_SECONDS):
            while (found := await probe()) != expected:  # noqa: ASYNC110 - another process: it has no event to wait for
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise TestFailed(f"{what}: {found}, not {expected}") from None


@asynccontextmanager
async def under_load(http: httpx2.AsyncClient, key: str, report: Report) -> AsyncIterator[Load]:
    """Tasks under way for as long as the context lasts; at its end, all of them must complete."""
    load = Load(http, key)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(load.run())
        await seen(f"{OUTSTANDING} tasks under way", lambda: _is_full(load), True)
        yield load
        with report.step("stop submitting, wait for the last task") as results:
            load.stop()
            await _finished(load)
            results.append(f"{load.finished['completed']} of {load.submitted} tasks completed")
            results.append(f"{load.repeated} submissions repeated")
    if load.finished["completed"] != load.submitted:
        raise TestFailed(f"not all tasks completed: {dict(load.finished)}")


async def _is_full(load: Load) -> bool:
    return load.outstanding > OUTSTANDING - IN_FLIGHT


async def _finished(load: Load) -> None:
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            while load.outstanding:  # noqa: ASYNC110 - the containers have no event to wait for
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise TestFailed(f"{load.outstanding} tasks were not finished within {SETTLE_SECONDS} s") from None


async def scale_and_restart(addresses: Mapping[str, str], report: Report) -> None:
    """What an operator does on a busy day."""
    stack = Stack(addresses)
    async with (
        httpx2.AsyncClient(base_url=addresses["LANEWAY_URL"], timeout=30, trust_env=False) as http,
        under_load(http, addresses["LANEWAY_KEY_ENTERPRISE"], report) as load,
    ):

        @contextmanager
        def step(name: str) -> Iterator[list[str]]:
            with report.step(name) as results:
                before = sum(load.finished.values())
                yield results
                done = sum(load.finished.values()) - before
                results.append(f"{done} tasks finished meanwhile, {load.outstanding} under way")

        with step("scale agent-worker 2 -> 4") as results:
            await stack.scale("agent-worker", 4)
            await seen("workers by lane", stack.workers, dict.fromkeys(client.TIERS, 4))
            results.append("4 workers consume from each lane")
        with step("scale gateway 2 -> 3") as results:
            await stack.scale("gateway", 3)
            await seen("gateways behind nginx", stack.gateways, 3)
            results.append("nginx uses 3")
        with step("restart a worker (SIGTERM, it drains)"):
            await stack.docker("restart", "--time", "40", f"{PROJECT}-agent-worker-1")
        with step("kill -9 a worker, start it again"):
            await stack.docker("kill", f"{PROJECT}-agent-worker-2")
            await stack.docker("start", f"{PROJECT}-agent-worker-2")
            await seen("workers by lane", stack.workers, dict.fromkeys(client.TIERS, 4))
        with step("scale gateway 3 -> 2") as results:
            await stack.scale("gateway", 2)
            await seen("gateways behind nginx", stack.gateways, 2)
            results.append("nginx uses 2")


def run(report: Report) -> None:
    """Everything, in order."""
    with report.step("build the images") as results:
        compose.configure(PROJECT)
        compose.compose(PROJECT, "build", quiet=True)
        results.append(f"{len(IMAGES)} images")
    with report.step("start, until everything is healthy") as results:
        addresses = compose.start(PROJECT)
        results.append("2 gateways, 2 agent-workers, persister, billing, simulator, nginx, 4 servers, 3 jobs")
    with report.step("demo client"):
        if client.main(addresses) != 0:
            raise TestFailed("the demo failed")
    asyncio.run(scale_and_restart(addresses, report))


def remove(report: Report) -> None:
    """Take containers, networks, volumes and images away again."""
    with report.step("remove containers, volumes and images"):
        compose.stop(PROJECT, volumes=True)
        names = [f"laneway/{image}:{TAG}" for image in IMAGES]
        subprocess.run(["docker", "image", "rm", "--force", *names], capture_output=True, check=False)


def main() -> int:
    """Run it; a failure is one sentence and a non-zero status."""
    if not compose.usable():
        images = ", ".join(compose.IMAGES)
        print(f"compose-test needs a Docker engine that has, or can pull, {images}; none answers.", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ["LANEWAY_VERSION"] = TAG
    report, failure = Report(), ""
    try:
        try:
            run(report)
        finally:
            remove(report)
    except* KeyboardInterrupt:
        failure = "interrupted"
    except* (TestFailed, LocalError, httpx2.HTTPError, subprocess.CalledProcessError) as errors:
        failure = "; ".join(str(error) or repr(error) for error in leaves(errors))
    print(f"\n{report.table()}\n")
    print(f"compose-test failed: {failure}" if failure else "compose-test passed")
    return 1 if failure else 0


def leaves(errors: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The exceptions in a group of groups."""
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


if __name__ == "__main__":
    sys.exit(main())
