from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest

from agent_worker.happenings import (
    Answered,
    CallUsed,
    Happening,
    LimitReachedError,
    Retrying,
    StepEnded,
    Token,
    ToolEnded,
    ToolStarted,
)
from agent_worker.loop import AgentLoop
from agent_worker.providers.base import (
    CallMeter,
    ModelRequest,
    PermanentError,
    ProviderError,
    RateLimits,
    TextDelta,
    ToolCall,
    TransientError,
    Turn,
)
from agent_worker.providers.scripted import Scripted
from agent_worker.resilience.chain import Served
from agent_worker.resilience.retry import Retry
from agent_worker.tools.base import Tool, Toolbox, ToolError
from tests.unit.agent_worker.serving import plan, served

ASKED = (Turn("user", ({"type": "text", "text": "hello"},)),)
Said = Sequence[TextDelta | ToolCall | ProviderError]


@dataclass
class Books:
    """`Calls` that counts, and that takes its time over it."""

    turns: int = 0
    begun: list[UUID] = field(default_factory=list)
    recorded: list[tuple[UUID, CallMeter]] = field(default_factory=list)
    bounds: list[int] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    known: list[int] = field(default_factory=list)
    durable: int = 0

    async def begin(self, step: int, served: Served, input_bound: int, input_estimate: int) -> UUID:
        for _ in range(self.turns):
            await asyncio.sleep(0)
        self.begun.append(uuid4())
        self.models.append(served.model.name)
        self.bounds.append(input_bound)
        return self.begun[-1]

    async def begin_known(self, step: int, served: Served) -> None:
        self.known.append(step)

    def heard(self, limits: RateLimits) -> None:
        """See `Calls.heard`."""

    def record(self, attempt: UUID, step: int, meter: CallMeter) -> None:
        self.recorded.append((attempt, meter))

    async def confirmed(self) -> None:
        """See `Calls.confirmed`."""
        self.durable = len(self.recorded)

    def check(self) -> None:
        assert [attempt for attempt, _ in self.recorded] == self.begun


async def double(n: int) -> str:
    """Twice the number."""
    await asyncio.sleep(0)
    return str(2 * n)


async def refuse() -> str:
    """Never works."""
    raise ToolError("no")


TOOLS = Toolbox({tool.spec.name: tool for tool in (Tool.of(double), Tool.of(refuse))})


def agent(script: Callable[[ModelRequest], Said], books: Books, window: int = 100_000, **planned: Any) -> AgentLoop:
    asked = plan(served(Scripted(script), window=window), **planned)
    return AgentLoop(asked, TOOLS, books, Retry(base=0.001, cap=0.001))


def in_turn(*answers: Said) -> Callable[[ModelRequest], Said]:
    left = iter(answers)
    return lambda _: next(left)


async def played(script: Callable[[ModelRequest], Said], **planned: Any) -> tuple[list[Happening], Books]:
    books = Books()
    happenings = [happening async for happening in agent(script, books, **planned).run(ASKED)]
    books.check()
    return happenings, books


async def test_a_plain_answer() -> None:
    happenings, books = await played(in_turn((TextDelta("He"), TextDelta("llo"))))
    assert [type(h) for h in happenings] == [Token, Token, CallUsed, Answered]
    answered = happenings[-1]
    assert isinstance(answered, Answered)
    assert (answered.text, answered.stop_reason, answered.step.number) == ("Hello", "end_turn", 1)
    assert answered.step.usage.output_tokens == 2
    assert len(books.begun) == 1


async def test_parallel_tools_run_in_order_and_their_results_go_to_the_model() -> None:
    seen: list[ModelRequest] = []

    def script(request: ModelRequest) -> Said:
        seen.append(request)
        if len(seen) == 1:
            return (TextDelta("\n\n"), ToolCall("a", "double", {"n": 1}), ToolCall("b", "double", {"n": 2}))
        return (TextDelta("done"),)

    happenings, _ = await played(script)
    kinds = [ToolStarted, ToolStarted, ToolEnded, ToolEnded, StepEnded, Token, CallUsed, Answered]
    assert [type(h) for h in happenings[2:]] == kinds
    said, results = seen[1].turns[1:]
    assert [block["type"] for block in said.content] == ["tool_call", "tool_call"]  # the blanks are not sent back
    assert [(block["id"], block["content"]) for block in results.content] == [("a", "2"), ("b", "4")]


