"""The port that a process serves HTTP on: taken before anything is served, so that a refusal is told in a sentence."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from common.errors import Unavailable


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises `Unavailable` where the port is another's, or the host is none of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        why = (error.strerror or str(error)).partition(" (")[0]
        raise Unavailable(f"{host} port {port} cannot be listened on: {why}") from error
    # Every connection inherits it. An event loop does so itself only for sockets that it has made.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class QuietServer(uvicorn.Server):
    """uvicorn without its signal handlers: the service's own lifecycle hears the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield
