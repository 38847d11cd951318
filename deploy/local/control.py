"""How others talk to a running supervisor: one JSON line asks, one JSON line answers, over a unix socket.

Requests are `{"op": …}` with the operation's arguments; answers are `{"ok": …}` or `{"error": sentence}`.
`Control` is the client, for the command line and for fault tests.
"""

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deploy.local.errors import LocalError, NotUp
from deploy.local.instance import Instance

Handler = Callable[[dict[str, Any]], Awaitable[object]]
LONGEST_ADDRESS = 100
"""A unix socket's address holds 108 bytes."""


class Control:
    """Talks to the supervisor of one instance. Calls block until the thing is done: use a thread in async code."""

    def __init__(self, instance: Instance, seconds: float = 180) -> None:
        self._instance = instance
        self._seconds = seconds

    def ps(self) -> list[dict[str, Any]]:
        """One row per child: name, kind, pid, state, seconds, restarts, ports, rss_bytes."""
        rows: list[dict[str, Any]] = self._ask(op="ps")
        return rows

    def start(self, name: str) -> None:
        """Start a stopped or crashed child (a job: run it again) and wait until it is ready."""
        self._ask(op="start", name=name)

    def stop(self, name: str, signal: str | None = None) -> None:
        """Stop a child, in order or by this signal ("KILL" for a crash). It stays down until it is started."""
        self._ask(op="stop", name=name, signal=signal)

    def restart(self, name: str) -> None:
        """Stop and start a child, or run a job again."""
        self._ask(op="restart", name=name)

    def kill(self, name: str, signal: str = "KILL") -> None:
        """Send a signal ("KILL", "STOP", "CONT", …) to a child's process group.

        What dies of it is restarted, as after any crash; to keep it down use `stop(name, "KILL")`.
        """
        self._ask(op="kill", name=name, signal=signal)

    def scale(self, service: str, count: int) -> None:
        """Run this many processes of a service."""
        self._ask(op="scale", name=service, count=count)

    def rabbitmqctl(self, *arguments: str) -> str:
        """Run the broker's command line tool against the instance's broker; returns what it wrote."""
        output: str = self._ask(op="rabbitmqctl", arguments=arguments)
        return output

    def shut_down(self) -> None:
        """Ask the supervisor to stop everything and end. Returns at once."""
        self._ask(op="shut_down")

    def _ask(self, **request: object) -> Any:
        with _address(self._instance.control) as address, socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(self._seconds)
            try:
                connection.connect(address)
                connection.sendall(json.dumps(request).encode() + b"\n")
                answer = connection.makefile("rb").readline()
            except OSError as error:
                raise NotUp(f"instance {self._instance.name} does not answer: is it up? ({error.strerror})") from None
        reply = json.loads(answer or b'{"error": "the supervisor ended"}')
        if "error" in reply:
            raise LocalError(reply["error"])
        return reply["ok"]


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """The socket's address; by way of its open folder where the path is longer than an address can be."""
    if len(os.fsencode(path)) <= LONGEST_ADDRESS or not path.parent.exists():
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


async def serve(path: Path, handle: Handler) -> asyncio.Server:
    """Answer requests on the socket until the returned server is closed."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            reply: dict[str, object] = {"ok": await handle(json.loads(await reader.readline()))}
        except (LocalError, ValueError, KeyError) as error:
            reply = {"error": str(error)}
        writer.write(json.dumps(reply).encode() + b"\n")
        try:
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        except OSError:
            return  # the asker did not wait for the answer

    with _address(path) as address:
        return await asyncio.start_unix_server(answer, address)
