"""What a run is shown of its conversation, whatever was said there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_worker import minutes
from agent_worker.happenings import Answered, HistoryTrimmed
from agent_worker.history import Exchange, History
from agent_worker.loop import AgentLoop
from agent_worker.providers.base import Block, CallMeter, ModelRequest, RateLimits, TextDelta, Turn
from agent_worker.providers.scripted import Scripted
from agent_worker.resilience.chain import Served
from agent_worker.resilience.retry import Retry
from agent_worker.sizes import overhead, text_bytes
from agent_worker.tools.base import Toolbox
from agent_worker.tools.builtin import builtin_tools
from tests.unit.agent_worker.serving import plan, served

_TEXT = st.text(max_size=80)
_NO_TOOLS = Toolbox({})


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _exchange(question: str, calls: list[tuple[str, str]], answer: str) -> Exchange:
    turns = [Turn("user", (_text(question),))]
    for number, (expression, result) in enumerate(calls):
        arguments = {"expression": expression}
        call: Block = {"type": "tool_call", "id": f"c{number}", "name": "calculator", "arguments": arguments}
        outcome: Block = {"type": "tool_result", "id": f"c{number}", "name": "calculator"}
        turns.append(Turn("assistant", (call,)))
        turns.append(Turn("tool", ({**outcome, "content": result, "is_error": False},)))
    return Exchange.of((*turns, Turn("assistant", (_text(answer),))))


EXCHANGES = st.builds(_exchange, _TEXT, st.lists(st.tuples(_TEXT, _TEXT), max_size=3), _TEXT)
HISTORIES = st.builds(History, st.lists(EXCHANGES, max_size=8).map(tuple), st.integers(0, 5))
SUMMED = st.builds(replace, HISTORIES, summary=st.none() | _TEXT.map(minutes.shown))


@given(HISTORIES, st.integers(-10, 6000))
def test_what_is_kept_fits_and_is_the_newest_of_whole_exchanges(history: History, room: int) -> None:
    kept = history.fitting(room)
    assert sum(exchange.size for exchange in kept.exchanges) <= max(0, room)
    gone = len(history.exchanges) - len(kept.exchanges)
    assert kept.exchanges == history.exchanges[gone:]
    assert kept.dropped == history.dropped + gone
    if gone:
        assert sum(exchange.size for exchange in history.exchanges[gone - 1 :]) > room, "no more would have fitted"


@given(HISTORIES, EXCHANGES, st.integers(-10, 6000))
def test_a_summary_stays_for_as_long_as_it_fits(history: History, summary: Exchange, room: int) -> None:
    kept = replace(history, summary=summary).fitting(room)
    shown = (summary,) if kept.summary is not None else ()
    assert sum(exchange.size for exchange in (*shown, *kept.exchanges)) <= max(0, room)
    assert (kept.summary is not None) == (summary.size <= room)
    assert kept.turns[: len(summary.turns)] == summary.turns or not shown


@given(st.lists(EXCHANGES, max_size=5), st.none() | _TEXT, st.integers(0, 3000))
def test_what_is_to_be_summed_up_has_its_size_and_is_the_newest(
    exchanges: list[Exchange], before: str | None, size: int
) -> None:
    asked = minutes.transcript(before, exchanges, size)
    whole = minutes.transcript(None, exchanges, 1_000_000)
    assert len(asked.encode()) <= size
    assert whole.endswith(asked) or (before is not None and asked.startswith(f"Earlier minutes:\n{before}\n\n"))


@given(HISTORIES, st.integers(0, 6000), st.integers(0, 6000))
def test_to_trim_twice_is_to_trim_to_the_smaller(history: History, one: int, other: int) -> None:
    assert history.fitting(one).fitting(other) == history.fitting(min(one, other))


@given(HISTORIES, st.integers(0, 6000))
def test_calls_and_results_stay_together(history: History, room: int) -> None:
    blocks = [block for turn in history.fitting(room).turns for block in turn.content]
    calls = [block["id"] for block in blocks if block["type"] == "tool_call"]
    assert calls == [block["id"] for block in blocks if block["type"] == "tool_result"]


@given(EXCHANGES)
def test_an_exchange_is_read_as_it_was_written(exchange: Exchange) -> None:
    assert Exchange.read(orjson.loads(orjson.dumps(exchange.document()))) == exchange


@given(HISTORIES)
def test_a_model_without_tools_is_shown_what_was_said_alone(history: History) -> None:
    shown = history.without_tools()
    assert len(shown.exchanges) == len(history.exchanges)
    assert {block["type"] for turn in shown.turns for block in turn.content} <= {"text"}
    assert all(turn.content and turn.role != "tool" for turn in shown.turns)
    assert [b for t in shown.turns for b in t.content] == [
        b for t in history.turns for b in t.content if b["type"] == "text"
    ]


class _Free:
    """Every call has leave."""

    async def begin(self, step: int, served: Served, input_bound: int, input_estimate: int) -> Any:
        return uuid4()

    async def begin_known(self, step: int, served: Served) -> None:
        """Nothing to do."""

    def heard(self, limits: RateLimits) -> None:
        """Nothing to do."""

    def record(self, attempt: Any, step: int, meter: CallMeter) -> None:
        """Nothing to do."""

    async def confirmed(self) -> None:
        """See `Calls.confirmed`."""


@pytest.mark.parametrize("tools", [_NO_TOOLS, Toolbox(builtin_tools())], ids=["no tools", "tools"])
@given(SUMMED, _TEXT, _TEXT, st.integers(200, 9000))
async def test_every_call_fits_the_window_and_has_the_prompt_and_what_is_asked(
    tools: Toolbox, history: History, system: str, question: str, window: int
) -> None:
    requests: list[ModelRequest] = []

    def script(request: ModelRequest) -> tuple[TextDelta]:
        requests.append(request)
        return (TextDelta("ok"),)

    asked_of = plan(served(Scripted(script), window=window), system=system, max_steps=3)
    loop = AgentLoop(asked_of, tools, _Free(), Retry())
    asked = (Turn("user", (_text(question),)),)
    happenings = [happening async for happening in loop.run(asked, history=history)]
    assert isinstance(happenings[-1], Answered)
    (request,) = requests
    assert (request.system, request.turns[-1]) == (system, asked[0])
    if len(request.turns) > 1:
        assert text_bytes(system, request.turns) + overhead(request.turns, tools) + 100 <= window
    trimmed = [happening for happening in happenings if isinstance(happening, HistoryTrimmed)]
    shown = history if tools.specs else history.without_tools()
    kept = shown.fitting(loop.room(asked))
    assert request.turns[:-1] == kept.turns
    told = {"exchanges": len(kept.exchanges), "dropped": kept.dropped}
    assert [one.history for one in trimmed] == ([told] if kept.dropped else [])
