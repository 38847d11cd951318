"""Anthropic's message object and its stream of events."""

from collections.abc import Iterator
from typing import Any

import orjson

from simulator.answer import Answer, Call
from simulator.dialects.base import Frame
from simulator.tokens import count, filler, pieces

STOP_REASONS = {"end": "end_turn", "length": "max_tokens", "tools": "tool_use"}

_PING = b'event: ping\ndata: {"type":"ping"}\n\n'
_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_SIGNATURE = "c2ltdWxhdGVk"


def shell(answer: Answer) -> dict[str, Any]:
    """The message object without what is only known at its end."""
    return {
        "id": f"msg_{answer.uid}",
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def usage(answer: Answer) -> dict[str, Any]:
    """Usage as Anthropic reports it: `input_tokens` excludes cache reads and writes."""
    used = answer.usage
    return {
        "input_tokens": used.input,
        "cache_creation_input_tokens": used.cache_write,
        "cache_read_input_tokens": used.cache_read,
        "output_tokens": used.output,
        "output_tokens_details": {"thinking_tokens": used.reasoning},
    }


def blocks(answer: Answer) -> list[dict[str, Any]]:
    """The content blocks of the whole message."""
    content: list[dict[str, Any]] = []
    if answer.reasoning and answer.conversation.show_reasoning:
        thinking = "".join(filler(answer.reasoning))
        content.append({"type": "thinking", "thinking": thinking, "signature": _SIGNATURE})
    if answer.text:
        content.append({"type": "text", "text": "".join(answer.text)})
    content += [{**_tool_block(call), "input": orjson.loads(call.arguments)} for call in answer.calls]
    return content


def frames(answer: Answer) -> Iterator[Frame]:
    """The events of the stream; usage is in message_start and, cumulative, in message_delta."""
    yield 0, _opening(answer)
    index = 0
    if answer.reasoning:
        if answer.conversation.show_reasoning:
            yield from _thinking(answer.reasoning)
            index = 1
        else:
            yield answer.reasoning, b""
    if answer.text:
        yield from _text(answer.text, index)
    for place, call in enumerate(answer.calls, index):
        yield from _tool(call, place)
    delta = {"stop_reason": STOP_REASONS[answer.stop], "stop_sequence": None}
    yield 0, _event("message_delta", {"delta": delta, "usage": usage(answer)}) + _STOP


def _opening(answer: Answer) -> bytes:
    # As on the real wire, the first usage counts what was generated when the event was written.
    first = min(answer.usage.output, 1) if answer.immediate else 0
    started = {
        "input_tokens": answer.usage.input,
        "cache_creation_input_tokens": answer.usage.cache_write,
        "cache_read_input_tokens": answer.usage.cache_read,
        "output_tokens": first,
        "service_tier": "standard",
    }
    return _event("message_start", {"message": {**shell(answer), "usage": started}}) + _PING


def _thinking(tokens: int) -> Iterator[Frame]:
    yield 0, _start(0, {"type": "thinking", "thinking": "", "signature": ""})
    for piece in filler(tokens):
        yield 1, _event("content_block_delta", {"index": 0, "delta": {"type": "thinking_delta", "thinking": piece}})
    signature = {"type": "signature_delta", "signature": _SIGNATURE}
    yield 0, _event("content_block_delta", {"index": 0, "delta": signature}) + _end(0)


def _text(text: list[str], index: int) -> Iterator[Frame]:
    yield 0, _start(index, {"type": "text", "text": ""})
    before, after = _delta_around(index, "text_delta", "text")
    for piece in text:
        yield 1, before + orjson.dumps(piece) + after
    yield 0, _end(index)


def _tool(call: Call, index: int) -> Iterator[Frame]:
    yield count(call.name), _start(index, _tool_block(call))
    before, after = _delta_around(index, "input_json_delta", "partial_json")
    for piece in pieces(call.arguments):
        yield 1, before + orjson.dumps(piece) + after
    yield 0, _end(index)


def _tool_block(call: Call) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"toolu_{call.id}", "name": call.name, "input": {}}


def _delta_around(index: int, kind: str, field: str) -> tuple[bytes, bytes]:
    """What stands before and after the text of a delta event: written once, used for every token."""
    start = (
        f'event: content_block_delta\ndata: {{"type":"content_block_delta","index":{index},'
        f'"delta":{{"type":"{kind}","{field}":'
    )
    return start.encode(), b"}}\n\n"


def _start(index: int, block: dict[str, Any]) -> bytes:
    return _event("content_block_start", {"index": index, "content_block": block})


def _end(index: int) -> bytes:
    return b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % index


def _event(kind: str, data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind, **data}))
