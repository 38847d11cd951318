"""The record is the same in whatever order, and however often, a task's messages arrive."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any
from uuid import UUID, uuid4

import pytest

from common.contracts import RunFinished, TaskSubmitted
from common.contracts.runs import Fallback, Routing, RunError
from common.contracts.tasks import InputMessage
from common.pipelining import Pipelined
from common.postgres import Pool
from persister import handlers
from persister.handlers import Recorded
from tests.integration.persister.story import START, Story
from tests.unit.gateway.broken import BrokenRedis


async def _record(pool: Pool, *batch: Recorded) -> None:
    # Redis has no part in it.
    await handlers.record(batch, pool, 10, Pipelined(BrokenRedis(), 1.0))


async def _task(owner: Pool, task_id: UUID) -> dict[str, Any]:
    row = await owner.fetchrow("SELECT * FROM history.tasks WHERE task_id = $1", task_id)
    assert row is not None
    return dict(row)


async def _events(owner: Pool, task_id: UUID) -> list[tuple[int, int, str]]:
    rows = await owner.fetch("SELECT * FROM history.events WHERE task_id = $1 ORDER BY fence, seq", task_id)
    return [(row["fence"], row["seq"], row["type"]) for row in rows]


async def _messages(owner: Pool, task_id: UUID) -> list[tuple[str, Any]]:
    rows = await owner.fetch("SELECT role, content FROM history.messages WHERE task_id = $1 ORDER BY seq", task_id)
    return [(row["role"], row["content"]) for row in rows]


async def test_every_order_repetition_and_grouping_leaves_the_same_record(pool: Pool, owner: Pool) -> None:
    for order in itertools.permutations(range(3)):
        for together in (True, False):
            story = Story(uuid4(), uuid4())
            said = _said(story)
            batch = [said[index] for index in (*order, *order)]
            if together:
                await _record(pool, *batch)
            else:
                for message in batch:
                    await _record(pool, message)
            await _assert_whole(owner, story)


def _said(story: Story) -> tuple[Recorded, ...]:
    return story.submitted(), story.progressed(story.event(1, "start"), story.event(2)), story.finished()


async def _assert_whole(owner: Pool, story: Story) -> None:
    task = await _task(owner, story.task_id)
    assert task["submitted_at"] == START
    assert task["input"] == [{"role": "user", "content": "What is AI?"}]
    assert (task["status"], task["output"]) == ("completed", "A field of computer science.")
    assert (task["user_id"], task["metadata"]) == ("anna", {"order": "4711"})
    assert task["usage"]["input_tokens"] == 10
    assert await _events(owner, story.task_id) == [(1, 1, "start"), (1, 2, "token"), (1, 3, "done")]
    assert await _messages(owner, story.task_id) == [
        ("user", [{"type": "text", "text": "What is AI?"}]),
        ("assistant", [{"type": "text", "text": "A field of computer science."}]),
    ]


async def test_how_a_task_came_by_its_model_is_recorded(story: Story, pool: Pool, owner: Pool) -> None:
    move = Fallback(step=1, from_model="first", to_model="second", reason="provider_unavailable")
    routing = Routing(model="first", reason="rule 1")
    await _record(
        pool, story.submitted(), story.finished(routing=routing, fallbacks=(move,), structured=True, cached=True)
    )
    await _record(pool, story.finished(fence=2))
    task = await _task(owner, story.task_id)
    assert (task["structured"], task["cached"]) == (True, True)
    assert (task["routing"], task["fallbacks"]) == (routing.model_dump(), [move.model_dump()])


@pytest.mark.parametrize("together", [True, False])
async def test_the_first_end_stays(story: Story, pool: Pool, owner: Pool, together: bool) -> None:
    first = story.finished(status="failed", output=None, error=RunError(type="budget_exceeded", message="No."))
    second = story.finished(fence=2)
    if together:
        await _record(pool, first, second, story.submitted())
    else:
        await _record(pool, first)
        await _record(pool, second)
        await _record(pool, story.submitted())
    task = await _task(owner, story.task_id)
    assert (task["status"], task["output"], task["error_type"]) == ("failed", None, "budget_exceeded")


async def test_an_end_without_a_submission_waits_for_it(story: Story, pool: Pool, owner: Pool) -> None:
    await _record(pool, story.finished())
    task = await _task(owner, story.task_id)
    assert (task["status"], task["submitted_at"], task["input"]) == ("completed", None, None)


async def test_events_of_every_fence_are_kept(story: Story, pool: Pool, owner: Pool) -> None:
    await _record(pool, story.progressed(story.event(1), story.event(1, "reset", fence=2)))
    assert await _events(owner, story.task_id) == [(1, 1, "token"), (2, 1, "reset")]


async def test_another_tenants_message_changes_nothing(story: Story, pool: Pool, owner: Pool) -> None:
    await _record(pool, story.submitted())
    await _record(pool, Story(uuid4(), story.task_id).finished(output="stolen"))
    assert (await _task(owner, story.task_id))["status"] == "queued"


async def test_nul_characters_are_replaced_and_poison_nothing(story: Story, pool: Pool, owner: Pool) -> None:
    content = "a\x00b and \\u0000 and \\\x00"
    task = TaskSubmitted.decode(story.submitted(input=(InputMessage(role="user", content=content),)).encode())
    event = story.event(3, "done", text="\x00")
    end = RunFinished.decode(story.finished(output="x\x00", events=(event,)).encode())
    await _record(pool, task, end, story.progressed(story.event(1, text="not decoded \x00")))
    row = await _task(owner, story.task_id)
    assert row["input"][0]["content"] == "a\ufffdb and \\u0000 and \\\ufffd"
    assert row["output"] == "x\ufffd"
    texts = await owner.fetch("SELECT data->>'text' FROM history.events WHERE task_id = $1 ORDER BY seq", story.task_id)
    assert [text for (text,) in texts] == ["not decoded \ufffd", "\ufffd"]


async def test_batches_of_the_same_tasks_do_not_deadlock(pool: Pool, owner: Pool) -> None:
    stories = [Story(uuid4(), uuid4()) for _ in range(40)]
    chance = random.Random(7)

    async def deliver() -> None:
        said: list[Recorded] = [
            message
            for story in stories
            for message in (
                story.submitted(),
                story.progressed(story.event(1, "start"), story.event(2)),
                story.finished(),
            )
        ]
        chance.shuffle(said)
        for start in range(0, len(said), 30):
            await _record(pool, *said[start : start + 30])

    async with asyncio.timeout(60):
        await asyncio.gather(*(deliver() for _ in range(6)))
    for story in stories:
        await _assert_whole(owner, story)
