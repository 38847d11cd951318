from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Literal
from uuid import uuid4

import pytest

from agent_worker.providers.base import ToolCall
from agent_worker.providers.tool_calls import tool_call
from agent_worker.tools.base import Tool, Toolbox, ToolContext, ToolError
from agent_worker.tools.builtin import builtin_tools, toolboxes
from agent_worker.tools.clock import current_time
from agent_worker.tools.context import Passage
from common.catalogue import Agent, Catalogue, Model, Price, Tier
from common.errors import ConfigurationError


async def weather(city: str, days: int = 1, unit: Literal["C", "F"] = "C") -> str:
    """The weather."""
    return f"{city}:{days}:{unit}"


class NoDocuments:
    """A conversation that was given none."""

    async def search(self, query: str, limit: int) -> list[Passage]:
        return []

    async def names(self) -> list[str]:
        return []


def context_of(report: Callable[[str, float], Awaitable[None]], user: str | None = None) -> ToolContext:
    return ToolContext(uuid4(), uuid4(), user, None, report, NoDocuments())


async def run(tool: Tool, **arguments: object) -> tuple[str, bool]:
    result = await Toolbox({tool.spec.name: tool}).run(ToolCall("1", tool.spec.name, dict(arguments)))
    return result.content, result.is_error


def test_the_schema_comes_from_the_signature() -> None:
    spec = Tool.of(weather).spec
    assert (spec.name, spec.description) == ("weather", "The weather.")
    assert spec.schema["required"] == ["city"]
    assert spec.schema["additionalProperties"] is False
    assert spec.schema["properties"]["days"]["type"] == "integer"
    assert spec.schema["properties"]["unit"]["enum"] == ["C", "F"]
    assert "title" not in spec.schema


async def test_arguments_are_checked() -> None:
    tool = Tool.of(weather)
    assert await run(tool, city="Bern", days=3) == ("Bern:3:C", False)
    for arguments, word in (
        ({}, "city"),
        ({"city": "Bern", "days": "many"}, "days"),
        ({"city": "Bern", "unit": "K"}, "unit"),
        ({"city": "Bern", "planet": "Mars"}, "planet"),
    ):
        content, is_error = await run(tool, **arguments)
        assert is_error
        assert word in content


async def test_all_mistakes_are_told_up_to_five() -> None:
    async def many(a: int, b: int, c: int, d: int, e: int, f: int) -> str:
        """Many arguments."""
        return str(a + b + c + d + e + f)

    content, is_error = await run(Tool.of(many), a="x")
    assert is_error
    assert [word in content for word in ("'a'", "'b'", "'e'", "'f'", "and 1 more")] == [True, True, True, False, True]


async def test_an_argument_may_have_any_name() -> None:
    async def odd(schema: str, copy: int, model_config: str = "x", _private: int = 0) -> str:
        """Names that a pydantic model has itself."""
        return f"{schema}{copy}{model_config}{_private}"

    tool = Tool.of(odd)
    assert list(tool.spec.schema["properties"]) == ["schema", "copy", "model_config", "_private"]
    assert await run(tool, schema="a", copy=1, _private=2) == ("a1x2", False)


async def test_a_tool_that_breaks_off_does_not_end_the_run() -> None:
    async def fragile() -> str:
        """Something within it is cancelled."""
        raise asyncio.CancelledError

    async def timing_out() -> str:
        """A time-out of its own, not ours."""
        raise TimeoutError

    assert await run(Tool.of(fragile)) == ("fragile broke off", True)
    assert await run(Tool.of(timing_out)) == ("timing_out failed: TimeoutError", True)


async def test_a_run_that_is_cut_cuts_its_tools() -> None:
    begun = asyncio.Event()

    async def endless() -> str:
        """Waits."""
        begun.set()
        await asyncio.Event().wait()
        return "never"

    running = asyncio.create_task(Toolbox({"endless": Tool.of(endless)}).run_all([ToolCall("1", "endless", {})]))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_calls_run_side_by_side_and_too_many_are_not_run() -> None:
    together = asyncio.Barrier(16)

    async def meet(n: int) -> str:
        """Waits for the others."""
        await together.wait()
        return str(n)

    box = Toolbox({"meet": Tool.of(meet)})
    results = await box.run_all([ToolCall(str(n), "meet", {"n": n}) for n in range(18)])
    assert [result.id for result in results] == [str(n) for n in range(18)]
    assert [result.content for result in results[:16]] == [str(n) for n in range(16)]
    assert [result.is_error for result in results] == [False] * 16 + [True] * 2
    assert results[17].content == "not run: at most 16 tool calls are run at a time, call it again"


