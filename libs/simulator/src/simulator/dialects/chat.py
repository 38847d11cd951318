"""OpenAI's Chat Completions API."""

from collections.abc import Iterator
from typing import Any

import orjson

from simulator.answer import Answer, Call
from simulator.conversation import Conversation
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
from simulator.schemas import checked_by_openai
from simulator.tokens import count, pieces

_FINISH_REASONS = {"end": "stop", "length": "length", "tools": "tool_calls"}
_DONE = b"data: [DONE]\n\n"


class Chat(OpenAI):
    """`POST /v1/chat/completions`."""

    api = "chat.completions"

    def read(self, body: dict[str, Any]) -> Conversation:
        """The conversation; the newer name of the token limit goes before the older one."""
        model = model_of(body)
        messages = messages_of(body, "messages")
        prompt, rounds = _latest(messages)
        form = (body.get("response_format") or {}).get("json_schema")
        tools = [*(body.get("tools") or ()), *([form] if form else ())]
        return Conversation(
            model=model,
            prompt=prompt,
            rounds=rounds,
            input_tokens=tools_tokens(tools) + sum(map(_message_tokens, messages)),
            tools=bool(body.get("tools")) and body.get("tool_choice") != "none",
            max_tokens=limit_of(body, "max_completion_tokens", "max_tokens"),
            stream=body.get("stream") is True,
            schema=checked_by_openai(form, "response_format.json_schema") if form else None,
            include_usage=(body.get("stream_options") or {}).get("include_usage") is True,
        )

    def whole(self, answer: Answer) -> bytes:
        """The chat.completion object."""
        message: dict[str, Any] = {"role": "assistant", "content": "".join(answer.text), "refusal": None}
        if answer.calls:
            message["content"] = None
            message["tool_calls"] = [_tool_call(call, call.arguments) for call in answer.calls]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": _FINISH_REASONS[answer.stop],
        }
        return orjson.dumps({**_shell(answer, "chat.completion"), "choices": [choice], "usage": _usage(answer)})

    def frames(self, answer: Answer) -> Iterator[Frame]:
        """The chunks; usage only on request, in a last chunk without choices."""
        before, after = _delta_around(answer)
        first = {"role": "assistant", "content": None if answer.calls else "", "refusal": None}
        yield 0, before + orjson.dumps(first) + after
        if answer.reasoning:
            yield answer.reasoning, b""
        for piece in answer.text:
            yield 1, before + b'{"content":' + orjson.dumps(piece) + b"}" + after
        for index, call in enumerate(answer.calls):
            yield count(call.name), before + _tool_delta({"index": index, **_tool_call(call, "")}) + after
            for piece in pieces(call.arguments):
                yield 1, before + _tool_delta({"index": index, "function": {"arguments": piece}}) + after
        yield 0, _ending(answer, before)

    def failure(self, number: int) -> bytes:  # noqa: ARG002  (this API does not number its chunks)
        """An error object in place of a chunk."""
        error = {"message": "The server had an error (simulated fault)", "type": "server_error", "code": None}
        return b"data: " + orjson.dumps({"error": {**error, "param": None}}) + b"\n\n"


def _latest(messages: list[dict[str, Any]]) -> tuple[str, int]:
    """The last prompt of the user and the rounds of tool calls since."""
    rounds = 0
    for message in reversed(messages):
        if message["role"] == "user":
            return plain_text(message["content"]), rounds
        rounds += bool(message.get("tool_calls"))
    return "", rounds


def _message_tokens(message: dict[str, Any]) -> int:
    return content_tokens(message.get("content")) + content_tokens(message.get("tool_calls"))


def _shell(answer: Answer, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{answer.uid}",
        "object": kind,
        "created": answer.created,
        "model": answer.model,
        "service_tier": "default",
        "system_fingerprint": "fp_simulated",
    }


def _usage(answer: Answer) -> dict[str, Any]:
    """Usage as OpenAI reports it: cached tokens are a part of the prompt's."""
    used = answer.usage
    return {
        "prompt_tokens": used.prompt,
        "completion_tokens": used.output,
        "total_tokens": used.prompt + used.output,
        "prompt_tokens_details": {"cached_tokens": used.cache_read, "cache_write_tokens": used.cache_write},
        "completion_tokens_details": {"reasoning_tokens": used.reasoning},
    }


def _delta_around(answer: Answer) -> tuple[bytes, bytes]:
    """What stands before and after the delta of a chunk: written once, used for every token."""
    shell = orjson.dumps(_shell(answer, "chat.completion.chunk"))
    usage = b',"usage":null' if answer.conversation.include_usage else b""
    before = b"data: " + shell[:-1] + b',"choices":[{"index":0,"delta":'
    return before, b',"logprobs":null,"finish_reason":null}]' + usage + b"}\n\n"


def _ending(answer: Answer, before: bytes) -> bytes:
    finish = _FINISH_REASONS[answer.stop].encode()
    if not answer.conversation.include_usage:
        return before + b'{},"logprobs":null,"finish_reason":"%b"}]}\n\n' % finish + _DONE
    last = {**_shell(answer, "chat.completion.chunk"), "choices": [], "usage": _usage(answer)}
    finished = before + b'{},"logprobs":null,"finish_reason":"%b"}],"usage":null}\n\n' % finish
    return finished + b"data: " + orjson.dumps(last) + b"\n\n" + _DONE


def _tool_call(call: Call, arguments: str) -> dict[str, Any]:
    return {"id": f"call_{call.id}", "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _tool_delta(call: dict[str, Any]) -> bytes:
    return b'{"tool_calls":[' + orjson.dumps(call) + b"]}"
