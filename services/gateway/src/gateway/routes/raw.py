"""Documented routes whose endpoints take the request as it is: the hot path pays for no dependency injection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from uuid import UUID

import orjson
from fastapi import Depends
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.requests import Request
from starlette.responses import Response

# Documents the scheme; the endpoints authenticate themselves.
SECURED = Depends(HTTPBearer(auto_error=False, description="An API key: `lw_<id>_<secret>`"))


class RawRoute(APIRoute):
    """A route that calls its endpoint with the request, and sends the response it returns."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint itself."""
        return self.endpoint


def checked(check: Callable[[Request], Awaitable[None]]) -> type[APIRoute]:
    """Routes that check a request before anything of it is parsed, and meet too large a body before the framework."""

    class CheckedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def checking(request: Request) -> Response:
                await check(request)
                await request.body()
                return await handle(request)

            return checking

    return CheckedRoute


class Json(Response):
    """JSON by orjson: UUIDs and times as they are."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The document as bytes."""
        return content if isinstance(content, bytes) else orjson.dumps(content, default=_plain)


def _plain(value: object) -> str:
    # asyncpg's UUIDs are a class of their own, which orjson does not take for one.
    if isinstance(value, UUID):
        return str(value)
    raise TypeError
