from __future__ import annotations

from typing import Any
from uuid import UUID

import orjson
import pytest
from anthropic.types import MessageDeltaUsage, RawMessageDeltaEvent
from anthropic.types import Usage as AnthropicUsage
from hypothesis import given
from hypothesis import strategies as st
from openai.types.completion_usage import CompletionUsage, PromptTokensDetails

from agent_worker.metering import settle_meter
from agent_worker.providers import anthropic, openai_chat, openai_responses
from agent_worker.providers.base import CallMeter, ModelRequest, ToolSpec, Turn
from agent_worker.sizes import overhead, text_bytes, tokens_of
from agent_worker.tools.base import Toolbox
from agent_worker.tools.builtin import builtin_tools
from common.contracts.usage import Usage
from simulator.dialects.anthropic import Messages
from simulator.dialects.base import Dialect
from simulator.dialects.chat import Chat
from simulator.dialects.responses import Responses

TEXT = st.text(max_size=60)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
WORDS = TEXT.filter(lambda text: text.strip() != "")
CALLS = st.lists(st.tuples(TEXT, st.dictionaries(TEXT, JSON, max_size=3), TEXT, st.booleans()), min_size=1, max_size=3)
TOOLBOX = Toolbox(builtin_tools())
NO_ATTEMPT = UUID(int=0)


def input_bound(system: str, turns: tuple[Turn, ...], tools: Toolbox) -> int:
    return text_bytes(system, turns) + overhead(turns, tools)


def conversation(parts: list[tuple[str, str, list[tuple[str, dict[str, Any], str, bool]]]]) -> tuple[Turn, ...]:
    turns: list[Turn] = [Turn("user", ({"type": "text", "text": "begin"},))]
    for asked, said, calls in parts:
        turns.append(Turn("user", ({"type": "text", "text": asked},)))
        text = {"type": "text", "text": said}
        made = ({"type": "tool_call", "id": i, "name": "calculator", "arguments": a} for i, a, _, _ in calls)
        turns.append(Turn("assistant", (text, *made)))
        results = (
            {"type": "tool_result", "id": i, "name": "calculator", "content": c, "is_error": e} for i, _, c, e in calls
        )
        turns.append(Turn("tool", tuple(results)))
    return tuple(turns)


CONVERSATIONS = st.lists(st.tuples(WORDS, WORDS, CALLS), max_size=4).map(conversation)


@given(TEXT, CONVERSATIONS)
def test_the_bound_covers_what_either_provider_counts(system: str, turns: tuple[Turn, ...]) -> None:
    bound = input_bound(system, turns, TOOLBOX)
    request = ModelRequest("m", system, turns, TOOLBOX.specs, 100, None, NO_ATTEMPT)
    dialects: list[tuple[Dialect, dict[str, Any]]] = [
        (Messages(), anthropic._arguments(request)),
        (Chat(), openai_chat._arguments(request)),
        (Responses(), openai_responses._arguments(request)),
    ]
    for dialect, arguments in dialects:
        body = orjson.loads(orjson.dumps({k: v for k, v in arguments.items() if k != "extra_headers"}))
        assert dialect.read(body).input_tokens <= bound


@given(TEXT, CONVERSATIONS)
def test_the_bound_has_a_token_for_every_byte(system: str, turns: tuple[Turn, ...]) -> None:
    bytes_sent = len(system.encode())
    for turn in turns:
        for block in turn.content:
            for key in ("text", "content", "name", "id"):
                bytes_sent += len(block.get(key, "").encode())
            bytes_sent += len(orjson.dumps(block.get("arguments")))
    for tool in TOOLBOX.specs:
        bytes_sent += len(tool.name) + len(tool.description.encode()) + len(orjson.dumps(tool.schema))
    assert input_bound(system, turns, TOOLBOX) >= bytes_sent


def test_arguments_count_as_json_and_not_as_python_shows_them() -> None:
    quotes = {"a": '"' * 10_000 + "\x01" * 10_000}
    turns = (Turn("assistant", ({"type": "tool_call", "id": "", "name": "", "arguments": quotes},)),)
    assert input_bound("", turns, Toolbox({})) >= len(orjson.dumps(quotes)) == 80_008


