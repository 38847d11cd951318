"""uvicorn as the gateway runs it: the process's own lifecycle hears the signals."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from common.errors import Unavailable
from gateway.settings import Http

_STOP_SECONDS = 10


class Server(uvicorn.Server):
    """Without signal handlers; `close` ends it in good order."""

    def __init__(self, app: ASGIApp, http: Http) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=http.host,
                port=http.port,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=_STOP_SECONDS,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield

    async def serve_forever(self) -> None:
        """Serve until `close`. Raises `Unavailable` where the port is taken."""
        try:
            await self.serve()
        except SystemExit as error:
            raise Unavailable(f"the port {self.config.port} cannot be listened on") from error

    async def close(self, serving: asyncio.Task[None]) -> None:
        """Take no more connections, and wait for the requests that are under way."""
        self.should_exit = True
        await asyncio.wait({serving}, timeout=_STOP_SECONDS + 2)
