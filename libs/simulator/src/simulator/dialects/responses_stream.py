"""The response object of OpenAI's Responses API and its stream of numbered events."""

from collections.abc import Iterator
from typing import Any

import orjson

from simulator.answer import Answer, Call
from simulator.dialects.base import Frame
from simulator.tokens import count, pieces


def finished(answer: Answer) -> dict[str, Any]:
    """The whole response."""
    output = [_reasoning_item(answer)] if answer.reasoning else []
    if answer.text or not answer.calls:
        output.append(_message_item(answer))
    output += [_call_item(call, call.arguments, "completed") for call in answer.calls]
    cut_short = answer.stop == "length"
    return {
        **_shell(answer),
        "status": "incomplete" if cut_short else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if cut_short else None,
        "completed_at": None if cut_short else answer.created,
        "output": output,
        "usage": _usage(answer),
    }


def frames(answer: Answer) -> Iterator[Frame]:
    """The events of the stream: exactly one event in each frame, numbered from 0."""
    events = _Events()
    yield 0, events.next("response.created", response=_shell(answer))
    yield 0, events.next("response.in_progress", response=_shell(answer))
    index = 0
    if answer.reasoning:
        item = _reasoning_item(answer)
        yield 0, events.next("response.output_item.added", output_index=0, item=item)
        yield answer.reasoning, events.next("response.output_item.done", output_index=0, item=item)
        index = 1
    if answer.text or not answer.calls:
        yield from _message(answer, events, index)
        index += 1
    for place, call in enumerate(answer.calls, index):
        yield from _call(call, events, place)
    response = finished(answer)
    yield 0, events.next(f"response.{response['status']}", response=response)


class _Events:
    """Writes events, counting them."""

    def __init__(self) -> None:
        self._number = 0

    def next(self, kind: str, **data: object) -> bytes:
        event = {"type": kind, "sequence_number": self._number, **data}
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps(event))

    def deltas(self, kind: str, rest: dict[str, object], texts: list[str]) -> Iterator[Frame]:
        """One event of one token for each text; all but the number and the text is written once."""
        before = f'event: {kind}\ndata: {{"type":"{kind}",'.encode() + orjson.dumps(rest)[1:-1] + b',"sequence_number":'
        for text in texts:
            number = self._number
            self._number += 1
            yield 1, before + b'%d,"delta":' % number + orjson.dumps(text) + b"}\n\n"


def _message(answer: Answer, events: _Events, index: int) -> Iterator[Frame]:
    item = _message_item(answer)
    part = item["content"][0]
    place = {"item_id": item["id"], "output_index": index, "content_index": 0}
    unfinished = {**item, "content": [], "status": "in_progress"}
    yield 0, events.next("response.output_item.added", output_index=index, item=unfinished)
    yield 0, events.next("response.content_part.added", **place, part={**part, "text": ""})
    yield from events.deltas("response.output_text.delta", {**place, "logprobs": []}, answer.text)
    yield 0, events.next("response.output_text.done", **place, text=part["text"], logprobs=[])
    yield 0, events.next("response.content_part.done", **place, part=part)
    yield 0, events.next("response.output_item.done", output_index=index, item=item)


def _call(call: Call, events: _Events, index: int) -> Iterator[Frame]:
    unfinished = _call_item(call, "", "in_progress")
    place = {"item_id": unfinished["id"], "output_index": index}
    yield count(call.name), events.next("response.output_item.added", output_index=index, item=unfinished)
    yield from events.deltas("response.function_call_arguments.delta", place, pieces(call.arguments))
    yield 0, events.next("response.function_call_arguments.done", **place, name=call.name, arguments=call.arguments)
    item = _call_item(call, call.arguments, "completed")
    yield 0, events.next("response.output_item.done", output_index=index, item=item)


def _shell(answer: Answer) -> dict[str, Any]:
    return {
        "id": f"resp_{answer.uid}",
        "object": "response",
        "created_at": answer.created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": answer.conversation.max_tokens,
        "metadata": {},
        "model": answer.model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "service_tier": "default",
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
    }


def _usage(answer: Answer) -> dict[str, Any]:
    """Usage as OpenAI reports it: cached tokens are a part of the input's."""
    used = answer.usage
    return {
        "input_tokens": used.prompt,
        "input_tokens_details": {"cached_tokens": used.cache_read, "cache_write_tokens": used.cache_write},
        "output_tokens": used.output,
        "output_tokens_details": {"reasoning_tokens": used.reasoning},
        "total_tokens": used.prompt + used.output,
    }


def _reasoning_item(answer: Answer) -> dict[str, Any]:
    return {"id": f"rs_{answer.uid}", "type": "reasoning", "summary": []}


def _message_item(answer: Answer) -> dict[str, Any]:
    text = "".join(answer.text)
    return {
        "id": f"msg_{answer.uid}",
        "type": "message",
        "role": "assistant",
        "status": "incomplete" if answer.stop == "length" else "completed",
        "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}],
    }


def _call_item(call: Call, arguments: str, status: str) -> dict[str, Any]:
    return {
        "id": f"fc_{call.id}",
        "type": "function_call",
        "status": status,
        "call_id": f"call_{call.id}",
        "name": call.name,
        "arguments": arguments,
    }
