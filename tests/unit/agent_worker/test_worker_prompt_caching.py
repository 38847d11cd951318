"""Where Anthropic is told that other calls begin the same way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from agent_worker.providers import anthropic, openai_chat, openai_responses
from agent_worker.providers.base import ModelRequest, Turn
from agent_worker.tools.base import Toolbox
from agent_worker.tools.builtin import builtin_tools

TOOLS = Toolbox(builtin_tools()).specs
ASKED = Turn("user", ({"type": "text", "text": "hi"},))
CALLED = Turn("assistant", ({"type": "tool_call", "id": "a", "name": "calculator", "arguments": {}},))
USED = Turn("tool", ({"type": "tool_result", "id": "a", "name": "calculator", "content": "1", "is_error": False},))
REQUEST = ModelRequest("m", "be brief", (ASKED,), TOOLS, 100, None, UUID(int=0))
MARK = {"type": "ephemeral"}


def marked(value: Any) -> list[Any]:
    """All parts that have the mark."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    found = [part for one in inner for part in marked(one)]
    return [value, *found] if isinstance(value, dict) and "cache_control" in value else found


def test_the_system_prompt_is_the_end_of_what_all_calls_of_an_agent_have_in_common() -> None:
    assert marked(anthropic._arguments(REQUEST)) == [{"type": "text", "text": "be brief", "cache_control": MARK}]


def test_without_one_the_tools_are() -> None:
    (tool,) = marked(anthropic._arguments(replace(REQUEST, system="")))
    assert tool["name"] == TOOLS[-1].name
    assert marked(anthropic._arguments(replace(REQUEST, system="", tools=()))) == []


def test_a_run_that_uses_its_tools_begins_its_next_step_with_this_one() -> None:
    arguments = anthropic._arguments(replace(REQUEST, turns=(ASKED, CALLED, USED)))
    assert sorted(part["type"] for part in marked(arguments)) == ["text", "tool_result"]


def test_what_is_said_to_the_last_call_alone_leaves_the_beginning_as_it_was() -> None:
    before = anthropic._arguments(REQUEST)
    last = anthropic._arguments(replace(REQUEST, turns=(ASKED, CALLED, USED), closing="the last", use_tools=False))
    assert last["system"][:1] == before["system"]
    assert last["system"][1] == {"type": "text", "text": "the last"}
    assert last["tools"] == before["tools"]
    assert len(marked(last)) == 1  # no step comes after it


def test_openai_finds_the_beginning_by_itself_and_is_told_both() -> None:
    request = replace(REQUEST, closing="the last")
    assert openai_chat._arguments(request)["messages"][0]["content"] == "be brief\n\nthe last"
    assert openai_responses._arguments(request)["instructions"] == "be brief\n\nthe last"