async def test_a_tool_may_know_its_run_and_the_model_is_not_told_so() -> None:
    async def who(greeting: str, context: ToolContext) -> str:
        """Who asks."""
        await context.report("halfway", 50)
        return f"{greeting} {context.user_id}"

    told: list[tuple[str, float]] = []

    async def report(message: str, percentage: float) -> None:
        told.append((message, percentage))

    tool = Tool.of(who)
    assert list(tool.spec.schema["properties"]) == ["greeting"]
    box = Toolbox({"who": tool}).within(context_of(report, "anna"))
    assert (await box.run(ToolCall("1", "who", {"greeting": "hello"}))).content == "hello anna"
    assert told == [("halfway", 50)]
    content, is_error = await run(tool, greeting="hello")
    assert (content, is_error) == ("who failed: RuntimeError", True)


async def test_progress_is_a_sentence_and_a_percentage() -> None:
    told: list[tuple[str, float]] = []

    async def report(message: str, percentage: float) -> None:
        told.append((message, percentage))

    box = Toolbox(builtin_tools()).within(context_of(report))
    for arguments, word in (
        ({"message": "reading", "percentage": 101}, "percentage"),
        ({"message": "", "percentage": 1}, "message"),
        ({"message": "x" * 501, "percentage": 1}, "message"),
        ({"message": "reading"}, "percentage"),
        ({"message": "reading", "percentage": "nan"}, "percentage"),
    ):
        result = await box.run(ToolCall("1", "report_progress", arguments))
        assert result.is_error
        assert word in result.content
    assert told == []
    assert not (await box.run(ToolCall("1", "report_progress", {"message": "reading", "percentage": 40}))).is_error
    assert told == [("reading", 40.0)]


async def test_a_slow_tool_is_cut() -> None:
    async def slow() -> str:
        """Never ends."""
        await asyncio.Event().wait()
        return "never"

    content, is_error = await run(Tool.of(slow, timeout=0.01))
    assert is_error
    assert content == "slow did not finish within 0.01 s"


async def test_output_is_limited() -> None:
    async def long() -> str:
        """Much."""
        return "x" * 40_000

    content, is_error = await run(Tool.of(long))
    assert not is_error
    assert content.endswith("[8000 more characters were cut off]")
    assert len(content) < 32_100


async def test_half_a_character_does_not_get_out() -> None:
    async def page() -> str:
        """A page."""
        return "a\ud800b"

    assert await run(Tool.of(page)) == ("a?b", False)


async def test_faults_go_back_to_the_model_without_their_secrets() -> None:
    async def broken() -> str:
        """Fails."""
        raise RuntimeError("password=hunter2")

    async def refusing() -> str:
        """Refuses."""
        raise ToolError("not today")

    async def silent() -> str:
        """Refuses."""
        raise ToolError

    assert await run(Tool.of(broken)) == ("broken failed: RuntimeError", True)
    assert await run(Tool.of(refusing)) == ("not today", True)
    assert await run(Tool.of(silent)) == ("silent failed", True)  # providers refuse an error without content


async def test_an_unknown_or_malformed_call_is_a_result() -> None:
    box = Toolbox({"weather": Tool.of(weather)})
    assert (await box.run(ToolCall("1", "nope", {}))).content == "there is no tool named 'nope'"
    assert (await box.run(ToolCall("1", "weather", {}, malformed="not JSON"))).content == "not JSON"


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1]",
        "null",
        '{"a": NaN}',
        '{"a": "\\ud800"}',
        '{"a": 1e999}',
        "[" * 100_000,
        '{"a": ' + "[" * 300 + "]" * 300 + "}",
        '{"a": 1} x',
    ],
)
def test_arguments_that_cannot_be_kept_are_malformed(text: str) -> None:
    call = tool_call("1", "weather", [text[:3], text[3:]])
    assert call.malformed
    assert call.arguments == {}


def test_fragments_are_put_together() -> None:
    assert tool_call("1", "weather", ['{"ci', 'ty": "Z', 'ürich"}']).arguments == {"city": "Zürich"}
    assert tool_call("1", "weather", []).arguments == {}
    assert isinstance(tool_call("1", "w", ['{"n": 123456789012345678901234567890}']).arguments["n"], float)


async def test_clock() -> None:
    assert datetime.fromisoformat(await current_time("Europe/Zurich")).tzinfo is not None
    assert (await current_time()).endswith("+00:00")
    for name in ("Mars/Base", "../etc/passwd", "", "\x00", "a" * 5000, "Europe"):
        with pytest.raises(ToolError, match="unknown time zone"):
            await current_time(name)


def test_an_agent_with_a_tool_that_does_not_exist_is_a_configuration_error() -> None:
    price = Price(provider="p", model="m")
    model = Model(
        name="m", provider="scripted", api="scripted", window=9, max_output=9, price=price, **{"class": "simple"}
    )
    catalogue = Catalogue(
        tiers=(Tier(name="free", weight=1),),
        models=(model,),
        agents=(Agent(name="a", version=1, system="", model="m", tools=("telepathy",)),),
    )
    with pytest.raises(ConfigurationError, match="'telepathy'; there are: calculator, current_time, report_progress"):
        toolboxes(catalogue, builtin_tools())
