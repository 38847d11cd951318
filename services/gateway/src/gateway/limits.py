"""The one middleware: counts requests, bounds bodies before they are read, and marks simulated answers."""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import problems
from gateway.metrics import Metrics
from gateway.problems import Problem, render

MAX_BODY = 128 * 1024
MAX_BATCH_BODY = 8 * 1024 * 1024
MAX_UPLOAD_BODY = 6 * 1024 * 1024
_LARGER = (
    (re.compile(r"/v1/batches"), MAX_BATCH_BODY),
    (re.compile(r"/v1/conversations/[^/]+/documents"), MAX_UPLOAD_BODY),
)
_SIMULATED = (b"x-laneway-simulated", b"true")


class Guard:
    """Wraps the application. Plain ASGI: a middleware that re-wraps requests would cost more than it guards."""

    def __init__(self, app: ASGIApp, metrics: Metrics, *, simulated: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._simulated = simulated

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._simulated and scope["path"].startswith("/v1/"):
                    message["headers"] = [*message["headers"], _SIMULATED]
            await send(message)

        try:
            limit = _limit(scope["path"])
            if _announced(scope) > limit:
                await render(_too_large(limit), scope["path"])(scope, receive, sending)
                return
            await self._app(scope, _Counting(receive, limit).receive, sending)
        finally:
            route = scope.get("route")
            self._metrics.requests.labels(getattr(route, "path", "unknown"), str(status)).inc()


class _Counting:
    """A body whose length nobody announced, read no further than it may be long."""

    __slots__ = ("_limit", "_receive", "_size")

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._size = 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            if self._size > self._limit:
                raise _too_large(self._limit)
        return message


def _limit(path: str) -> int:
    return next((larger for pattern, larger in _LARGER if pattern.fullmatch(path)), MAX_BODY)


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


def _too_large(limit: int) -> Problem:
    # What is still on its way is not read: the connection ends with the answer.
    return problems.TOO_LARGE.problem(f"The body is larger than {limit} bytes.", headers={"Connection": "close"})
