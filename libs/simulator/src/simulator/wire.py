"""One HTTP exchange with a client: reading its request, writing at set times, noticing that it went away."""

import asyncio
from collections.abc import Iterable

from starlette.types import Receive, Send


class Wire:
    """The client's end of a call; `gone` once the client has closed its connection."""

    __slots__ = ("_receive", "_send", "_waiter", "_watch", "gone", "status")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._watch: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.gone = False
        self.status = 0

    async def body(self) -> bytes:
        """The request's body."""
        parts: list[bytes] = []
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                return b""
            parts.append(message["body"])
            if not message.get("more_body"):
                return b"".join(parts)

    async def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Send the status and the headers."""
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes, *, last: bool = False) -> bool:
        """Send a part of the body; False when the client was gone before."""
        if not last:
            self._watch_client()
        if self.gone:
            return False
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})
        return True

    async def until(self, due: float) -> bool:
        """Wait for a time of the loop's clock; False as soon as the client is gone."""
        self._watch_client()
        if self.gone:
            return False
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_at(due, _wake, self._waiter)
        try:
            await self._waiter
        finally:
            timer.cancel()
        return not self.gone

    def close(self) -> None:
        """Stop watching the client."""
        if self._watch is not None:
            self._watch.cancel()

    def _watch_client(self) -> None:
        # One task for a whole stream, and none for an answer that leaves in a single write.
        if self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._until_gone())

    async def _until_gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        if self._waiter is not None:
            _wake(self._waiter)


def _wake(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
