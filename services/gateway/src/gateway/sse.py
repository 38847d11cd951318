"""Server-sent events: their bytes, and a response that notices when its client is gone or does not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson
import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from common.contracts.events import StreamEvent
from gateway.sequence import Gap

_log = structlog.get_logger(__name__)

PING = b": ping\n\n"
# A client that is cut off comes back after a second, with the last id it saw.
PREAMBLE = b"retry: 1000\n\n"
_SEND_SECONDS = 30.0


def frame(event: StreamEvent) -> bytes:
    """One event, with its id."""
    document = event.data | {"type": event.type, "at": event.at}
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (str(event.id).encode(), event.type.encode(), orjson.dumps(document))


def frame_gap(gap: Gap) -> bytes:
    """A gap has no id: it is no place to resume from."""
    return b"event: gap\ndata: %b\n\n" % orjson.dumps(
        {"type": "gap", "after": str(gap.after), "before": str(gap.before)}
    )


class EventStream(Response):
    """Sends frames as they come.

    Three ways it ends: the frames do; the client goes away, or takes longer than it may to read one frame. `gone` tells
    the last two, when it is over.
    """

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncGenerator[bytes], headers: dict[str, str] | None = None) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._frames = frames
        self.gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's
        """ASGI."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        sending = asyncio.create_task(self._send_all(send), name="stream.send")
        leaving = asyncio.create_task(_until_gone(receive), name="stream.gone")
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            self.gone = not sending.done()
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
        self._judge(sending)

    def _judge(self, sending: asyncio.Task[None]) -> None:
        error = None if sending.cancelled() else sending.exception()
        if isinstance(error, OSError):
            self.gone = True
        elif error is not None:
            # The status is sent: all that is left is to break off, and the client comes back with the last id it saw.
            _log.error("stream.failed", error=repr(error), exc_info=error)

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._frames) as frames:
            async for frame in frames:
                async with asyncio.timeout(_SEND_SECONDS):
                    await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
