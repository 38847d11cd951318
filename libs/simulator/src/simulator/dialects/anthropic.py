"""Anthropic's Messages API: its requests, errors, headers and usage."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from simulator.answer import Answer
from simulator.conversation import Conversation
from simulator.dialects import anthropic_stream
from simulator.dialects.base import (
    Frame,
    Headers,
    bearer,
    content_tokens,
    limit_of,
    messages_of,
    model_of,
    plain_text,
    tools_tokens,
)
from simulator.errors import CallRefused, Kind
from simulator.limits import Standing, timestamp
from simulator.schemas import checked_by_anthropic

_ERRORS: dict[Kind, tuple[int, str]] = {
    "bad_request": (400, "invalid_request_error"),
    "unauthorized": (401, "authentication_error"),
    "invalid_key": (401, "authentication_error"),
    "not_found": (404, "not_found_error"),
    "rate_limited": (429, "rate_limit_error"),
    "quota": (429, "rate_limit_error"),
    "server": (500, "api_error"),
    "overloaded": (529, "overloaded_error"),
}

_BREAKPOINTS = 4


class Messages:
    """`POST /v1/messages`."""

    provider = "anthropic"
    api = "messages"

    def api_key(self, headers: Mapping[bytes, bytes]) -> bytes | None:
        """The `x-api-key` header, or a bearer token."""
        return headers.get(b"x-api-key") or bearer(headers)

    def read(self, body: dict[str, Any]) -> Conversation:
        """The conversation; `max_tokens` is required."""
        model = model_of(body)
        messages = messages_of(body, "messages")
        max_tokens = limit_of(body, "max_tokens")
        if max_tokens is None:
            raise CallRefused("bad_request", "max_tokens: Field required")
        if orjson.dumps(body).count(b'"cache_control"') > _BREAKPOINTS:
            raise CallRefused("bad_request", f"A maximum of {_BREAKPOINTS} blocks with cache_control may be provided.")
        prompt, rounds = _latest(messages)
        form = (body.get("output_config") or {}).get("format")
        return Conversation(
            model=model,
            prompt=prompt,
            rounds=rounds,
            input_tokens=input_tokens(body),
            tools=bool(body.get("tools")) and (body.get("tool_choice") or {}).get("type") != "none",
            max_tokens=max_tokens,
            stream=body.get("stream") is True,
            schema=checked_by_anthropic(form["schema"]) if form else None,
            show_reasoning=(body.get("thinking") or {}).get("type") in {"enabled", "adaptive"},
        )

    def whole(self, answer: Answer) -> bytes:
        """The message object."""
        return orjson.dumps(
            {
                **anthropic_stream.shell(answer),
                "content": anthropic_stream.blocks(answer),
                "stop_reason": anthropic_stream.STOP_REASONS[answer.stop],
                "usage": {**anthropic_stream.usage(answer), "service_tier": "standard"},
            }
        )

    def frames(self, answer: Answer) -> Iterator[Frame]:
        """Server-sent events from message_start to message_stop."""
        return anthropic_stream.frames(answer)

    def failure(self, number: int) -> bytes:  # noqa: ARG002  (this API does not number its events)
        """An `error` event."""
        error = {"type": "overloaded_error", "message": "Overloaded (simulated fault)"}
        return b"event: error\ndata: " + orjson.dumps({"type": "error", "error": error}) + b"\n\n"

    def refusal(self, refused: CallRefused, request_id: str) -> tuple[int, bytes]:
        """Status and error object."""
        status, kind = _ERRORS[refused.kind]
        error = {"type": kind, "message": refused.message}
        return status, orjson.dumps({"type": "error", "error": error, "request_id": request_id})

    def headers(self, request_id: str, standing: Standing | None) -> Headers:
        """`request-id` and the `anthropic-ratelimit-*` family."""
        headers = [(b"request-id", request_id.encode())]
        for what, allowance in zip((b"requests", b"tokens"), standing or (), strict=False):
            if allowance is None:
                continue
            family = b"anthropic-ratelimit-" + what
            if allowance.limit is not None:
                headers.append((family + b"-limit", b"%d" % allowance.limit))
            headers += [
                (family + b"-remaining", b"%d" % allowance.remaining),
                (family + b"-reset", timestamp(allowance.reset).encode()),
            ]
        return headers


def input_tokens(body: dict[str, Any]) -> int:
    """Tokens of everything in a request that the model reads."""
    form = (body.get("output_config") or {}).get("format")
    tokens = (
        tools_tokens([form] if form else None) + content_tokens(body.get("system")) + tools_tokens(body.get("tools"))
    )
    return tokens + sum(content_tokens(message["content"]) for message in body["messages"])


def _latest(messages: list[dict[str, Any]]) -> tuple[str, int]:
    """The last prompt of the user and the rounds of tool calls since; tool results are the user's too here."""
    rounds = 0
    for message in reversed(messages):
        content = message["content"]
        if message["role"] == "assistant":
            rounds += _holds(content, "tool_use")
        elif message["role"] == "user" and not _holds(content, "tool_result"):
            return plain_text(content), rounds
    return "", rounds


def _holds(content: object, kind: str) -> bool:
    return isinstance(content, list) and any(block.get("type") == kind for block in content)
