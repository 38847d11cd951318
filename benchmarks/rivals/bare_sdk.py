"""Anthropic's SDK alone: no hold, no record, no stream to anybody.

`calls URL PROMPT STEPS` runs a loop of tool calls, and prints the milliseconds of each call as JSON;
`streams URL PROMPT COUNT` reads so many answers at once, and prints the tokens that came per second.
"""

from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter
from typing import Any

import uvloop
from anthropic import AsyncAnthropic, DefaultAioHttpClient
from httpx2 import Limits

from agent_worker.tools.base import Toolbox
from agent_worker.tools.builtin import builtin_tools

_WARM = 5
_WARM_PROMPT = "Speak. [[sim tokens=5]]"
_CALCULATOR = next(spec for spec in Toolbox(builtin_tools()).specs if spec.name == "calculator")
_TOOLS = [{"name": "calculator", "description": _CALCULATOR.description, "input_schema": _CALCULATOR.schema}]


async def _asked(client: AsyncAnthropic, messages: list[dict[str, Any]], **more: Any) -> Any:
    told: dict[str, Any] = {"model": "claude-haiku-4-5", "max_tokens": 4096, "system": "You are measured.", **more}
    return await client.messages.create(messages=messages, stream=True, **told)  # type: ignore[arg-type]


async def calls(client: AsyncAnthropic, prompt: str, steps: int) -> list[float]:
    """Milliseconds of each call of a loop that answers every tool call with `2`."""
    found = []
    messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
    for _ in range(steps):
        began, called = perf_counter(), ""
        async with await _asked(client, messages, tools=_TOOLS) as events:
            async for event in events:
                if event.type == "content_block_start" and event.content_block.type == "tool_use":
                    called = event.content_block.id
        found.append((perf_counter() - began) * 1000)
        use = {"type": "tool_use", "id": called, "name": "calculator", "input": {"expression": "1+1"}}
        result = {"type": "tool_result", "tool_use_id": called, "content": "2"}
        messages += [{"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    return found


async def streams(client: AsyncAnthropic, prompt: str, count: int) -> float:
    """Tokens per second of all streams, from the first token to the end of the last."""
    began: list[float] = []
    tokens = 0

    async def read() -> None:
        nonlocal tokens
        async with await _asked(client, [{"role": "user", "content": prompt}]) as events:
            async for event in events:
                if event.type == "content_block_delta":
                    if not began:
                        began.append(perf_counter())
                elif event.type == "message_delta":
                    tokens += event.usage.output_tokens

    async with asyncio.TaskGroup() as reading:
        for _ in range(count):
            reading.create_task(read())
    return tokens / (perf_counter() - began[0])


async def main(what: str, url: str, prompt: str, count: int) -> None:
    """Measure, and print."""
    # With the same connections as the worker's, which are faster than the SDK's own.
    http = DefaultAioHttpClient(limits=Limits(max_connections=count + 8), timeout=120)
    async with AsyncAnthropic(api_key="simulated", base_url=url, max_retries=0, http_client=http) as client:
        if what == "calls":
            await calls(client, prompt, _WARM)
            print(json.dumps(await calls(client, prompt, count)))
        else:  # not with the prompt itself, whose answer begins late
            await streams(client, _WARM_PROMPT, _WARM)
            print(json.dumps(await streams(client, prompt, count)))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