async def test_a_tools_error_goes_back_to_the_model() -> None:
    seen: list[ModelRequest] = []

    def script(request: ModelRequest) -> Said:
        seen.append(request)
        return (ToolCall("a", "refuse", {}),) if len(seen) == 1 else (TextDelta("ok"),)

    await played(script)
    assert seen[1].turns[-1].content[0]["is_error"] is True
    assert seen[1].turns[-1].content[0]["content"] == "no"


async def test_after_a_transient_error_the_partial_text_does_not_stand() -> None:
    cut = TransientError("stream_cut", "gone")
    happenings, books = await played(in_turn((TextDelta("wrong"), cut), (TextDelta("right"),)))
    assert [type(h) for h in happenings] == [Token, CallUsed, Retrying, Token, CallUsed, Answered]
    answered, first = happenings[-1], happenings[1]
    assert isinstance(answered, Answered)
    assert isinstance(first, CallUsed)
    assert answered.text == "right"
    assert first.estimated
    assert len(books.begun) == 2
    assert answered.step.usage.output_tokens == 2  # both calls were paid for


async def test_a_permanent_error_ends_it() -> None:
    with pytest.raises(PermanentError):
        await played(in_turn((PermanentError("refused", "no"),)))


async def test_transient_errors_end_it_in_the_end() -> None:
    books = Books()
    with pytest.raises(TransientError):
        await consume(agent(lambda _: (TransientError("x", "y"),), books), [])
    books.check()
    assert len(books.begun) == Retry().calls


async def test_an_answer_without_text_is_an_answer() -> None:
    happenings, _ = await played(in_turn(()))
    answered = happenings[-1]
    assert isinstance(answered, Answered)
    assert answered.text == ""
    assert answered.step.turns == ()  # providers refuse an empty turn when it is sent back


async def test_the_last_step_runs_no_tools() -> None:
    books = Books()
    seen: list[Happening] = []
    with pytest.raises(LimitReachedError, match="reached its max_steps"):
        await consume(agent(lambda _: (ToolCall("a", "double", {"n": 1}),), books, max_steps=2), seen)
    assert (sum(isinstance(h, ToolStarted) for h in seen), len(books.begun)) == (1, 2)


async def test_a_run_goes_on_from_a_later_step() -> None:
    books = Books()
    happenings = [h async for h in agent(in_turn((TextDelta("x"),)), books).run(ASKED, first_step=4)]
    assert isinstance(happenings[-1], Answered)
    assert happenings[-1].step.number == 4


async def test_the_bound_is_never_above_the_models_window() -> None:
    _, books = await played(in_turn((TextDelta("x"),)), system="s" * 5000, window=1000)
    assert books.bounds == [1000]


def eventful() -> Callable[[ModelRequest], Said]:
    """Everything that can happen, in one run of three calls."""
    return in_turn(
        (TextDelta("a"), TransientError("stream_cut", "gone")),
        (TextDelta("b"), ToolCall("1", "double", {"n": 1}), ToolCall("2", "refuse", {})),
        (TextDelta("c"), TextDelta("d")),
    )


class Paced(Scripted):
    """Gives way to others around each piece, so that a call can be cut at any of them."""

    async def stream(self, request: ModelRequest, meter: CallMeter):  # type: ignore[no-untyped-def]
        await asyncio.sleep(0)
        async for piece in super().stream(request, meter):
            yield piece
            await asyncio.sleep(0)


async def consume(loop: AgentLoop, seen: list[Happening]) -> None:
    happenings = loop.run(ASKED)
    try:
        async for happening in happenings:
            seen.append(happening)
    finally:
        await happenings.aclose()


async def cut_after(turns: int) -> tuple[bool, Books]:
    """Cancel the run after so many turns of the event loop; whether it was still running."""
    books = Books(turns=2)
    loop = AgentLoop(plan(served(Paced(eventful()))), TOOLS, books, Retry(base=1e-9, cap=1e-9))
    task = asyncio.create_task(consume(loop, []))
    for _ in range(turns):
        await asyncio.sleep(0)
    cut = task.cancel()
    await asyncio.wait({task})
    return cut, books


async def test_wherever_a_run_is_cut_each_begun_call_is_recorded_once() -> None:
    turns, cut = 0, True
    while cut:
        cut, books = await cut_after(turns)
        books.check()
        turns += 1
    assert turns > 20
    assert len(books.begun) == 3


@pytest.mark.parametrize("happenings", range(13))
async def test_a_run_that_is_closed_after_any_happening_has_recorded_its_calls(happenings: int) -> None:
    books = Books(turns=1)
    stream = agent(eventful(), books).run(ASKED)
    for _ in range(happenings):
        await anext(stream)
    await stream.aclose()
    books.check()
