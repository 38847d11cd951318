"""uvicorn as the gateway runs it: the process's own lifecycle hears the signals."""

from __future__ import annotations

import asyncio
import socket

import structlog
import uvicorn
from starlette.types import ASGIApp

from common.listening import QuietServer, listen
from gateway.settings import Http

_log = structlog.get_logger(__name__)

_STOP_SECONDS = 10


class Server(QuietServer):
    """Serves from `serve_forever` to `close`, which ends it in good order."""

    def __init__(self, app: ASGIApp, http: Http) -> None:
        super().__init__(
            uvicorn.Config(
                app,
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
        self._http = http

    async def serve_forever(self) -> None:
        """Serve until `close`. Raises `Unavailable` where the port is taken."""
        await self.serve([listen(self._http.host, self._http.port)])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve, and say so."""
        await super().startup(sockets)
        _log.info("gateway.serving", port=self.servers[0].sockets[0].getsockname()[1])

    async def close(self, serving: asyncio.Task[None]) -> None:
        """Take no more connections, and wait for the requests that are under way."""
        self.should_exit = True
        await asyncio.wait({serving}, timeout=_STOP_SECONDS + 2)
