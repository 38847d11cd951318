"""A task whose message died has ended for everybody: its run, its row and its stream."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from common.contracts import RunFinished
from common.postgres import Pool, transaction
from persister.burial import bury
from tests.integration.persister.story import Story

AT = datetime(2026, 3, 2, tzinfo=UTC)
ACQUIRE = "SELECT * FROM runtime.acquire($1, $2, $3, $4, $5)"


async def _acquire(owner: Pool, story: Story, lease: timedelta) -> int:
    task = story.submitted()
    row = await owner.fetchrow(ACQUIRE, task.task_id, task.tenant_id, task.tier, "worker", lease)
    assert row is not None
    assert row["decision"] == "acquired"
    fence: int = row["fence"]
    return fence


async def _bury(pool: Pool, story: Story) -> RunFinished | None:
    async with transaction(pool, 10) as connection:
        return await bury(connection, story.submitted(), AT)


async def test_a_task_that_never_ran_ends_with_one_event(story: Story, pool: Pool, owner: Pool) -> None:
    end = await _bury(pool, story)
    assert end is not None
    assert (end.status, [(e.id, e.type) for e in end.events]) == ("failed", [((1, 1), "done")])
    run = await owner.fetchrow("SELECT status, outcome FROM runtime.runs WHERE task_id = $1", story.task_id)
    assert run is not None
    assert (run["status"], run["outcome"]) == ("failed", end.encode())


async def test_a_run_that_was_begun_ends_after_what_stands(story: Story, pool: Pool, owner: Pool) -> None:
    await _acquire(owner, story, timedelta(seconds=-1))
    end = await _bury(pool, story)
    assert end is not None
    assert [(e.id, e.type) for e in end.events] == [((2, 1), "reset"), ((2, 2), "done")]


@pytest.mark.parametrize("times", [1, 2])
async def test_to_bury_twice_is_to_bury_once(story: Story, pool: Pool, times: int) -> None:
    ends = [await _bury(pool, story) for _ in range(times + 1)]
    assert all(end == ends[0] for end in ends)


async def test_what_a_worker_runs_is_not_buried(story: Story, pool: Pool, owner: Pool) -> None:
    fence = await _acquire(owner, story, timedelta(seconds=60))
    assert await _bury(pool, story) is None
    run = await owner.fetchrow("SELECT status, fence FROM runtime.runs WHERE task_id = $1", story.task_id)
    assert run is not None
    assert (run["status"], run["fence"]) == ("running", fence)
