"""Long conversations on real servers: what the window leaves out is summed up once, paid as any call, and forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

from agent_worker.minutes import INSTRUCTIONS
from agent_worker.providers.base import ModelRequest, PermanentError, ProviderError, TextDelta, ToolCall
from agent_worker.sizes import overhead, text_bytes
from agent_worker.tools.base import Toolbox
from agent_worker.tools.builtin import builtin_tools
from common.contracts import RunFinished, TaskSubmitted
from common.contracts.base import now
from tests.integration.agent_worker.test_worker_tool_use import events
from tests.integration.agent_worker.world import MINUTED, TEST_CATALOGUE, Played, World

DEADLINE = 60.0
_LONG = "word " * 180
_TOOLS = builtin_tools()


class Minuting(Played):
    """Answers each message with itself, and sums up with a number; or cannot."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.fails = fails

    def script(self, request: ModelRequest) -> Sequence[TextDelta | ToolCall | ProviderError]:
        """See `Played.script`."""
        if request.system != INSTRUCTIONS:
            return (TextDelta(f"re: {request.turns[-1].content[0]['text']}"),)
        if self.fails:
            return (PermanentError("overloaded", "not now"),)
        return (TextDelta(f"minutes {len(self.summaries)}"),)

    @property
    def summaries(self) -> list[ModelRequest]:
        """The calls that were to sum up."""
        return [request for request in self.requests if request.system == INSTRUCTIONS]

    @property
    def said(self) -> list[ModelRequest]:
        """The others."""
        return [request for request in self.requests if request.system != INSTRUCTIONS]


class Talk:
    """A conversation whose every message is long."""

    def __init__(self, world: World) -> None:
        self.world, self.tenant, self.id = world, world.stage.new_tenant(), uuid4()
        self._start, self._count = now(), 0

    def message(self, **changes: Any) -> TaskSubmitted:
        """The next one."""
        self._count += 1
        submitted = self._start + timedelta(milliseconds=self._count)
        values = {"tenant_id": self.tenant, "conversation_id": self.id, "submitted_at": submitted, "agent": "minuted"}
        return self.world.task(f"message {self._count}: {_LONG}", **{**values, **changes})

    async def say(self, **changes: Any) -> RunFinished:
        """And its answer."""
        task = self.message(**changes)
        await self.world.submit(task)
        end = await self.world.heard.end(task.task_id, DEADLINE)
        assert end.status == "completed", end.error
        return end

    async def summaries(self) -> list[tuple[int, str]]:
        """What is stored."""
        rows = await self.world.owner.fetch(
            "SELECT upto, text FROM runtime.summaries WHERE tenant_id = $1", self.tenant
        )
        return [(row["upto"], row["text"]) for row in rows]


def first(request: ModelRequest) -> str:
    return str(request.turns[0].content[0]["text"])


def size(request: ModelRequest) -> int:
    """What it can be in tokens at most, with the longest answer."""
    tools = Toolbox({spec.name: _TOOLS[spec.name] for spec in request.tools})
    said = text_bytes(request.instructions, request.turns) + overhead(request.turns, tools)
    return said + request.max_output_tokens


def told(world: World, end: RunFinished) -> list[Any]:
    return [event.data["summarizing"] for event in events(world, end) if "summarizing" in event.data]


async def test_what_is_left_out_is_summed_up_once_and_paid(world: World) -> None:
    provider, talk = Minuting(), Talk(world)
    await world.worker(provider)
    ends = [await talk.say() for _ in range(9)]
    window = TEST_CATALOGUE.models_for(MINUTED.model)[0].window
    assert all(size(request) <= window for request in provider.requests), "never more than the window"
    made = [end for end in ends if told(world, end)]
    assert len(made) == len(provider.summaries)
    assert 1 < len(made) < 5, "not with each message"
    for end in ends:
        usage = world.heard.usage(end.task_id)
        assert len(usage) == (2 if end in made else 1)
        assert end.usage == sum((record.usage for record in usage[1:]), usage[0].usage)
        attempts = {record.attempt_id for record in usage}
        assert attempts <= await world.holds(world.task().model_copy(update={"task_id": end.task_id}))
    second = str(provider.summaries[1].turns[0].content[0]["text"])
    assert second.startswith("Earlier minutes:\nminutes 1\n")
    assert "message 1:" in first(provider.summaries[0])
    assert "message 1:" not in second, "what was summed up is not read again"
    assert first(provider.said[-1]).endswith(f"minutes {len(made)}")
    assert "message 9:" in str(provider.said[-1].turns[-1])
    ((upto, text),) = await talk.summaries()
    assert text == f"minutes {len(made)}"
    shown = [str(turn.content[0]["text"]) for turn in provider.said[-1].turns if turn.role == "user"]
    assert f"message {upto + 1}:" in shown[1], "what comes after the summary is all there"


async def test_a_run_goes_on_without_a_summary_that_cannot_be_made(world: World) -> None:
    provider, talk = Minuting(fails=True), Talk(world)
    await world.worker(provider)
    ends = [await talk.say() for _ in range(5)]
    assert told(world, ends[-1])[-1] is None
    assert not await talk.summaries()
    assert "message" in first(provider.said[-1])
    assert len(provider.said[-1].turns) < 9, "trimmed as without"
    provider.fails = False
    await talk.say()
    assert len(await talk.summaries()) == 1


async def test_nothing_is_summed_up_that_nobody_asked_for(world: World) -> None:
    provider, talk = Minuting(), Talk(world)
    await world.worker(provider)
    for _ in range(5):
        await talk.say(agent="default", model=MINUTED.model)
    assert not provider.summaries


async def test_a_summary_goes_with_its_conversation(world: World) -> None:
    provider, talk = Minuting(), Talk(world)
    await world.worker(provider)
    for _ in range(5):
        last = await talk.say()
    assert await talk.summaries()
    await world.owner.execute(
        "INSERT INTO history.conversations VALUES ($1, $2, NULL, 'x', false, now(), now())", talk.tenant, talk.id
    )
    await world.owner.fetch(
        "SELECT * FROM runtime.begin_erasure($1, $2, $3, clock_timestamp(), 'ada')", uuid4(), talk.tenant, talk.id
    )
    assert not await talk.summaries()
    keep = "SELECT runtime.keep_summary($1, 1, 3, 'what was said')"
    reopen = "UPDATE runtime.runs SET status = $2 WHERE task_id = $1"
    await world.owner.execute(reopen, last.task_id, "running")
    await world.owner.execute(keep, last.task_id)
    await world.owner.execute(reopen, last.task_id, "completed")
    assert not await talk.summaries(), "what a run knows of a deleted conversation is not kept"
