"""A stream's response: closes what it reads from, and breaks off audibly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from starlette.types import Message
from structlog.testing import capture_logs

from gateway.sse import EventStream


class _Frames:
    """Frames, and whether their generator was closed."""

    def __init__(self, *, fails: bool = False) -> None:
        self._fails = fails
        self.closed = False

    async def read(self) -> AsyncGenerator[bytes]:
        try:
            yield b"a frame"
            if self._fails:
                raise LookupError("a mistake of ours")
            await asyncio.Event().wait()
        finally:
            self.closed = True


async def _stays() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def _answer(stream: EventStream, *, lost: bool = False) -> list[Message]:
    """What the client receives; one that is lost goes after the first frame."""
    sent: list[Message] = []
    first = asyncio.Event()

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            first.set()

    async def leaves() -> Message:
        await first.wait()
        return {"type": "http.disconnect"}

    async with asyncio.timeout(5):
        await stream({"type": "http"}, leaves if lost else _stays, send)
    return sent


async def test_a_mistake_in_a_stream_is_logged_and_breaks_it_off() -> None:
    frames = _Frames(fails=True)
    stream = EventStream(frames.read())
    with capture_logs() as logs:
        sent = await _answer(stream)
    assert [log["event"] for log in logs] == ["stream.failed"]
    assert sent[-1].get("more_body"), "a client must not take it for the end"
    assert frames.closed
    assert not stream.gone


async def test_the_frames_are_closed_with_the_response() -> None:
    frames = _Frames()
    stream = EventStream(frames.read())
    with capture_logs() as logs:
        await _answer(stream, lost=True)
    assert frames.closed
    assert stream.gone
    assert not logs
