"""Free TCP ports that stay ours for as long as the instance lives, and come back with it where they are still free."""

import contextlib
import json
import socket
from pathlib import Path
from typing import Self

HOST = "127.0.0.1"


class Ports:
    """Ports by name, each held by a bound socket that never listens.

    A server can still bind and listen beside it (both set SO_REUSEADDR), but the kernel gives the port to nobody else:
    not between its choice and its use, and not while a crashed service waits for its restart. What was chosen is
    remembered in a file, for the next time that the instance starts.
    """

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        # All of them at once, so that none is chosen for another name meanwhile.
        self._held: dict[str, socket.socket] = {}
        for name, port in _read(memory).items():
            with contextlib.suppress(OSError):  # another has it now
                self._held[name] = _bound(port)

    def __getitem__(self, name: str) -> int:
        """The port of this name, chosen at its first use."""
        if name not in self._held:
            self._held[name] = _bound()
            self._remember()
        return _port(self._held[name])

    def _remember(self) -> None:
        if self._memory:
            self._memory.write_text(json.dumps({name: _port(held) for name, held in self._held.items()}))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give all ports back."""
        for held in self._held.values():
            held.close()
        self._held.clear()


def _read(memory: Path | None) -> dict[str, int]:
    try:
        remembered: dict[str, int] = json.loads(memory.read_text()) if memory else {}
    except (OSError, ValueError):
        return {}
    return remembered


def _bound(port: int = 0) -> socket.socket:
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind((HOST, port))
    except OSError:
        held.close()
        raise
    return held


def _port(held: socket.socket) -> int:
    port: int = held.getsockname()[1]
    return port
