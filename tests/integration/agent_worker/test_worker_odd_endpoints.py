"""Chat Completions as compatible endpoints speak them, which is not always as OpenAI does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast
from uuid import uuid4

import httpx2
import orjson
import pytest

from agent_worker.providers.anthropic import AnthropicMessages
from agent_worker.providers.base import (
    CallMeter,
    ModelRequest,
    Piece,
    Provider,
    TextDelta,
    ToolCall,
    TransientError,
    Turn,
)
from agent_worker.providers.openai import client
from agent_worker.providers.openai_chat import OpenAIChat

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def chunk(delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices, **more}


@asynccontextmanager
async def endpoint(chunks: Sequence[object]) -> AsyncIterator[str]:
    """Answers whatever it is asked with these chunks."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"".join(b"data: " + orjson.dumps(c) + b"\n\n" for c in chunks) + b"data: [DONE]\n\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


@asynccontextmanager
async def raw(*parts: bytes) -> AsyncIterator[str]:
    """Answers whatever it is asked with these bytes, each part once the one before has surely been read."""
    answering: set[asyncio.Task[Any]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.add(cast(asyncio.Task[Any], asyncio.current_task()))
        try:
            await reader.readuntil(b"\r\n\r\n")
            for number, part in enumerate(parts):
                await asyncio.sleep(0.2 if number else 0)
                writer.write(part)
                await writer.drain()
        except ConnectionError:  # whoever asked has heard enough
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        await asyncio.wait(answering)


async def ask(chunks: Sequence[object]) -> tuple[list[Piece], CallMeter]:
    async with endpoint(chunks) as url:
        provider, meter = OpenAIChat(client("k", url, httpx2.Timeout(5.0), 1)), CallMeter()
        request = ModelRequest("m", "", (Turn("user", ({"type": "text", "text": "x"},)),), (), 10, None, uuid4())
        try:
            return [piece async for piece in provider.stream(request, meter)], meter
        finally:
            await provider.close()


async def test_usage_in_the_chunk_that_finishes() -> None:
    pieces, meter = await ask([chunk({"content": "hi"}), chunk({}, "stop", usage=USAGE)])
    assert pieces == [TextDelta("hi")]
    assert (meter.final, meter.usage.input_tokens) == (True, 5)


async def test_usage_in_every_chunk() -> None:
    first = chunk({"content": "hi"}, usage={**USAGE, "completion_tokens": 1})
    _, meter = await ask([first, chunk({}, "stop", usage=USAGE)])
    assert (meter.final, meter.usage.output_tokens) == (True, 2)


async def test_no_usage_at_all_is_an_answer_of_which_we_estimate_the_usage() -> None:
    pieces, meter = await ask([chunk({"content": "hi"}), chunk({}, "stop")])
    assert pieces == [TextDelta("hi")]
    assert (meter.complete, meter.final) == (True, False)


async def test_a_tool_call_without_usage() -> None:
    call = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": None}}
    pieces, _ = await ask([chunk({"tool_calls": [call]}), chunk({}, "tool_calls")])
    assert pieces == [ToolCall("c", "f", {})]


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk({"content": "hi"})],
        [{"choices": None}],
        [{"choices": [{"index": 0}]}],
        [chunk({"tool_calls": [{"index": 0, "id": "c"}]})],
        [["not", "an", "object"]],
        [{"error": {"message": "out of memory", "code": 500}}],
        [chunk({"content": "hi"}), chunk({}, "stop", usage={"prompt_tokens": None, "completion_tokens": 3})],
        [],
    ],
)
async def test_what_is_no_answer_is_a_broken_one(chunks: Sequence[object]) -> None:
    with pytest.raises(TransientError):
        await ask(chunks)


FRAMED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
CHUNKED = FRAMED + b"transfer-encoding: chunked\r\n\r\n"
SAID = b"data: " + orjson.dumps(chunk({"content": "hi"})) + b"\n\n"
FIRST = b"%x\r\n%b\r\n" % (len(SAID), SAID)


@pytest.mark.parametrize(
    "parts",
    [
        (CHUNKED + FIRST, b"no size\r\n"),
        (CHUNKED + FIRST, b"5\r\nabcdexxxx\r\n"),
        (CHUNKED + FIRST + b"no size\r\n",),
        (CHUNKED + FIRST,),
        (FRAMED + b"content-length: 100000\r\n\r\n" + SAID,),
        (FRAMED + b"content-encoding: gzip\r\nconnection: close\r\n\r\n" + SAID,),
        (b"HTTP/1.1 two hundred\r\n\r\n",),
        (FRAMED + b"x" * 20_000 + b": long\r\n\r\n",),
        (b"",),
    ],
    ids=["no size", "another size", "at once", "cut", "short", "not compressed", "no status", "a long name", "nothing"],
)
@pytest.mark.parametrize("sdk", [AnthropicMessages, lambda *terms: OpenAIChat(client(*terms))], ids=["claude", "gpt"])
async def test_what_is_no_http_is_a_broken_answer(sdk: Callable[..., Provider], parts: tuple[bytes, ...]) -> None:
    async with raw(*parts) as url:
        provider = sdk("k", url, httpx2.Timeout(3.0), 1)
        request = ModelRequest("m", "", (Turn("user", ({"type": "text", "text": "x"},)),), (), 10, None, uuid4())
        try:
            with pytest.raises(TransientError):
                _ = [piece async for piece in provider.stream(request, CallMeter())]
        finally:
            await provider.close()


async def test_a_refusal_is_told_and_is_no_ordinary_end() -> None:
    pieces, meter = await ask([chunk({"refusal": "I can"}), chunk({"refusal": "not."}), chunk({}, "stop", usage=USAGE)])
    assert pieces == [TextDelta("I can"), TextDelta("not.")]
    assert (meter.stop_reason, meter.received_bytes) == ("refusal", 9)
