"""A model that does not stop talking: cut at its run's limit, with what it has said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_worker.checkpoint import Checkpoint
from agent_worker.endings import run_error
from agent_worker.happenings import (
    Answered,
    CallUsed,
    Happening,
    LimitReachedError,
    ResponseMismatchError,
    Step,
    WrappingUp,
)
from agent_worker.loop import AgentLoop
from agent_worker.providers.base import CallMeter, ModelRequest, OutputLimitError, Piece, TextDelta, ToolCall, Turn
from agent_worker.resilience.closing import RunLimits
from agent_worker.resilience.retry import Retry
from agent_worker.sizes import said_bytes
from common.answer_schema import AnswerForm
from common.contracts.events import EventId
from common.contracts.usage import Usage
from tests.unit.agent_worker.serving import plan, served
from tests.unit.agent_worker.test_worker_loop import ASKED, TOOLS, Books

LIMITS = RunLimits(max_steps=5, max_output_bytes=1000)
PIECE = "twelve bytes"


class Talker:
    """Says the same for ever: as text, or inside of a tool call that is never complete."""

    name = "talker"

    def __init__(self, *, arguments: bool = False, first: tuple[Piece, ...] = ()) -> None:
        self._arguments = arguments
        self._first = first
        self.calls = 0
        self.closed = 0

    async def stream(self, request: ModelRequest, meter: CallMeter) -> AsyncGenerator[Piece, None]:
        """See `Provider.stream`."""
        self.calls += 1
        meter.accepted = True
        meter.usage = Usage(input_tokens=7, output_tokens=1)
        try:
            for piece in self._first:
                yield piece
            while True:
                await asyncio.sleep(0)
                meter.receive(PIECE)
                if not self._arguments:
                    yield TextDelta(PIECE)
        finally:
            self.closed += 1

    async def close(self) -> None:
        """See `Provider.close`."""


async def played(talker: Talker, limits: RunLimits = LIMITS, **begun: Any) -> tuple[list[Happening], Books]:
    books = Books()
    asked = replace(plan(served(talker, limit=10_000)), limits=limits)
    async with asyncio.timeout(60):
        happenings = [h async for h in AgentLoop(asked, TOOLS, books, Retry()).run(ASKED, **begun)]
    books.check()
    return happenings, books


async def test_what_was_said_until_then_is_the_answer_and_is_accounted_for() -> None:
    talker = Talker()
    happenings, books = await played(talker)
    answered = happenings[-1]
    assert isinstance(answered, Answered)
    assert answered.text == PIECE * (1000 // len(PIECE))
    assert answered.stop_reason == "max_output_bytes"
    assert (talker.calls, talker.closed) == (1, 1)
    ((_, meter),) = books.recorded
    assert (meter.estimated, meter.usage.input_tokens, meter.usage.output_tokens) == (True, 7, 252)
    assert answered.step.usage == meter.usage
    assert sum(isinstance(happening, CallUsed) for happening in happenings) == 1


@pytest.mark.parametrize("first", [(), (TextDelta(" "), ToolCall("a", "double", {"n": 1}))])
async def test_arguments_that_never_end_are_a_clear_error_and_no_call_is_made(first: tuple[Piece, ...]) -> None:
    talker = Talker(arguments=True, first=first)
    with pytest.raises(LimitReachedError) as caught:
        await played(talker)
    error = run_error(caught.value, "m")
    assert error.type == "max_output_bytes_reached"
    assert "max_output_bytes" in error.message
    assert (talker.calls, talker.closed) == (1, 1)


async def test_what_earlier_steps_said_counts_and_the_last_fifth_is_for_the_answer() -> None:
    happenings, _ = await played(Talker(), said=799)
    assert not isinstance(happenings[0], WrappingUp)
    happenings, _ = await played(Talker(), said=800)
    assert happenings[0] == WrappingUp(1, "max_output_bytes")
    answered = happenings[-1]
    assert isinstance(answered, Answered)
    assert answered.text == PIECE * (200 // len(PIECE))


async def test_an_answer_with_a_form_that_was_cut_is_not_asked_for_anew() -> None:
    talker = Talker()
    form = AnswerForm({"type": "object", "properties": {"n": {"type": "integer"}}})
    asked = replace(plan(served(talker, limit=10_000)), limits=LIMITS, form=form)
    with pytest.raises(ResponseMismatchError, match="max_output_bytes"):
        [h async for h in AgentLoop(asked, TOOLS, Books(), Retry()).run(ASKED)]
    assert talker.calls == 1


async def test_without_a_limit_nothing_is_cut() -> None:
    meter = CallMeter()
    meter.receive("x" * 10_000_000)
    assert LIMITS.left_to_say(1200) == 0
    assert replace(LIMITS, max_output_bytes=None).left_to_say(10) is None


@given(st.lists(st.text(max_size=30), max_size=20), st.integers(0, 200))
def test_what_was_taken_in_is_never_more_than_the_limit(texts: list[str], most: int) -> None:
    meter, taken = CallMeter(most_bytes=most), ""
    for text in texts:
        try:
            meter.receive(text)
        except OutputLimitError:
            assert len((taken + text).encode()) > most
            break
        taken += text
    assert len(taken.encode()) <= most


def test_only_what_the_model_said_is_counted() -> None:
    call = {"type": "tool_call", "id": "a", "name": "f", "arguments": {}}
    turns = (
        Turn("assistant", ({"type": "text", "text": "é"}, call)),
        Turn("tool", ({"type": "tool_result", "id": "a", "name": "f", "content": "x" * 500, "is_error": False},)),
        Turn("user", ({"type": "text", "text": "again"},)),
    )
    assert said_bytes(turns) == 4
    checkpoint = Checkpoint()
    checkpoint.add(Step(1, turns, Usage()), EventId(1, 3))
    assert checkpoint.said_bytes == 4
