"""What a plan allows at once: tasks that are outstanding, and runs; and the end of all of it by one request."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from tests.acceptance.operating import pause, resume
from tests.acceptance.reading import Reading, follow
from tests.acceptance.runs import RUNNING_OF_TENANT, all_ended, runs, watching
from tests.acceptance.stack import Stack
from tests.acceptance.tasks import cancel_many, ended, shown, submit, submit_many
from tests.acceptance.tenants import new_tenant
from tests.stage import eventually

pytestmark = [pytest.mark.timeout(300)]
WITHOUT_END = "[[sim tokens=1000 tps=5]]"


async def test_beyond_the_outstanding_tasks_of_a_plan_a_tenant_is_told_what_to_do(stack: Stack) -> None:
    await new_tenant(stack, "few-outstanding", "pro", max_outstanding=3)
    async with stack.client("few-outstanding") as client:
        tasks = [await submit(client, f"Long {n} {WITHOUT_END}") for n in range(3)]
        refused = await client.post("/v1/tasks", json={"input": "One more"})
        assert refused.status_code == 429
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert refused.json()["type"].endswith("too-many-outstanding")
        assert (
            "3 tasks may be outstanding: submit again when some have ended, or cancel some" in refused.json()["detail"]
        )
        batch = await client.post("/v1/batches", json={"tasks": [{"input": "x"}, {"input": "y"}]})
        assert batch.status_code == 429
        await client.post(f"/v1/tasks/{tasks[0]['id']}/cancel")
        await ended(client, tasks[0]["id"])

        async def accepted() -> str:  # once its place is given back, a moment after its end
            answer = await client.post("/v1/tasks", json={"input": "One more [[sim tokens=2]]"})
            return str(answer.json()["id"]) if answer.status_code == 202 else ""

        assert (await ended(client, await eventually(accepted, 30)))["status"] == "completed"
        await cancel_many(client)
        assert {run["status"] for run in await all_ended(stack, [task["id"] for task in tasks])} == {"cancelled"}


async def test_beyond_the_running_tasks_of_a_plan_they_wait_without_a_slot(stack: Stack) -> None:
    tenant = await new_tenant(stack, "few-running", "pro", max_running=2)
    async with stack.client("few-running") as client, watching(stack, RUNNING_OF_TENANT, tenant) as seen:
        tasks = await submit_many(client, [f"Capped {n} [[sim tokens=8 tps=20]]" for n in range(12)])

        async def parked() -> list[str]:
            rows = await stack.rows("SELECT task_id::text AS id FROM runtime.parked WHERE tenant_id = $1", tenant)
            return [row["id"] for row in rows]

        waiting = (await shown(client, (await eventually(parked))[-1], "parked"))["parked"]
        assert waiting == {"reason": "running_cap", "until": None, "key": None, "calls": None}
        ran = await all_ended(stack, tasks)
        assert await parked() == []
    assert max(seen) == 2
    assert {(run["status"], run["attempts"]) for run in ran} == {("completed", 1)}
    for run in ran:
        at_once = [one for one in ran if one["started_at"] <= run["started_at"] < one["finished_at"]]
        assert len(at_once) <= 2


async def test_all_of_a_tenants_tasks_end_with_one_request_whatever_they_are_at(stack: Stack) -> None:
    await new_tenant(stack, "leaving", "pro")
    start = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    async with stack.client("leaving") as client, stack.client("pro") as stranger:
        over = (await submit(client, "Over [[sim tokens=2]]"))["id"]
        await ended(client, over)
        going_on = [(await submit(client, f"Runs {n} {WITHOUT_END}"))["id"] for n in range(3)]
        parked = [(await submit(client, f"Later {n}", not_before=start))["id"] for n in range(4)]
        other = (await submit(stranger, "Another's [[sim tokens=40 tps=20]]"))["id"]
        for task in parked:
            await shown(client, task, "parked")
        await eventually(lambda: stack.all_started([*going_on, other]))
        await pause(stack, "tier", "pro")
        try:
            queued = await submit_many(client, [f"Queued {n}" for n in range(5)])
            tasks = [*going_on, *parked, *queued]

            async def recorded() -> bool:
                rows = await stack.rows(
                    "SELECT FROM history.tasks WHERE task_id = ANY ($1)", [UUID(task) for task in [over, *tasks]]
                )
                return len(rows) == 13

            await eventually(recorded, 30)
            readings = [Reading() for _ in tasks]
            following = asyncio.gather(
                *(follow(client, task, reading) for task, reading in zip(tasks, readings, strict=True))
            )

            async def heard() -> bool:
                return all(any(event.type == "token" for event in reading.events) for reading in readings[:3])

            await eventually(heard, 30)
            answer = await cancel_many(client)
            assert (answer["cancelled"], answer["cancelling"], answer["complete"]) == (9, 3, True)
            await following
            for task in tasks:
                assert (await ended(client, task))["status"] == "cancelled"
        finally:
            await resume(stack, "tier", "pro")
        assert {reading.events[-1].data["status"] for reading in readings} == {"cancelled"}
        assert (await ended(stranger, other))["status"] == (await ended(client, over))["status"] == "completed"
        await eventually(lambda: stack.lane_is_empty("tasks.pro"))
        never = {run["id"]: run["started_at"] for run in await runs(stack, [*parked, *queued])}
        assert never == dict.fromkeys([*parked, *queued]), "none of them began when the lane went on"
