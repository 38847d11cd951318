"""The Responses API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from openai import AsyncOpenAI

from agent_worker.providers import openai as sdk
from agent_worker.providers.base import CallMeter, ModelRequest, Piece, TextDelta, TransientError, Turn
from agent_worker.providers.rate_limits import rate_limits
from agent_worker.providers.tool_calls import tool_call
from agent_worker.providers.warming import answering, rehearse

_WHERE = {"item_id": "i", "output_index": 0, "content_index": 0}
_REHEARSED: tuple[dict[str, Any], ...] = (
    {"type": "response.output_text.delta", "sequence_number": 0, "delta": ".", "logprobs": [], **_WHERE},
    {
        "type": "response.completed",
        "sequence_number": 1,
        "response": {
            "id": "r",
            "object": "response",
            "created_at": 0,
            "model": "m",
            "status": "completed",
            "output": [],
        },
    },
)


class OpenAIResponses:
    """OpenAI's Responses, without storing anything at OpenAI."""

    name = "openai"

    def __init__(self, client: AsyncOpenAI) -> None:
        self._client = client

    async def stream(self, request: ModelRequest, meter: CallMeter) -> AsyncGenerator[Piece, None]:
        """See `Provider.stream`."""
        try:
            async with await self._client.responses.create(**_arguments(request), stream=True) as events:
                meter.accepted = True
                meter.request_id = events.response.headers.get("x-request-id")
                if (told := rate_limits(events.response.headers)) is not None:
                    meter.heard(told)
                async for piece in _pieces(events, meter):
                    yield piece
        except sdk.RAISED as error:
            raise sdk.translate(error) from error
        if not meter.complete:
            raise TransientError("stream_cut", "the provider's stream ended before the answer did")

    async def warm_up(self) -> None:
        """See `Warmable.warm_up`."""
        await sdk.connect(self._client)
        async with answering(_REHEARSED) as nowhere:
            await rehearse(OpenAIResponses(self._client.with_options(http_client=nowhere)))

    async def close(self) -> None:
        """See `Provider.close`."""
        await self._client.close()


async def _pieces(events: AsyncIterator[Any], meter: CallMeter) -> AsyncGenerator[Piece, None]:
    async for event in events:
        if event.type in ("response.output_text.delta", "response.refusal.delta"):
            meter.receive(event.delta)
            if event.type == "response.refusal.delta":
                meter.stop_reason = "refusal"
            yield TextDelta(event.delta)
        elif event.type == "response.function_call_arguments.delta":
            meter.receive(event.delta)
        elif event.type == "response.output_item.done" and event.item.type == "function_call":
            meter.stop_reason = "tool_use"
            yield tool_call(event.item.call_id, event.item.name, [event.item.arguments])
        elif event.type in ("response.completed", "response.incomplete"):
            _finish(event.response, meter)
        elif event.type in ("response.failed", "error"):
            raise _failure(event)


def _finish(response: Any, meter: CallMeter) -> None:
    meter.complete = True
    if response.usage is not None:
        counted = response.usage
        meter.usage = sdk.usage(
            counted,
            counted.input_tokens,
            counted.output_tokens,
            counted.input_tokens_details,
            counted.output_tokens_details,
        )
        meter.final = True
    if response.status == "incomplete":
        reason = response.incomplete_details.reason if response.incomplete_details else None
        meter.stop_reason = "refusal" if reason == "content_filter" else "max_tokens"


def _failure(event: Any) -> Exception:
    if event.type == "error":
        return sdk.failed(event.code, event.message)
    error = event.response.error
    return sdk.failed(error.code if error else None, error.message if error else "the response failed")


def _arguments(request: ModelRequest) -> dict[str, Any]:
    items: list[dict[str, Any]] = []
    for turn in request.turns:
        items.extend(_items(turn))
    arguments: dict[str, Any] = {
        "model": request.model,
        "input": items,
        "max_output_tokens": request.max_output_tokens,
        "store": False,
        "extra_headers": {"X-Client-Request-Id": str(request.attempt_id)},
    }
    if request.instructions:
        arguments["instructions"] = request.instructions
    if request.tools:
        arguments["tools"] = [
            {"type": "function", "name": t.name, "description": t.description, "parameters": t.schema, "strict": False}
            for t in request.tools
        ]
    if request.tools and not request.use_tools:
        arguments["tool_choice"] = "none"
    if request.response_schema is not None:
        arguments["text"] = {"format": {"type": "json_schema", **sdk.answer_format(request.response_schema)}}
    if request.temperature is not None:
        arguments["temperature"] = request.temperature
    return arguments


def _items(turn: Turn) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for block in turn.content:
        if block["type"] == "tool_call":
            items.append(
                {
                    "type": "function_call",
                    "call_id": block["id"],
                    "name": block["name"],
                    "arguments": sdk.arguments_json(block["arguments"]),
                }
            )
        elif block["type"] == "tool_result":
            items.append({"type": "function_call_output", "call_id": block["id"], "output": block["content"]})
        else:
            items.append({"role": turn.role, "content": block["text"]})
    return items
