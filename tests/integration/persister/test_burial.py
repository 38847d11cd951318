"""A task whose message died has ended for everybody: its run, its row and its stream."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from common.contracts import RunFinished
from common.contracts.base import now
from common.postgres import Pool
from persister import handlers
from persister.burial import bury_next
from persister.dead_letters import DeadLetter
from tests.integration.persister.story import Story
from tests.stage import eventually

ACQUIRE = "SELECT * FROM runtime.acquire($1, $2, $3, $4, $5)"
DONE = [(1, "done")]


def _letter(story: Story) -> DeadLetter:
    task = story.submitted()
    return DeadLetter(
        dead_letter_id=f"tasks.free/{uuid4()}",
        queue="tasks.free",
        exchange="tasks",
        routing_key="free",
        kind=task.kind,
        task_id=task.task_id,
        reason="delivery_limit",
        headers={},
        body=task.encode(),
        died_at=now(),
        task=task,
    )


async def _file(pool: Pool, *stories: Story) -> None:
    await handlers.file_dead_letters([_letter(story) for story in stories], pool, 10, bury=True)


async def _bury(pool: Pool) -> None:
    while await bury_next(pool, 10):
        pass


async def _acquire(owner: Pool, story: Story, lease: float) -> int:
    task = story.submitted()
    row = await owner.fetchrow(ACQUIRE, task.task_id, task.tenant_id, task.tier, "worker", timedelta(seconds=lease))
    assert row is not None
    assert row["decision"] == "acquired"
    fence: int = row["fence"]
    return fence


async def _finish(owner: Pool, story: Story, fence: int, outcome: bytes) -> None:
    await owner.execute(
        "SELECT runtime.finish($1, $2, 'completed', $3, clock_timestamp())", story.task_id, fence, outcome
    )


async def _run(owner: Pool, story: Story) -> asyncpg.Record:
    run = await owner.fetchrow("SELECT * FROM runtime.runs WHERE task_id = $1", story.task_id)
    assert run is not None
    return run


async def _status(owner: Pool, story: Story) -> Any:
    return await owner.fetchval("SELECT status FROM history.tasks WHERE task_id = $1", story.task_id)


async def _events(owner: Pool, story: Story) -> Sequence[tuple[int, str]]:
    rows = await owner.fetch("SELECT * FROM history.events WHERE task_id = $1 ORDER BY fence, seq", story.task_id)
    return [(row["fence"], row["type"]) for row in rows]


async def _is_due(owner: Pool, story: Story) -> Any:
    return await owner.fetchval("SELECT bury_at FROM history.dead_letters WHERE task_id = $1", story.task_id)


async def test_a_task_that_never_ran_ends_with_one_event(story: Story, pool: Pool, owner: Pool) -> None:
    await _file(pool, story)
    await _bury(pool)
    run = await _run(owner, story)
    end = RunFinished.decode(run["outcome"])
    assert (run["status"], end.status, end.attempts) == ("failed", "failed", 0)
    assert await _status(owner, story) == "failed"
    assert await _events(owner, story) == DONE
    assert await _is_due(owner, story) is None


async def test_a_run_that_was_begun_ends_after_what_stands(story: Story, pool: Pool, owner: Pool) -> None:
    await _acquire(owner, story, -1)
    await _file(pool, story)
    await _bury(pool)
    assert await _events(owner, story) == [(2, "reset"), (2, "done")]


async def test_to_bury_twice_is_to_bury_once(story: Story, pool: Pool, owner: Pool) -> None:
    for _ in range(2):
        await _file(pool, story)
        await _bury(pool)
    assert await _events(owner, story) == DONE
    assert (await _run(owner, story))["fence"] == 1


async def test_a_run_whose_worker_has_just_died_is_buried_when_its_lease_has_run_out(
    story: Story, pool: Pool, owner: Pool
) -> None:
    await _acquire(owner, story, 1)
    await _file(pool, story)
    await _bury(pool)
    assert (await _run(owner, story))["status"] == "running"

    async def buried() -> bool:
        await _bury(pool)
        return bool(await _status(owner, story) == "failed")

    await eventually(buried)
    assert await _events(owner, story) == [(2, "reset"), (2, "done")]


async def test_a_worker_that_goes_on_ends_its_run_itself(story: Story, pool: Pool, owner: Pool) -> None:
    fence = await _acquire(owner, story, 1)
    await _file(pool, story)
    await _bury(pool)
    await _finish(owner, story, fence, story.finished().encode())

    async def settled() -> bool:
        await _bury(pool)
        return await _is_due(owner, story) is None

    await eventually(settled)
    assert await _status(owner, story) == "completed"


async def test_a_letter_that_cannot_be_settled_stands_in_no_others_way(story: Story, pool: Pool, owner: Pool) -> None:
    """What a newer worker has written waits for a newer persister."""
    fence = await _acquire(owner, story, 60)
    await _finish(owner, story, fence, b'{"version": 99}')
    another = Story(uuid4(), uuid4())
    await _file(pool, story, another)
    await _bury(pool)
    assert await _status(owner, another) == "failed"
    assert await _status(owner, story) is None
    assert await _is_due(owner, story) > now()


@pytest.mark.parametrize("bury", [False, True])
async def test_only_what_died_in_its_lane_is_buried(story: Story, pool: Pool, owner: Pool, bury: bool) -> None:
    """A submission that could not be recorded is still in its lane."""
    await handlers.file_dead_letters([_letter(story)], pool, 10, bury=bury)
    assert (await _is_due(owner, story) is not None) == bury


async def test_a_run_that_is_parked_is_left_to_wait(story: Story, pool: Pool, owner: Pool) -> None:
    """The message that died was a second one: the run is woken with its own."""
    later = story.submitted(not_before=now() + timedelta(hours=1))
    parking = "SELECT * FROM runtime.acquire($1, $2, 'free', 'worker', interval '1 second', NULL, $3)"
    row = await owner.fetchrow(parking, story.task_id, story.tenant_id, later.encode())
    assert row is not None
    assert row["decision"] == "parked"
    await _file(pool, story)
    await _bury(pool)
    assert (await _run(owner, story))["status"] == "parked"
    assert await _status(owner, story) == "queued"
    assert await _is_due(owner, story) is None


@pytest.mark.parametrize("what", ["a pause", "a cancel of many"])
async def test_what_is_held_back_is_looked_at_again(story: Story, pool: Pool, owner: Pool, what: str) -> None:
    """Its letter is not forgotten: it is buried, or found cancelled, when nothing holds it back any more."""
    if what == "a pause":
        await owner.execute("SELECT runtime.pause('tenant', $1, false, 'ada', 'a test')", str(story.tenant_id))
    else:
        await owner.execute(
            "SELECT runtime.begin_cancellation($1, $2, now(), NULL, NULL, NULL)", uuid4(), story.tenant_id
        )
    await _file(pool, story)
    await _bury(pool)
    row = await owner.fetchrow("SELECT status, submitted_at FROM history.tasks WHERE task_id = $1", story.task_id)
    assert row is not None
    assert (row["status"], row["submitted_at"]) == ("queued", story.submitted().submitted_at)
    if what == "a pause":
        await owner.execute("SELECT runtime.resume('tenant', $1, 'ada', 'over')", str(story.tenant_id))
    due = "UPDATE history.dead_letters SET bury_at = now() - interval '1 second' WHERE task_id = $1 RETURNING bury_at"
    assert await owner.fetchval(due, story.task_id)
    await _bury(pool)
    assert (await _run(owner, story))["status"] == ("failed" if what == "a pause" else "cancelled")
    left = "SELECT count(*) FROM history.dead_letters WHERE task_id = $1 AND bury_at IS NOT NULL"
    assert await owner.fetchval(left, story.task_id) == 0
