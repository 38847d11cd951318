"""The HTTP server around the application."""

import socket

import uvicorn
from starlette.types import ASGIApp


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises OSError when the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=4096)


def url_of(listener: socket.socket) -> str:
    """The address a client on this machine can use."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def create_server(app: ASGIApp) -> uvicorn.Server:
    """A server for one process; run it with a socket of `listen`."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="off",
            # A cut stream is done by leaving the response unfinished, which uvicorn logs as an error.
            log_level="critical",
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            # Longer than clients keep a connection, so that they never meet one that is just closing.
            timeout_keep_alive=120,
            # Stalled streams do not keep the process from stopping.
            timeout_graceful_shutdown=1,
        )
    )
