"""Calls with side effects that nobody is to approve: each is made at most once, whichever worker dies meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from agent_worker.providers.base import TextDelta, ToolCall
from agent_worker.tools.base import Tool, Toolbox
from common.contracts import TaskSubmitted
from common.contracts.base import now
from common.contracts.events import EventId, StreamEvent
from tests.integration.agent_worker.world import Played, Said, Worker, World

THANKS: Said = (TextDelta("Done."),)


@dataclass
class Desk:
    """Tools that count what they do, and are held back where they are told to."""

    sent: list[str] = field(default_factory=list)
    looks: int = 0
    send_now: asyncio.Event = field(default_factory=asyncio.Event)
    look_now: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, to: str) -> str:
        """Send a letter."""
        self.sent.append(to)
        if to == "slow":
            await self.send_now.wait()
        return f"sent to {to}"

    async def look(self) -> str:
        """Look."""
        self.looks += 1
        await self.look_now.wait()
        return "seen"

    @property
    def box(self) -> dict[str, Toolbox]:
        """For the agent that has them."""
        tools = (Tool.of(self.send, side_effect=True, timeout=60), Tool.of(self.look, timeout=60))
        return {"supervised": Toolbox({tool.spec.name: tool for tool in tools})}


def letter(*to: str, look: bool = False) -> Said:
    calls = [ToolCall(f"c{number}", "send", {"to": name}) for number, name in enumerate(to, 1)]
    return (TextDelta("I write. "), *calls, *([ToolCall("look", "look", {})] if look else []))


def results(provider: Played) -> dict[str, tuple[str, bool]]:
    """What the newest model call was told, by the ids of the tool calls."""
    blocks = [block for turn in provider.requests[-1].turns for block in turn.content]
    return {b["id"]: (b["content"], b["is_error"]) for b in blocks if b["type"] == "tool_result"}


async def _dies(world: World, worker: Worker, task: TaskSubmitted) -> None:
    """It is as good as dead: its lease runs out, and the broker brings its message to others."""
    worker.leases.cancel()
    for _ in range(2):  # its consumer takes one of them
        await world.submit(task)


@pytest.fixture
def desk() -> Desk:
    return Desk()


async def _begun(world: World, desk: Desk, provider: Played) -> tuple[TaskSubmitted, Worker]:
    worker = await world.worker(provider, boxes=desk.box)
    task = world.task(agent="supervised")
    await world.submit(task)
    return task, worker


async def _rows(world: World, table: str, task: TaskSubmitted) -> list[dict[str, Any]]:
    query = f"SELECT * FROM runtime.{table} WHERE task_id = $1 ORDER BY step"
    return [dict(row) for row in await world.owner.fetch(query, task.task_id)]


async def test_what_a_dead_worker_had_begun_is_not_made_again(world: World, desk: Desk) -> None:
    first = Played(letter("slow"), THANKS)
    task, worker = await _begun(world, desk, first)

    async def begun() -> bool:
        return desk.sent == ["slow"]

    await world.until(begun)
    second = Played(letter("slow"), THANKS)
    await world.worker(second, boxes=desk.box)
    await _dies(world, worker, task)
    end = await world.heard.end(task.task_id, 60)
    desk.send_now.set()
    assert (end.status, end.output, end.steps, desk.sent) == ("completed", "Done.", 2, ["slow"])
    ((content, is_error),) = results(second).values()
    assert is_error
    assert "whether it took effect is not known" in content
    assert (len(first.requests), len(second.requests)) == (1, 1), "the model was not asked again for what it had said"
    counted = {record.attempt_id: record.usage.output_tokens for record in world.heard.usage(task.task_id)}
    assert (len(counted), end.usage.output_tokens) == (2, sum(counted.values()))
    assert await _rows(world, "approvals", task) == []


async def test_a_result_that_was_noted_is_used_and_what_is_harmless_is_made_again(world: World, desk: Desk) -> None:
    task, worker = await _begun(world, desk, Played(letter("ann", "bob", look=True), THANKS))

    async def noted() -> bool:
        intents = await _rows(world, "intents", task)
        return desk.looks == 1 and [intent["result"] is not None for intent in intents] == [True, True]

    await world.until(noted)
    second = Played(THANKS, THANKS)
    await world.worker(second, boxes=desk.box)
    await _dies(world, worker, task)

    async def looked_again() -> bool:
        return desk.looks == 2

    await world.until(looked_again, 60)
    desk.look_now.set()
    end = await world.heard.end(task.task_id, 60)
    assert (end.status, sorted(desk.sent), desk.looks) == ("completed", ["ann", "bob"], 2)
    assert results(second) == {"c1": ("sent to ann", False), "c2": ("sent to bob", False), "look": ("seen", False)}


async def test_the_stream_of_a_step_that_was_taken_over_tells_each_call_once(world: World, desk: Desk) -> None:
    task, worker = await _begun(world, desk, Played(letter("ann", look=True), THANKS))

    async def noted() -> bool:
        return desk.looks == 1 and any(intent["result"] for intent in await _rows(world, "intents", task))

    await world.until(noted)
    await world.worker(Played(THANKS, THANKS), boxes=desk.box)
    await _dies(world, worker, task)

    async def looked_again() -> bool:
        return desk.looks == 2

    await world.until(looked_again, 60)
    desk.look_now.set()
    await world.heard.end(task.task_id, 60)

    async def written() -> bool:
        return any(event.type == "done" for event in await world.stream(task))

    await world.until(written)
    standing: list[StreamEvent] = []
    for event in await world.stream(task):
        if event.type == "reset":
            after = EventId.parse(event.data["after"])
            standing = [one for one in standing if one.id <= after]
        standing.append(event)
    told = [(event.type, event.data["id"]) for event in standing if event.type.startswith("tool_")]
    assert sorted(told) == [("tool_end", "c1"), ("tool_end", "look"), ("tool_start", "c1"), ("tool_start", "look")]
    assert "".join(event.data["text"] for event in standing if event.type == "token") == "I write. Done."
    assert [event.type for event in standing].count("usage") == 2


async def test_a_worker_that_has_lost_the_run_makes_no_call(world: World, desk: Desk) -> None:
    first = Played(letter("ann"), THANKS, hold=True)
    task, worker = await _begun(world, desk, first)
    await first.called()
    second = Played(THANKS)
    await world.worker(second, boxes=desk.box)
    await _dies(world, worker, task)
    end = await world.heard.end(task.task_id, 60)
    first.go.set()
    await worker.idle()
    assert (end.output, desk.sent) == ("Done.", [])
    assert await _rows(world, "intents", task) == []


def _stands_still(worker: Worker) -> tuple[asyncio.Event, asyncio.Event]:
    """It does so between its intent and the call: an event when it does, and one that lets it go on."""
    begin, stands, go_on = worker.repository.begin_tools, asyncio.Event(), asyncio.Event()

    async def begun(*arguments: Any) -> Any:
        answer = await begin(*arguments)
        stands.set()
        await go_on.wait()
        return answer

    worker.repository.begin_tools = begun  # type: ignore[assignment,method-assign]
    return stands, go_on


async def test_a_worker_that_stood_still_after_its_intent_does_not_make_the_call_late(world: World, desk: Desk) -> None:
    desk.look_now.set()
    worker = await world.worker(Played(letter("ann", "bob", look=True), THANKS), boxes=desk.box)
    stands, go_on = _stands_still(worker)
    task = world.task(agent="supervised")
    await world.submit(task)
    async with asyncio.timeout(30):
        await stands.wait()
    second = Played(THANKS, THANKS)
    await world.worker(second, boxes=desk.box)
    await _dies(world, worker, task)
    end = await world.heard.end(task.task_id, 60)
    told = results(second)
    assert (end.status, "is not known" in told["c1"][0], "is not known" in told["c2"][0]) == ("completed", True, True)
    go_on.set()  # the model was told to find out first: what it found must stay so
    await worker.idle()
    assert desk.sent == []
    assert [intent["result"] for intent in await _rows(world, "intents", task)] == [None, None]


async def test_a_worker_that_stood_still_makes_the_call_where_the_run_is_still_its_own(
    world: World, desk: Desk
) -> None:
    worker = await world.worker(Played(letter("ann"), THANKS), boxes=desk.box)
    stands, go_on = _stands_still(worker)
    task = world.task(agent="supervised")
    await world.submit(task)
    async with asyncio.timeout(30):
        await stands.wait()
    worker.leases.cancel()

    async def lapsed() -> object:
        return (await world.run_row(task))["lease_until"] < now()

    await world.until(lapsed)
    go_on.set()
    end = await world.heard.end(task.task_id, 60)
    assert (end.status, end.attempts, desk.sent) == ("completed", 1, ["ann"])


async def test_a_step_with_harmless_tools_notes_nothing(world: World, desk: Desk) -> None:
    desk.look_now.set()
    task, _ = await _begun(world, desk, Played((ToolCall("look", "look", {}),), THANKS))
    end = await world.heard.end(task.task_id)
    assert (end.status, desk.looks) == ("completed", 1)
    assert (await _rows(world, "proposals", task), await _rows(world, "intents", task)) == ([], [])


async def test_two_steps_with_side_effects_are_each_begun_once(world: World, desk: Desk) -> None:
    task, _ = await _begun(world, desk, Played(letter("ann"), letter("bob", "cy"), THANKS))
    end = await world.heard.end(task.task_id)
    assert (end.steps, sorted(desk.sent)) == (3, ["ann", "bob", "cy"])
    intents = await _rows(world, "intents", task)
    assert [(i["step"], i["begun_fence"]) for i in intents] == [(1, 1), (2, 1), (2, 1)]
    assert all(intent["result"]["content"].startswith("sent to") for intent in intents)
