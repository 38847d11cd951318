"""Parking as a tenant's app sees it, on whole processes, and with those processes killed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tests.acceptance.reading import Reading, follow
from tests.acceptance.stack import Stack
from tests.acceptance.tasks import ended, shown, submit
from tests.stage import eventually

pytestmark = [pytest.mark.timeout(300)]


@pytest.fixture
def stack(own_stacks: tuple[Stack, Stack]) -> Stack:
    return own_stacks[0]


def _in(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


async def test_a_task_of_later_is_shown_as_parked_and_its_stream_goes_on(stack: Stack) -> None:
    start = _in(2.5)
    async with stack.client() as client:
        task = await submit(client, "Later [[sim tokens=5]]", not_before=start, concurrency_key="k")
        reading = Reading()
        following = asyncio.create_task(follow(client, task["id"], reading))
        parked = (await shown(client, task["id"], "parked"))["parked"]
        assert (parked["reason"], parked["key"]) == ("not_before", None)
        assert datetime.fromisoformat(parked["until"]) == datetime.fromisoformat(start)

        async def listed() -> bool:  # once it is recorded
            page = (await client.get("/v1/tasks", params={"status": "parked"})).json()
            return task["id"] in [item["id"] for item in page["items"]]

        await eventually(listed)
        finished = await ended(client, task["id"])
        await following
        resumed = Reading(events=reading.events[:1])
        await follow(client, task["id"], resumed)
    assert (finished["status"], finished["attempts"], finished["parked"]) == ("completed", 1, None)
    assert finished["started_at"] >= start.replace("+00:00", "")[:19]
    assert [(str(e.id), e.type) for e in reading.events][:2] == [("0-1", "status"), ("1-1", "start")]
    assert reading.events[0].data["status"] == "parked"
    assert reading.text == finished["output"]
    assert [event.id for event in resumed.events] == [event.id for event in reading.events]


async def test_the_same_request_of_a_time_that_has_passed_is_still_the_same_task(stack: Stack) -> None:
    async with stack.client() as client:
        refused = await client.post("/v1/tasks", json={"input": "x", "not_before": _in(-600)})
        chat = await client.post("/v1/chat/stream", json={"input": "x", "not_before": _in(60)})
        body = {"input": "x", "not_before": _in(-30)}
        first, again = [
            await client.post("/v1/tasks", json=body, headers={"Idempotency-Key": "timed"}) for _ in range(2)
        ]
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "not_before")
        assert (chat.status_code, chat.json()["errors"][0]["field"]) == (422, "not_before")
        assert (first.status_code, again.status_code) == (202, 200)
        assert first.json()["id"] == again.json()["id"]
        await ended(client, first.json()["id"])


async def test_a_parked_task_is_cancelled(stack: Stack) -> None:
    async with stack.client() as client:
        task = await submit(client, "Never", not_before=_in(3600))
        await shown(client, task["id"], "parked")
        answer = await client.post(f"/v1/tasks/{task['id']}/cancel")
        assert answer.json()["status"] == "cancelled"
        reading = await follow(client, task["id"], Reading())
        assert (await ended(client, task["id"]))["status"] == "cancelled"

    async def recorded() -> bool:
        rows = await stack.rows("SELECT status FROM history.tasks WHERE task_id = $1", UUID(task["id"]))
        return [row["status"] for row in rows] == ["cancelled"]

    await eventually(recorded)
    assert reading.events[-1].type == "done"
    assert await stack.rows("SELECT FROM runtime.parked WHERE task_id = $1", UUID(task["id"])) == []


async def test_a_waker_that_is_killed_is_followed_by_another(own_stacks: tuple[Stack, Stack]) -> None:
    stack, second = own_stacks
    async with stack.client() as client:
        tasks = [await submit(client, f"{n} [[sim tokens=2]]", not_before=_in(1.5)) for n in range(5)]
        for task in tasks:
            await shown(client, task["id"], "parked")
        leader = next(one for one in own_stacks if "waker.leads" in one.log("persister"))
        leader.kill("persister")
        killed = asyncio.get_running_loop().time()
        for task in tasks:
            assert (await ended(client, task["id"]))["status"] == "completed"
        assert asyncio.get_running_loop().time() - killed < 10
        leader.start("persister")
        leader.until_ready()
    follower = second if leader is stack else stack
    assert "waker.leads" in follower.log("persister")


async def test_the_key_of_a_killed_worker_passes_on_after_its_lease(stack: Stack) -> None:
    async with stack.client() as client:
        first = await submit(client, "Long [[sim tokens=40 tps=10]]", concurrency_key="one")
        await eventually(lambda: stack.all_started([first["id"]]))
        second = await submit(client, "Short [[sim tokens=2]]", concurrency_key="one")
        waiting = await shown(client, second["id"], "parked")
        assert waiting["parked"] == {"reason": "concurrency_key", "until": None, "key": "one", "calls": None}
        victim = await stack.worker_of(first["id"])
        stack.kill(victim)
        lease = (await stack.rows("SELECT lease_until FROM runtime.runs WHERE task_id = $1", UUID(first["id"])))[0][0]
        finished = await ended(client, second["id"], 20)
        both = [finished, await ended(client, first["id"], 60)]
        stack.start(victim)
        stack.until_ready()
    assert [task["status"] for task in both] == ["completed", "completed"]
    assert datetime.fromisoformat(finished["started_at"]) >= lease
    assert both[1]["attempts"] == 2


async def test_a_task_expires_on_time_though_no_worker_is_there(stack: Stack) -> None:
    workers = ("agent-worker-1", "agent-worker-2")
    async with stack.client() as client:
        for worker in workers:
            await asyncio.to_thread(stack.terminate, worker)
        task = await submit(client, "Too late", deadline_seconds=1.5)
        reading = await follow(client, task["id"], Reading())
        finished = await ended(client, task["id"])
        for worker in workers:
            stack.start(worker)
        stack.until_ready()
    assert (finished["status"], finished["error"]["type"]) == ("expired", "deadline_passed")
    late = datetime.fromisoformat(finished["finished_at"]) - datetime.fromisoformat(finished["created_at"])
    assert timedelta(seconds=1.5) <= late < timedelta(seconds=4)
    assert [(str(event.id), event.data["status"]) for event in reading.events] == [("1-1", "expired")]
    assert finished["started_at"] is None
