"""Batches through the whole stack: a thousand tasks, one result each, though gateways and workers come and go."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.acceptance.stack import Stack, running
from tests.servers import Servers
from tests.stage import eventually, staged

pytestmark = [pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def own_stack(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Services that may be stopped and killed."""
    with staged(servers) as stage, running(stage, tmp_path_factory.mktemp("batches")) as stack:
        yield stack


class Follower:
    """A client of a batch's stream that comes back, with the last id it saw, until it was told of the end."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.connections = 0
        self._last: str | None = None

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The data of the events of one kind."""
        return [data for named, data in self.events if named == kind]

    async def follow(self, client: httpx2.AsyncClient, address: str) -> None:
        """Until `done`."""
        while not self.of("done"):
            headers = {"Last-Event-ID": self._last} if self._last else {}
            with contextlib.suppress(httpx2.HTTPError):
                async with client.stream("GET", address, headers=headers) as response:
                    if response.status_code == 200:
                        self.connections += 1
                        await self._read(response)
            await asyncio.sleep(0.1)

    async def _read(self, response: httpx2.Response) -> None:
        fields: dict[str, str] = {}
        async for line in response.aiter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                self._last = fields.get("id", self._last)
                self.events.append((fields["event"], json.loads(fields["data"])))
                fields = {}


async def _submit(client: httpx2.AsyncClient, tasks: list[dict[str, Any]], key: str | None = None) -> dict[str, Any]:
    headers = {"Idempotency-Key": key} if key else {}
    response = await client.post("/v1/batches", json={"tasks": tasks}, headers=headers)
    assert response.status_code in (200, 202)
    batch: dict[str, Any] = response.json()
    return batch


async def test_a_thousand_tasks_have_one_result_each(own_stack: Stack) -> None:
    stack = own_stack
    async with stack.client("enterprise") as client:
        tasks = [{"input": f"Task {n} [[sim tokens=3]]"} for n in range(1000)]
        batch = await _submit(client, tasks, "thousand")
        follower = Follower()
        following = asyncio.create_task(follower.follow(client, batch["links"]["events"]))

        async def under_way() -> bool:
            return len(follower.of("result")) >= 50

        await eventually(under_way, 60)
        stack.terminate("gateway")
        stack.start("gateway")
        stack.until_ready()
        assert (await _submit(client, tasks, "thousand"))["id"] == batch["id"]
        async with asyncio.timeout(180):
            await following
        assert follower.connections >= 2
        ended = [data["index"] for data in follower.of("result")]
        assert sorted(ended) == list(range(1000)), "each once, over both gateways"
        begun = [data["index"] for data in follower.of("status")]
        assert sorted(begun) == list(range(1000))
        results: list[dict[str, Any]] = []
        cursor: str | None = "0"
        while cursor is not None:
            page = (await client.get(batch["links"]["results"], params={"cursor": cursor})).json()
            results += page["items"]
            cursor = page["next_cursor"]
        assert [result["index"] for result in results] == list(range(1000))
        assert {result["status"] for result in results} == {"completed"}
        streamed = {data["index"]: data["output"] for data in follower.of("result")}
        assert all(result["output"] and result["output"] == streamed[result["index"]] for result in results)

        async def settled() -> bool:
            return bool((await client.get(batch["links"]["self"])).json()["cost_final"])

        await eventually(settled, 60)
    rows = await stack.rows(
        "SELECT count(*) AS calls, count(DISTINCT task_id) AS tasks FROM billing.usage u"
        " WHERE u.task_id IN (SELECT task_id FROM history.tasks WHERE batch_id = $1)",
        batch["id"],
    )
    assert (rows[0]["calls"], rows[0]["tasks"]) == (1000, 1000)


async def test_a_batch_that_is_cancelled_ends_at_once(own_stack: Stack) -> None:
    stack = own_stack
    async with stack.client("pro") as client:
        batch = await _submit(client, [{"input": f"Slow {n} [[sim tokens=400 tps=5]]"} for n in range(100)])

        async def running_now() -> bool:
            counts = (await client.get(batch["links"]["self"])).json()["counts"]
            return bool(counts["running"] >= 10 and counts["unrecorded"] == 0)

        await eventually(running_now, 30)
        answer = (await client.post(batch["links"]["cancel"])).json()
        assert answer["cancelled"] + answer["cancelling"] + answer["already_ended"] + answer["pending"] == 100
        assert answer["cancelled"] > 0
        assert answer["cancelling"] > 0
        follower = Follower()
        async with asyncio.timeout(30):  # a run that is not cut takes eighty seconds
            await follower.follow(client, batch["links"]["events"])
        assert follower.of("done")[0]["counts"]["cancelled"] == 100


async def test_a_lane_whose_workers_were_killed_says_so(own_stack: Stack) -> None:
    stack = own_stack

    async def pro() -> dict[str, Any]:
        items = (await operator.get("/v1/admin/lanes")).json()["items"]
        return next(item for item in items if item["tier"] == "pro")

    async with stack.operator() as operator, stack.client("pro") as client:

        async def both_there() -> bool:
            found = await pro()
            return found["workers"] == 2 and found["consumers"] >= 2 and not found["unserved"]

        await eventually(both_there, 90)
        for name in ("agent-worker-1", "agent-worker-2"):
            stack.kill(name)
        await _submit(client, [{"input": "Anybody there?"}] * 3)

        async def deserted() -> bool:
            found = await pro()
            return (found["workers"], found["slots"], found["consumers"], found["unserved"]) == (0, 0, 0, True)

        await eventually(deserted, 90)
        for name in ("agent-worker-1", "agent-worker-2"):
            stack.start(name)
        stack.until_ready()

        async def served() -> bool:
            found = await pro()
            return not found["unserved"] and found["work"] == 0

        await eventually(served, 90)
