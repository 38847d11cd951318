"""One run of a conversation at a time, each shown what those before it said; and what is asked of a busy one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

from agent_worker.providers.base import ModelRequest, PermanentError, TextDelta, ToolCall
from common.contracts import TaskSubmitted
from common.contracts.base import now
from common.contracts.tasks import InputMessage
from common.messaging.publisher import Publisher
from tests.integration.agent_worker.world import Played, World
from tests.integration.parking.yard import ANSWER, cap, told, until_parked, waking

COMPUTE = (TextDelta("Let me see. "), ToolCall("c1", "calculator", {"expression": "2 * 21"}))


class Echo(Played):
    """Answers each message with itself, whatever was said before."""

    def script(self, request: ModelRequest) -> Sequence[TextDelta | ToolCall | PermanentError]:
        return (TextDelta(f"re: {request.turns[-1].content[0]['text']}"),)


def said(request: ModelRequest) -> list[str]:
    """All texts of a request."""
    return [block["text"] for turn in request.turns for block in turn.content if block["type"] == "text"]


class Talk:
    """A conversation of a tenant."""

    def __init__(self, world: World, tenant: UUID | None = None, conversation: UUID | None = None) -> None:
        self.world = world
        self.tenant = tenant or world.stage.new_tenant()
        self.id = conversation or uuid4()
        self._start = now()
        self._count = 0

    def message(self, text: str, **changes: Any) -> TaskSubmitted:
        """Its next message, submitted a millisecond after the one before."""
        self._count += 1
        submitted = self._start + timedelta(milliseconds=self._count)
        values = {"tenant_id": self.tenant, "conversation_id": self.id, "submitted_at": submitted}
        return self.world.task(text, **{**values, **changes})

    async def turns(self) -> list[tuple[int, list[str]]]:
        """Numbers, and the texts that were said."""
        rows = await self.world.owner.fetch(
            "SELECT number, messages FROM runtime.turns"
            " WHERE tenant_id = $1 AND conversation_id = $2 AND number IS NOT NULL ORDER BY number",
            self.tenant,
            self.id,
        )
        return [
            (row["number"], [b["text"] for m in row["messages"] for b in m["content"] if b["type"] == "text"])
            for row in rows
        ]


async def test_twenty_messages_at_once_are_answered_one_after_the_other(world: World, resender: Publisher) -> None:
    talk, provider = Talk(world), Echo()
    for _ in range(2):
        await world.worker(provider, slots=4)
    messages = [talk.message(f"m{n}", priority=n % 10) for n in range(20)]
    async with waking(world, resender):
        await asyncio.gather(*map(world.submit, messages))
        ends = [await world.heard.end(message.task_id, 30) for message in messages]
    assert {end.status for end in ends} == {"completed"}
    in_turn = sorted(ends, key=lambda end: end.started_at or end.finished_at)
    for earlier, later in pairwise(in_turn):
        assert later.started_at is not None
        assert earlier.finished_at <= later.started_at
    turns = await talk.turns()
    assert [number for number, _ in turns] == list(range(1, 21))
    assert len(provider.requests) == 20
    whole: list[str] = []
    for request, (_, texts) in zip(provider.requests, turns, strict=True):
        assert said(request) == [*whole, texts[0]], "each run sees all the turns before it, and nothing else"
        whole += texts
    assert sorted(whole[::2]) == sorted(f"m{n}" for n in range(20))


async def test_those_that_wait_go_by_their_submission_and_not_by_priority(world: World, resender: Publisher) -> None:
    talk, provider = Talk(world), Echo(hold=True)
    worker = await world.worker(provider, slots=8)
    first, second, third, urgent = (
        talk.message(text, priority=p) for text, p in (("a", 5), ("b", 0), ("c", 5), ("d", 9))
    )
    await world.submit(first)
    await provider.called()
    for task in (urgent, third, second):
        await world.submit(task)
        await until_parked(world, task, "conversation_busy")
    other = Talk(world, talk.tenant).message("elsewhere")
    await world.submit(other)
    await provider.called(2)
    assert worker.supervisor.held == 2, "what waits takes up no slot, and another conversation is not in the way"
    async with waking(world, resender):
        provider.go.set()
        for task in (first, second, third, urgent):
            await world.heard.end(task.task_id)
    assert [texts[0] for _, texts in await talk.turns()] == ["a", "b", "c", "d"]
    assert told(await world.stream(second))[0] == ("0-1", "conversation_busy")


async def test_a_message_that_waits_for_a_cap_keeps_its_place_in_the_conversation(
    world: World, resender: Publisher
) -> None:
    talk, provider = Talk(world), Echo(hold=True)
    await cap(world, talk.tenant, 1)
    await world.worker(provider, slots=8)
    blocking = world.task("in the way", tenant_id=talk.tenant)
    await world.submit(blocking)
    await provider.called()
    first, urgent = talk.message("a"), talk.message("b", priority=9)
    await world.submit(first)
    await until_parked(world, first, "running_cap")
    await world.submit(urgent)
    await until_parked(world, urgent, "conversation_busy")
    async with waking(world, resender):
        provider.go.set()
        for task in (blocking, first, urgent):
            assert (await world.heard.end(task.task_id)).status == "completed"
    assert [texts[0] for _, texts in await talk.turns()] == ["a", "b"]


async def test_the_next_run_sees_tool_calls_with_their_results(world: World, resender: Publisher) -> None:
    talk, provider = Talk(world), Played(COMPUTE, ANSWER)
    await world.worker(provider)
    async with waking(world, resender):
        for text in ("what is 2 * 21?", "and now?"):
            message = talk.message(text)
            await world.submit(message)
            await world.heard.end(message.task_id)
    kinds = [[block["type"] for block in turn.content] for turn in provider.requests[-1].turns]
    assert kinds == [["text"], ["text", "tool_call"], ["tool_result"], ["text"], ["text"]]
    assert provider.requests[-1].turns[2].content[0]["content"] == "42"


async def test_a_run_that_fails_adds_nothing_and_lets_the_next_one_go_on(world: World, resender: Publisher) -> None:
    class Failing(Echo):
        def script(self, request: ModelRequest) -> Sequence[TextDelta | ToolCall | PermanentError]:
            if "bad" in said(request):
                return (PermanentError("bad_request", "refused", refused=True),)
            return super().script(request)

    talk, provider = Talk(world), Failing()
    await world.worker(provider, slots=8)
    bad, good = talk.message("bad"), talk.message("good")
    async with waking(world, resender):
        await world.submit(bad)
        assert (await world.heard.end(bad.task_id)).status == "failed"
        await world.submit(good)
        assert (await world.heard.end(good.task_id)).status == "completed"
    assert await talk.turns() == [(1, ["good", "re: good"])]


async def test_who_does_not_want_to_wait_is_told_that_it_is_busy(world: World, resender: Publisher) -> None:
    talk, provider = Talk(world), Echo(hold=True)
    await world.worker(provider, slots=8)
    first, refused = talk.message("a"), talk.message("b", on_busy="reject")
    await world.submit(first)
    await provider.called()
    await world.submit(refused)
    end = await world.heard.end(refused.task_id)
    assert (end.status, end.error.type if end.error else None) == ("failed", "conversation_busy")
    async with waking(world, resender):
        provider.go.set()
        await world.heard.end(first.task_id)
        again = talk.message("c", on_busy="reject")
        await world.submit(again)
        assert (await world.heard.end(again.task_id)).status == "completed"
    assert [texts[0] for _, texts in await talk.turns()] == ["a", "c"]


async def test_an_interruption_stops_what_runs_and_goes_next(world: World, resender: Publisher) -> None:
    talk, provider = Talk(world), Echo(hold=True)
    # Its leases are renewed too rarely for that to be how the run hears of it: it is the bell.
    for _ in range(2):
        await world.worker(provider, slots=4, lease=30)
    first, waiting, stopping = talk.message("a"), talk.message("b"), talk.message("c", on_busy="interrupt")
    await world.submit(first)
    await provider.called()
    await world.submit(waiting)
    await until_parked(world, waiting, "conversation_busy")
    async with waking(world, resender):
        await world.submit(stopping)
        assert (await world.heard.end(first.task_id, 5)).status == "cancelled"
        await provider.called(2)
        assert said(provider.requests[1]) == ["c"], "it goes before who waited, and does not see what was cut"
        provider.go.set()
        for task in (stopping, waiting):
            assert (await world.heard.end(task.task_id)).status == "completed"
    assert [texts[0] for _, texts in await talk.turns()] == ["c", "b"]


async def test_the_last_interruption_wins(world: World, resender: Publisher) -> None:
    talk, provider = Talk(world), Echo(hold=True)
    await world.worker(provider, slots=8, lease=30)
    first = talk.message("a")
    older, newer = talk.message("b", on_busy="interrupt"), talk.message("c", on_busy="interrupt")
    await world.submit(first)
    await provider.called()
    await world.submit(older)
    await until_parked(world, older, "conversation_busy")
    await world.submit(newer)
    await until_parked(world, newer, "conversation_busy")
    async with waking(world, resender):
        provider.go.set()
        ends = {task.task_id: await world.heard.end(task.task_id) for task in (first, older, newer)}
    assert [ends[task.task_id].status for task in (first, older, newer)] == ["cancelled", "cancelled", "completed"]
    assert [texts[0] for _, texts in await talk.turns()] == ["c"]


async def test_an_interruption_that_comes_late_does_not_stop_what_was_submitted_after_it(
    world: World, resender: Publisher
) -> None:
    talk, provider = Talk(world), Echo(hold=True)
    await world.worker(provider, slots=8)
    late, running = talk.message("late", on_busy="interrupt"), talk.message("running")
    await world.submit(running)
    await provider.called()
    await world.submit(late)
    await until_parked(world, late, "conversation_busy")
    async with waking(world, resender):
        provider.go.set()
        for task in (running, late):
            assert (await world.heard.end(task.task_id)).status == "completed"


async def test_a_conversation_whose_worker_dies_goes_on_with_the_same_message(
    world: World, resender: Publisher
) -> None:
    talk, provider = Talk(world), Echo(hold=True)
    first_worker = await world.worker(provider, slots=1, lease=0.5)
    first, second = talk.message("a"), talk.message("b")
    await world.submit(first)
    await provider.called()
    # Its lease runs out while it is alive: whoever counts by leases would let the next one in now.
    first_worker.leases.cancel()

    async def lapsed() -> bool:
        row = await world.run_row(first)
        return bool(await world.owner.fetchval("SELECT $1 < clock_timestamp()", row["lease_until"]))

    await world.until(lapsed)
    await world.worker(provider, slots=4)
    await world.submit(second)
    await until_parked(world, second, "conversation_busy")
    async with waking(world, resender):
        await world.submit(first)  # as the broker does when the worker's connection is gone
        await provider.called(2)
        assert (await world.run_row(first))["fence"] == 2
        provider.go.set()
        await world.heard.end(second.task_id)
    assert [texts[0] for _, texts in await talk.turns()] == ["a", "b"]
    assert said(provider.requests[-1]) == ["a", "re: a", "b"]


async def test_redis_may_forget_everything(world: World, resender: Publisher) -> None:
    talk, provider = Talk(world), Echo()
    await world.worker(provider)
    async with waking(world, resender):
        for text in "abc":
            message = talk.message(text)
            await world.submit(message)
            await world.heard.end(message.task_id)
            keys = [key async for key in world.state.scan_iter(match=f"{{{talk.tenant}}}:*", count=1000)]
            await world.state.delete(*keys)
    assert said(provider.requests[-1]) == ["a", "re: a", "b", "re: b", "c"]


async def test_the_same_id_of_another_tenant_is_another_conversation(world: World, resender: Publisher) -> None:
    ours, provider = Talk(world), Echo(hold=True)
    theirs = Talk(world, conversation=ours.id)
    await world.worker(provider)
    tasks = [ours.message("ours"), theirs.message("theirs")]
    for task in tasks:
        await world.submit(task)
    await provider.called(2)
    provider.go.set()
    for task in tasks:
        await world.heard.end(task.task_id)
    assert sorted(said(request)[0] for request in provider.requests) == ["ours", "theirs"]
    assert await ours.turns() == [(1, ["ours", "re: ours"])]


async def test_another_users_conversation_is_not_found(world: World, resender: Publisher) -> None:
    talk, provider = Talk(world), Echo()
    await world.worker(provider)
    annas, bobs, nobodys = talk.message("a", user_id="anna"), talk.message("b", user_id="bob"), talk.message("c")
    again = talk.message("d", user_id="anna")
    async with waking(world, resender):
        for task in (annas, bobs, nobodys, again):
            await world.submit(task)
            await world.heard.end(task.task_id)
    ends = [world.heard.ends(task.task_id)[0][0] for task in (annas, bobs, nobodys, again)]
    assert [end.error.type if end.error else end.status for end in ends] == [
        "completed",
        "conversation_not_found",
        "conversation_not_found",
        "completed",
    ]
    assert said(provider.requests[-1]) == ["a", "re: a", "d"]


async def test_in_a_small_window_the_oldest_exchanges_are_dropped_and_the_stream_says_so(
    world: World, resender: Publisher
) -> None:
    talk, provider = Talk(world), Echo()
    await world.worker(provider)
    long = "x" * 50_000
    async with waking(world, resender):
        for n in range(4):
            message = talk.message(f"{n}{long}")
            await world.submit(message)
            await world.heard.end(message.task_id)
    newest = said(provider.requests[-1])
    assert [text[:5] for text in newest] == ["2xxxx", "re: 2", "3xxxx"], "about 200,000 tokens, at worst one a byte"
    (status,) = [event for event in await world.stream(message) if event.type == "status"]
    assert status.data == {"status": "running", "step": 1, "history": {"exchanges": 1, "dropped": 2}}


async def test_a_task_without_a_conversation_reads_and_leaves_nothing(world: World) -> None:
    task = world.task(input=(InputMessage(role="user", content="hello"),))
    worker = await world.worker(Played(ANSWER))
    asked: list[UUID] = []
    history = worker.repository.history

    async def counted(task_id: UUID, size: int) -> Any:
        asked.append(task_id)
        return await history(task_id, size)

    worker.repository.history = counted  # type: ignore[method-assign]
    await world.submit(task)
    await world.heard.end(task.task_id)
    assert asked == []
    assert await world.owner.fetchval("SELECT count(*) FROM runtime.turns WHERE task_id = $1", task.task_id) == 0
