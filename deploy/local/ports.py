"""Free TCP ports that stay ours for as long as the instance lives."""

import socket
from typing import Self

HOST = "127.0.0.1"


class Ports:
    """Ports by name, each held by a bound socket that never listens.

    A server can still bind and listen beside it (both set SO_REUSEADDR), but the kernel gives the port to nobody else:
    not between its choice and its use, and not while a crashed service waits for its restart.
    """

    def __init__(self) -> None:
        self._held: dict[str, socket.socket] = {}

    def __getitem__(self, name: str) -> int:
        """The port of this name, chosen at its first use."""
        if name not in self._held:
            held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind((HOST, 0))
            self._held[name] = held
        port: int = self._held[name].getsockname()[1]
        return port

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give all ports back."""
        for held in self._held.values():
            held.close()
        self._held.clear()
