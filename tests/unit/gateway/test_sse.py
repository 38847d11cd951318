"""A stream's response: closes what it reads from, and breaks off audibly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.types import Message
from structlog.testing import capture_logs

from gateway.batch_streams import BatchPace
from gateway.sse import PING, EventStream
from gateway.streams import Pace


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


async def test_a_client_that_does_not_read_is_dropped_in_bounded_time_and_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.sse._SEND_SECONDS", 0.05)
    frames, stuck = _Frames(), asyncio.Event()
    stream = EventStream(frames.read())

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await stuck.wait()  # as uvicorn does while the client's window is full

    async with asyncio.timeout(30):
        await stream({"type": "http"}, _stays, send)
    assert frames.closed
    assert stream.gone, "what nobody reads is not to be bought any more"


def test_a_quiet_stream_shows_a_sign_of_life_every_fifteen_seconds_at_least() -> None:
    assert Pace().quiet == BatchPace().quiet == 15
    assert PING.startswith(b":"), "a comment, which no client takes for an event"
    assert PING.endswith(b"\n\n")


async def test_the_frames_are_closed_with_the_response() -> None:
    frames = _Frames()
    stream = EventStream(frames.read())
    with capture_logs() as logs:
        await _answer(stream, lost=True)
    assert frames.closed
    assert stream.gone
    assert not logs
