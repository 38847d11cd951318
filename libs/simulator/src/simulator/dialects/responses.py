"""OpenAI's Responses API: its requests and the response object."""

from collections.abc import Iterator
from typing import Any

import orjson

from simulator.answer import Answer
from simulator.conversation import Conversation
from simulator.dialects import responses_stream
from simulator.dialects.base import (
    Frame,
    content_tokens,
    limit_of,
    messages_of,
    model_of,
    plain_text,
    tools_tokens,
)
from simulator.dialects.openai import OpenAI
from simulator.errors import CallRefused
from simulator.schemas import checked_by_openai


class Responses(OpenAI):
    """`POST /v1/responses`; nothing is stored, so every request has to bring its whole input."""

    api = "responses"

    def read(self, body: dict[str, Any]) -> Conversation:
        """The conversation; the input is a text or a list of items."""
        model = model_of(body)
        if body.get("previous_response_id") or body.get("conversation"):
            raise CallRefused("bad_request", "The simulator stores no responses: send the whole conversation as input.")
        given = body.get("input")
        items = [{"role": "user", "content": given}] if isinstance(given, str) else messages_of(body, "input")
        prompt, rounds = _latest(items)
        form = (body.get("text") or {}).get("format") or {}
        form = form if form.get("type") == "json_schema" else {}
        tools = [*(body.get("tools") or ()), *([form] if form else ())]
        tokens = content_tokens(body.get("instructions")) + tools_tokens(tools)
        return Conversation(
            model=model,
            prompt=prompt,
            rounds=rounds,
            input_tokens=tokens + sum(map(content_tokens, items)),
            tools=bool(body.get("tools")) and body.get("tool_choice") != "none",
            max_tokens=limit_of(body, "max_output_tokens"),
            stream=body.get("stream") is True,
            schema=checked_by_openai(form, "text.format") if form else None,
        )

    def whole(self, answer: Answer) -> bytes:
        """The response object."""
        return orjson.dumps(responses_stream.finished(answer))

    def frames(self, answer: Answer) -> Iterator[Frame]:
        """Numbered events from response.created to response.completed (or incomplete)."""
        return responses_stream.frames(answer)

    def failure(self, number: int) -> bytes:
        """An `error` event."""
        error = {
            "type": "error",
            "code": "server_error",
            "message": "The server had an error (simulated fault)",
            "param": None,
            "sequence_number": number,
        }
        return b"event: error\ndata: " + orjson.dumps(error) + b"\n\n"


def _latest(items: list[dict[str, Any]]) -> tuple[str, int]:
    """The last prompt of the user and the rounds of tool calls since.

    A round is a run of function calls; their outputs follow after the last of them.
    """
    rounds = 0
    in_calls = False
    for item in reversed(items):
        if item.get("role") == "user":
            return plain_text(item["content"]), rounds
        is_call = item.get("type") == "function_call"
        rounds += is_call and not in_calls
        in_calls = is_call
    return "", rounds
