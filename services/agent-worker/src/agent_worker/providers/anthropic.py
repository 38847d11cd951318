"""Anthropic's Messages API through its SDK."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from copy import copy
from typing import Any

import anthropic
import httpx2
from anthropic import AsyncAnthropic

from agent_worker.providers.base import (
    Block,
    CallMeter,
    ModelRequest,
    Piece,
    ProviderError,
    StopReason,
    TextDelta,
    TransientError,
    Turn,
)
from agent_worker.providers.connections import http_client
from agent_worker.providers.counts import unnamed
from agent_worker.providers.errors import (
    BROKEN,
    from_status,
    refused_credentials,
    refused_request,
    timed_out,
    unavailable,
    unsent,
)
from agent_worker.providers.rate_limits import rate_limits
from agent_worker.providers.schemas import closed, one_type_each
from agent_worker.providers.tool_calls import tool_call
from agent_worker.providers.warming import answering, rehearse
from common.contracts.usage import Usage

_STOP: dict[str, StopReason] = {
    "tool_use": "tool_use",
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "max_tokens",
    "pause_turn": "pause_turn",
    "refusal": "refusal",
}
_EPHEMERAL = {"type": "ephemeral"}
_COUNTED = {"input_tokens": 1, "output_tokens": 1}
_REHEARSED: tuple[dict[str, Any], ...] = (
    {
        "type": "message_start",
        "message": {"type": "message", "id": "m", "role": "assistant", "model": "m", "content": [], "usage": _COUNTED},
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "."}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": _COUNTED},
    {"type": "message_stop"},
)
_ERROR_STATUS = {
    "overloaded_error": 529,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
}


class AnthropicMessages:
    """One client for the process: its connections are shared by all runs."""

    name = "anthropic"

    def __init__(self, api_key: str, base_url: str | None, timeout: httpx2.Timeout, connections: int) -> None:
        self._client = AsyncAnthropic(
            api_key=api_key,
            base_url=base_url,
            # The worker is the only retry loop: a silent retry would be billed where nobody sees it.
            max_retries=0,
            timeout=timeout,
            http_client=http_client(connections, timeout),
        )

    async def stream(self, request: ModelRequest, meter: CallMeter) -> AsyncGenerator[Piece, None]:
        """See `Provider.stream`."""
        try:
            async with await self._client.messages.create(**_arguments(request), stream=True) as events:
                meter.accepted = True
                meter.request_id = events.response.headers.get("request-id")
                if (told := rate_limits(events.response.headers)) is not None:
                    meter.heard(told)
                async for piece in _pieces(events, meter):
                    yield piece
        except (anthropic.AnthropicError, *BROKEN) as error:
            raise translate(error) from error
        if not meter.complete:
            raise TransientError("stream_cut", "the provider's stream ended before the answer did")

    async def warm_up(self) -> None:
        """See `Warmable.warm_up`."""
        try:
            await self._client.models.list(limit=1)
        except (anthropic.AnthropicError, *BROKEN) as error:
            raise translate(error) from error
        async with answering(_REHEARSED) as nowhere:
            rehearsed = copy(self)
            rehearsed._client = self._client.with_options(http_client=nowhere)
            await rehearse(rehearsed)

    async def close(self) -> None:
        """See `Provider.close`."""
        await self._client.close()


async def _pieces(events: AsyncIterator[Any], meter: CallMeter) -> AsyncGenerator[Piece, None]:
    calls: dict[int, tuple[str, str, list[str]]] = {}
    async for event in events:
        if event.type == "content_block_delta":
            if event.delta.type == "text_delta":
                meter.receive(event.delta.text)
                yield TextDelta(event.delta.text)
            elif event.delta.type == "input_json_delta" and event.index in calls:
                meter.receive(event.delta.partial_json)
                calls[event.index][2].append(event.delta.partial_json)
        elif event.type == "content_block_start" and event.content_block.type == "tool_use":
            calls[event.index] = (event.content_block.id, event.content_block.name, [])
        elif event.type == "content_block_stop" and event.index in calls:
            yield tool_call(*calls.pop(event.index))
        else:
            _count(event, meter)


def _count(event: Any, meter: CallMeter) -> None:
    if event.type == "message_start":
        meter.usage = _usage(event.message.usage, Usage())
    elif event.type == "message_delta":
        meter.usage = _usage(event.usage, meter.usage)
        meter.stop_reason = _STOP.get(event.delta.stop_reason or "", "end_turn")
    elif event.type == "message_stop":
        meter.complete = meter.final = True


def _usage(counted: Any, before: Usage) -> Usage:
    """Anthropic counts apart what was read from and written to the cache; later counts are cumulative, not added."""
    creation = getattr(counted, "cache_creation", None)
    written = counted.cache_creation_input_tokens
    one_hour = creation.ephemeral_1h_input_tokens if creation is not None else before.cache_write_1h_tokens
    five_minutes = before.cache_write_5m_tokens if written is None else max(0, written - one_hour)
    details = counted.output_tokens_details
    reasoning = getattr(details, "thinking_tokens", None) or 0 if details is not None else before.reasoning_tokens
    tools = counted.server_tool_use
    return Usage(
        input_tokens=_newer(counted.input_tokens, before.input_tokens),
        cache_read_tokens=_newer(counted.cache_read_input_tokens, before.cache_read_tokens),
        cache_write_5m_tokens=five_minutes,
        cache_write_1h_tokens=one_hour,
        output_tokens=_newer(counted.output_tokens, before.output_tokens),
        reasoning_tokens=min(reasoning, _newer(counted.output_tokens, before.output_tokens)),
        server_tool_calls=_tool_counts(tools) if tools is not None else before.server_tool_calls,
        service_tier=getattr(counted, "service_tier", None) or before.service_tier,
        **{**(before.model_extra or {}), **unnamed(counted, "inference_geo", "speed")},
    )


def _newer(value: int | None, before: int) -> int:
    return before if value is None else value


def _tool_counts(tools: Any) -> dict[str, int]:
    return {name: count for name, count in tools.model_dump().items() if isinstance(count, int) and count}


def _arguments(request: ModelRequest) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_output_tokens,
        # A turn in which the model said nothing is refused when it is sent back.
        "messages": [_message(turn) for turn in request.turns if turn.content],
        "extra_headers": {"X-Client-Request-Id": str(request.attempt_id)},
    }
    if request.instructions:
        arguments["system"] = [{"type": "text", "text": text} for text in (request.system, request.closing) if text]
    if request.tools:
        arguments["tools"] = [
            {"name": tool.name, "description": tool.description, "input_schema": tool.schema} for tool in request.tools
        ]
    _mark_prefixes(arguments, request)
    if request.tools and not request.use_tools:
        arguments["tool_choice"] = {"type": "none"}
    if request.response_schema is not None:
        schema = anthropic.transform_schema(one_type_each(closed(request.response_schema)))
        arguments["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    # No temperature: since its version 2026-10-21 the API refuses any, and the SDK has no such argument.
    return arguments


def _mark_prefixes(arguments: dict[str, Any], request: ModelRequest) -> None:
    """Say up to where other calls begin the same way: then their beginning is read from the cache, at a tenth.

    Tools and system prompt are every call's of the agent. What was said up to now is the next step's beginning: that is
    worth the dearer write once a run has used its tools, for then it often goes on.
    """
    if request.system:
        arguments["system"][0]["cache_control"] = _EPHEMERAL
    elif request.tools:
        arguments["tools"][-1]["cache_control"] = _EPHEMERAL
    if request.use_tools and request.turns and request.turns[-1].role == "tool":
        arguments["messages"][-1]["content"][-1]["cache_control"] = _EPHEMERAL


def _message(turn: Turn) -> dict[str, Any]:
    role = "assistant" if turn.role == "assistant" else "user"
    return {"role": role, "content": [_block(block) for block in turn.content]}


def _block(block: Block) -> dict[str, Any]:
    if block["type"] == "tool_call":
        return {"type": "tool_use", "id": block["id"], "name": block["name"], "input": block["arguments"]}
    if block["type"] == "tool_result":
        return {
            "type": "tool_result",
            "tool_use_id": block["id"],
            "content": block["content"],
            "is_error": block["is_error"],
        }
    return {"type": "text", "text": block["text"]}


def translate(error: Exception) -> ProviderError:
    """Every error that the SDK can raise, as one of ours."""
    if isinstance(error, anthropic.APIStatusError):
        # An error inside a stream that began well comes with the response's 200: its type tells what it is.
        status = error.status_code if error.status_code >= 400 else _ERROR_STATUS.get(error.type or "", 500)
        return from_status(status, error.error_code, error.message, error.response.headers)
    if isinstance(error, anthropic.APITimeoutError | httpx2.TimeoutException):
        return timed_out(refused=unsent(error))
    if isinstance(error, anthropic.CredentialsError):
        return refused_credentials(str(error))
    if isinstance(error, (anthropic.APIError, anthropic.RetryableError, *BROKEN)):
        return unavailable(repr(error), refused=unsent(error))
    return refused_request(str(error))
