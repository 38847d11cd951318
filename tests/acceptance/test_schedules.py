"""Schedules on whole processes: each tick is one task, run and billed once, though the persister that fires is killed.

A tick is set near in the database: nobody waits for a full minute.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx2
import pytest

from tests.acceptance.stack import Stack
from tests.acceptance.tasks import settled, shown, usage_rows
from tests.stage import eventually

pytestmark = [pytest.mark.timeout(300)]
YEARLY = "0 0 1 1 *"
POLICIES = ("skip", "run_once")


@pytest.fixture
def stack(own_stacks: tuple[Stack, Stack]) -> Stack:
    return own_stacks[0]


async def _make(client: httpx2.AsyncClient, **fields: Any) -> str:
    body = {"cron": YEARLY, "task": {"input": "What is new? [[sim tokens=2]]"}, **fields}
    answer = await client.post("/v1/schedules", json=body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def _due_now(stack: Stack, schedules: list[str]) -> datetime:
    return await _due(stack, schedules, datetime.now(UTC))


async def _due(stack: Stack, schedules: list[str], at: datetime) -> datetime:
    statement = "UPDATE runtime.schedules SET next_at = $2, due_at = $2 WHERE schedule_id = ANY ($1)"
    await stack.rows(statement, [UUID(schedule) for schedule in schedules], at)
    return at


async def _ticks(client: httpx2.AsyncClient, schedule: str, count: int) -> list[dict[str, Any]]:
    """Newest first, once there are so many."""

    async def enough() -> list[dict[str, Any]]:
        ticks: list[dict[str, Any]] = (await client.get(f"/v1/schedules/{schedule}")).json()["ticks"]
        return ticks if len(ticks) >= count else []

    return await eventually(enough, 40)


async def test_a_ticks_task_is_run_and_billed(stack: Stack) -> None:
    async with stack.client("pro") as client:
        schedule = await _make(client, task={"input": 'Report [[sim text="All is well."]]', "metadata": {"for": "ada"}})
        at = await _due_now(stack, [schedule])
        [tick] = await _ticks(client, schedule, 1)
        finished = await settled(client, tick["task_id"])
        shown_now = (await client.get(f"/v1/schedules/{schedule}")).json()
    assert (tick["outcome"], datetime.fromisoformat(tick["at"])) == ("fired", at)
    assert (finished["status"], finished["output"], finished["tier"]) == ("completed", "All is well.", "pro")
    assert Decimal(finished["cost_usd"]) > 0
    metadata = finished["metadata"]
    assert (metadata["for"], metadata["schedule_id"]) == ("ada", schedule)
    assert datetime.fromisoformat(metadata["scheduled_for"]) == at
    assert datetime.fromisoformat(shown_now["next_at"]).month == 1


async def test_each_tick_is_one_task_and_one_run_though_the_persister_that_fires_is_killed(
    own_stacks: tuple[Stack, Stack],
) -> None:
    stack, _ = own_stacks
    rounds = 3
    async with stack.client("enterprise") as client:
        schedules = [await _make(client) for _ in range(5)]
        for number in range(rounds):
            await _due_now(stack, schedules)
            if number == 1:
                leader = max(own_stacks, key=lambda one: one.log("persister").count("waker.leads"))
                leader.kill("persister")
            ticks = [tick for one in schedules for tick in await _ticks(client, one, number + 1)]
        leader.start("persister")
        leader.until_ready()
        assert [tick["outcome"] for tick in ticks] == ["fired"] * (rounds * len(schedules))
        fired = {tick["task_id"] for tick in ticks}
        assert len(fired) == len(ticks)
        for task in fired:
            finished = await settled(client, task)
            assert (finished["status"], finished["attempts"]) == ("completed", 1)
            assert len(await usage_rows(stack, task)) == 1
    rows = await stack.rows(
        "SELECT task_id::text AS id FROM history.tasks WHERE metadata ->> 'schedule_id' = ANY ($1)", schedules
    )
    assert sorted(row["id"] for row in rows) == sorted(fired), "no task that no tick tells of"


async def test_ticks_that_nobody_was_there_for_are_skipped_or_run_once_as_the_schedule_says(stack: Stack) -> None:
    last = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=30)
    first = last - timedelta(hours=5)
    async with stack.client("pro") as client:
        skips, runs = [await _make(client, cron=f"{last.minute} * * * *", missed=policy) for policy in POLICIES]
        await _due(stack, [skips, runs], first)
        [skipped] = await _ticks(client, skips, 1)
        fired, before = await _ticks(client, runs, 2)
        finished = await settled(client, fired["task_id"])
    assert (skipped["outcome"], skipped["task_id"]) == ("missed", None)
    assert [datetime.fromisoformat(skipped[end]) for end in ("at", "until")] == [first, last]
    assert (fired["outcome"], datetime.fromisoformat(fired["at"])) == ("fired", last)
    assert (before["outcome"], datetime.fromisoformat(before["until"])) == ("missed", last - timedelta(hours=1))
    assert (finished["status"], finished["attempts"]) == ("completed", 1)
    ran = await stack.rows(
        "SELECT metadata ->> 'schedule_id' AS of FROM history.tasks WHERE metadata ->> 'schedule_id' = ANY ($1)",
        [skips, runs],
    )
    assert [row["of"] for row in ran] == [runs], "five hours are one task, or none"


async def test_what_is_disabled_does_not_tick(own_stacks: tuple[Stack, Stack]) -> None:
    stack, _ = own_stacks
    for one in own_stacks:
        one.kill("persister")
    async with stack.client("pro") as client:
        schedule, other = [await _make(client, missed="run_once") for _ in range(2)]
        await _due_now(stack, [schedule, other])
        # Both are due, and nobody is there to look.
        answer = await client.patch(f"/v1/schedules/{schedule}", json={"enabled": False})
        assert (answer.status_code, answer.json()["next_at"]) == (200, None)
        for one in own_stacks:
            one.start("persister")
            one.until_ready()
        [tick] = await _ticks(client, other, 1)
        await shown(client, tick["task_id"], "completed")
        assert (await client.get(f"/v1/schedules/{schedule}")).json()["ticks"] == []
        again = await client.patch(f"/v1/schedules/{schedule}", json={"enabled": True})
        assert datetime.fromisoformat(again.json()["next_at"]) > datetime.now(UTC)


@pytest.mark.parametrize(
    ("what", "field"),
    [({"cron": "61 * * * *"}, "cron"), ({"cron": "often"}, "cron"), ({"time_zone": "Europe/Atlantis"}, "time_zone")],
)
async def test_a_bad_rhythm_is_refused(stack: Stack, what: dict[str, str], field: str) -> None:
    async with stack.client() as client:
        answer = await client.post("/v1/schedules", json={"cron": YEARLY, "task": {"input": "x"}, **what})
    assert (answer.status_code, [error["field"] for error in answer.json()["errors"]]) == (422, [field])
    assert answer.json()["errors"][0]["reason"]