def test_a_final_count_stands() -> None:
    meter = CallMeter(usage=Usage(input_tokens=7, output_tokens=3), accepted=True, final=True, received_bytes=999)
    settle_meter(meter, 1000, 100)
    assert (meter.usage, meter.estimated) == (Usage(input_tokens=7, output_tokens=3), False)


def test_a_call_that_was_refused_used_nothing() -> None:
    meter = CallMeter(refused=True)
    settle_meter(meter, 1000, 100)
    assert (meter.usage, meter.estimated, meter.unanswered) == (Usage(), False, False)


def test_a_call_that_was_sent_and_not_answered_may_have_been_read() -> None:
    meter = CallMeter()
    settle_meter(meter, 1000, 100)
    assert (meter.usage, meter.estimated, meter.unanswered) == (Usage(input_tokens=1000), True, True)


def test_an_estimate_is_of_what_was_said_and_not_of_the_bound() -> None:
    turns = (Turn("user", ({"type": "text", "text": "hi"},)),)
    assert tokens_of(text_bytes("", turns)) < 5 < input_bound("", turns, TOOLBOX)


@given(st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 500), st.integers(0, 10_000), st.integers(1, 10_000))
def test_an_estimate_is_at_least_what_was_counted_and_fits_the_hold(
    counted_in: int, cached: int, counted_out: int, received: int, bound: int
) -> None:
    counted = Usage(input_tokens=counted_in, cache_read_tokens=cached, output_tokens=counted_out)
    meter = CallMeter(usage=counted, accepted=True, received_bytes=received)
    settle_meter(meter, bound, 500)
    assert meter.estimated
    assert meter.usage.cache_read_tokens == cached
    assert counted_out <= meter.usage.output_tokens <= 500
    if counted.total_input_tokens:
        assert meter.usage.total_input_tokens == counted.total_input_tokens
    else:
        assert meter.usage.input_tokens == bound


def test_a_tools_schema_is_part_of_the_input() -> None:
    tool = builtin_tools()["calculator"]
    assert isinstance(tool.spec, ToolSpec)
    difference = input_bound("", (), Toolbox({"calculator": tool})) - input_bound("", (), Toolbox({}))
    assert difference > len(orjson.dumps(tool.spec.schema))


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("end_turn", "end_turn"),
        ("stop_sequence", "end_turn"),
        ("max_tokens", "max_tokens"),
        ("model_context_window_exceeded", "max_tokens"),
        ("pause_turn", "pause_turn"),
    ],
)
def test_an_answer_that_was_cut_does_not_read_as_complete(told: str, reason: str) -> None:
    counted = MessageDeltaUsage(output_tokens=1)
    event = RawMessageDeltaEvent(delta={"stop_reason": told}, type="message_delta", usage=counted)
    anthropic._count(event, meter := CallMeter())
    assert meter.stop_reason == reason


def test_what_a_provider_counts_that_we_have_no_name_for_is_kept() -> None:
    """The SDKs, too, keep what is newer than they are."""
    begun = AnthropicUsage.construct(
        input_tokens=10, output_tokens=1, inference_geo="us", sun_tokens=3, output_tokens_x=None
    )
    meter = CallMeter()
    meter.usage = anthropic._usage(begun, Usage())
    counted = MessageDeltaUsage.construct(output_tokens=5, sun_tokens=4, cached_calls=9)
    meter.usage = anthropic._usage(counted, meter.usage)
    assert meter.usage.model_extra == {"inference_geo": "us", "sun_tokens": 4}
    assert (meter.usage.input_tokens, meter.usage.output_tokens, meter.usage.cached_calls) == (10, 5, 0)
    chat = openai_chat._usage(
        CompletionUsage.construct(
            prompt_tokens=10,
            completion_tokens=5,
            prompt_tokens_details=PromptTokensDetails.construct(cached_tokens=4, moon_tokens=2),
            completion_tokens_details=None,
            sun_tokens=3,
        )
    )
    assert chat == Usage(
        **{"input_tokens": 6, "cache_read_tokens": 4, "output_tokens": 5, "moon_tokens": 2, "sun_tokens": 3}
    )
    meter.usage = chat
    settle_meter(meter, 100, 100)
    assert meter.usage.model_dump()["moon_tokens"] == 2
