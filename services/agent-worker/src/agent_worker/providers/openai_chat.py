"""Chat Completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from openai import AsyncOpenAI

from agent_worker.providers import openai as sdk
from agent_worker.providers.base import (
    CallMeter,
    ModelRequest,
    Piece,
    StopReason,
    TextDelta,
    TransientError,
    Turn,
)
from agent_worker.providers.rate_limits import rate_limits
from agent_worker.providers.tool_calls import tool_call
from agent_worker.providers.warming import answering, rehearse
from common.contracts.usage import Usage

_STOP: dict[str, StopReason] = {"tool_calls": "tool_use", "length": "max_tokens", "content_filter": "refusal"}
_CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m"}
_REHEARSED: tuple[dict[str, Any], ...] = (
    {**_CHUNK, "choices": [{"index": 0, "delta": {"role": "assistant", "content": "."}}]},
    {**_CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
    {**_CHUNK, "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}},
)


class OpenAIChat:
    """Chat Completions of OpenAI, or of any endpoint that speaks them."""

    name = "openai"

    def __init__(self, client: AsyncOpenAI) -> None:
        self._client = client

    async def stream(self, request: ModelRequest, meter: CallMeter) -> AsyncGenerator[Piece, None]:
        """See `Provider.stream`."""
        try:
            async with await self._client.chat.completions.create(**_arguments(request), stream=True) as chunks:
                meter.accepted = True
                meter.request_id = chunks.response.headers.get("x-request-id")
                if (told := rate_limits(chunks.response.headers)) is not None:
                    meter.heard(told)
                async for piece in _pieces(chunks, meter):
                    yield piece
        except sdk.RAISED as error:
            raise sdk.translate(error) from error
        if not meter.complete:
            raise TransientError("stream_cut", "the provider's stream ended before the answer did")

    async def warm_up(self) -> None:
        """See `Warmable.warm_up`."""
        await sdk.connect(self._client)
        async with answering(_REHEARSED) as nowhere:
            await rehearse(OpenAIChat(self._client.with_options(http_client=nowhere)))

    async def close(self) -> None:
        """See `Provider.close`."""
        await self._client.close()


async def _pieces(chunks: AsyncIterator[Any], meter: CallMeter) -> AsyncGenerator[Piece, None]:
    calls: dict[int, tuple[str, str, list[str]]] = {}
    counted = refused = False
    async for chunk in chunks:
        # In the last chunk, with `include_usage`; compatible endpoints have it in others, or never.
        if chunk.usage is not None:
            meter.usage = _usage(chunk.usage)
            counted = True
        for choice in chunk.choices or ():
            # A refusal is told in a field of its own, and then ends like any other answer.
            if said := choice.delta.content or choice.delta.refusal:
                meter.receive(said)
                yield TextDelta(said)
            refused = refused or bool(choice.delta.refusal)
            for fragment in choice.delta.tool_calls or ():
                _collect(calls, fragment, meter)
            if choice.finish_reason is not None:
                meter.stop_reason = "refusal" if refused else _STOP.get(choice.finish_reason, "end_turn")
                meter.complete = True
    meter.final = meter.complete and counted
    for index in sorted(calls if meter.complete else ()):
        yield tool_call(*calls[index])


def _usage(counted: Any) -> Usage:
    return sdk.usage(
        counted,
        counted.prompt_tokens,
        counted.completion_tokens,
        counted.prompt_tokens_details,
        counted.completion_tokens_details,
    )


def _collect(calls: dict[int, tuple[str, str, list[str]]], fragment: Any, meter: CallMeter) -> None:
    if fragment.index not in calls:
        calls[fragment.index] = (fragment.id, fragment.function.name or "", [])
    text = fragment.function.arguments or ""
    meter.receive(text)
    calls[fragment.index][2].append(text)


def _arguments(request: ModelRequest) -> dict[str, Any]:
    messages: list[dict[str, Any]] = (
        [{"role": "system", "content": request.instructions}] if request.instructions else []
    )
    for turn in request.turns:
        messages.extend(_messages(turn))
    arguments: dict[str, Any] = {
        "model": request.model,
        "messages": messages,
        "max_completion_tokens": request.max_output_tokens,
        "stream_options": {"include_usage": True},
        "extra_headers": {"X-Client-Request-Id": str(request.attempt_id)},
    }
    if request.tools:
        arguments["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.schema},
            }
            for tool in request.tools
        ]
    if request.tools and not request.use_tools:
        arguments["tool_choice"] = "none"
    if request.response_schema is not None:
        form = sdk.answer_format(request.response_schema)
        arguments["response_format"] = {"type": "json_schema", "json_schema": form}
    if request.temperature is not None:
        arguments["temperature"] = request.temperature
    return arguments


def _messages(turn: Turn) -> list[dict[str, Any]]:
    if turn.role == "tool":
        return [{"role": "tool", "tool_call_id": block["id"], "content": block["content"]} for block in turn.content]
    text = "".join(block["text"] for block in turn.content if block["type"] == "text")
    calls = [
        {
            "id": block["id"],
            "type": "function",
            "function": {"name": block["name"], "arguments": sdk.arguments_json(block["arguments"])},
        }
        for block in turn.content
        if block["type"] == "tool_call"
    ]
    if calls:
        return [{"role": turn.role, "content": text or None, "tool_calls": calls}]
    return [{"role": turn.role, "content": text}] if text else []
