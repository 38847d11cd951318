"""The life of an instance in one foreground process: lock, start, serve requests, stop."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from deploy.local import control, orphans, processes
from deploy.local.errors import BadRequest
from deploy.local.instance import Instance
from deploy.local.ports import Ports
from deploy.local.spec import Spec
from deploy.local.supervisor import Supervisor

FOLDER_SECONDS = 0.5


class Stack(Protocol):
    """What an instance consists of."""

    def specs(self) -> list[Spec]:
        """The children to start."""

    def one_more(self, service: str, index: int) -> Spec:
        """The spec of process number `index` of a service."""

    def rabbitmqctl(self, arguments: list[str]) -> Spec:
        """One run of the broker's command line tool."""

    def report(self) -> dict[str, str]:
        """What a user needs to know once everything is ready."""


async def run(
    instance: Instance,
    make_stack: Callable[[Ports], Stack],
    on_ready: Callable[[dict[str, str]], None],
    *,
    until_eof: bool = False,
) -> bool:
    """Run the stack until a signal, a request or (if so asked) the end of standard input stops it.

    So does the loss of the instance's folder: nobody could find what runs any more, to stop it.

    Returns whether it was ever ready. Raises `AlreadyUp` or `StartFailed`. Leaves no process in any case.
    """
    orphans.adopt()
    lock = instance.lock()  # never closed: it is given back when this process, the last of the instance, has ended
    instance.prepare()
    with Ports(instance.ports) as ports:
        stack = make_stack(ports)
        supervisor = Supervisor(instance, stack.specs(), inherited=(lock,))
        ended = _until(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if until_eof:
            _watch_stdin(ended)
        watching = asyncio.create_task(_watch_folder(instance, ended), name="folder")
        async with _controlled(instance, Operations(supervisor, stack, ended)):
            try:
                if not await _start(supervisor, ended):
                    return False
                on_ready(stack.report())
                await ended.wait()
            finally:
                watching.cancel()
                await supervisor.stop()
                await orphans.bury()
    return True


class Operations:
    """What can be asked of a running supervisor; `control.Control` is the other end."""

    def __init__(self, supervisor: Supervisor, stack: Stack, ended: asyncio.Event) -> None:
        self._supervisor, self._stack, self._ended = supervisor, stack, ended

    async def __call__(self, request: dict[str, Any]) -> object:
        """Do one request; its answer can be written as JSON."""
        match request:
            case {"op": "ps"}:
                return [processes.row(child) for child in self._supervisor.children.values()]
            case {"op": "start" | "stop" | "restart" as operation, "name": str(name)}:
                await self._cycle(name, operation, request.get("signal"))
            case {"op": "kill", "name": str(name), "signal": str(by)}:
                for child in self._supervisor.named(name):
                    child.kill(_signal(by))
            case {"op": "scale", "name": str(name), "count": int(count)}:
                await self._scale(name, count)
            case {"op": "rabbitmqctl", "arguments": list(arguments)}:
                return await self._supervisor.run_once(self._stack.rabbitmqctl(arguments))
            case {"op": "shut_down"}:
                self._ended.set()
            case _:
                raise BadRequest(f"not a request: {request}")
        return True

    async def _cycle(self, name: str, operation: str, by: str | None) -> None:
        for child in self._supervisor.named(name):
            if operation != "start":
                await child.stop(_signal(by) if by else None)
            if operation != "stop":
                await child.start()

    async def _scale(self, service: str, count: int) -> None:
        running = self._supervisor.named(service)
        if count < 1 or running[0].spec.name == service:
            raise BadRequest(f"{service} cannot be scaled to {count}")
        for index in range(len(running) + 1, count + 1):
            await self._supervisor.add(self._stack.one_more(service, index))
        for child in running[count:]:
            await self._supervisor.remove(child.spec.name)


async def _start(supervisor: Supervisor, ended: asyncio.Event) -> bool:
    """Start all; False when told to end before that was done."""
    starting = asyncio.create_task(supervisor.start())
    ending = asyncio.create_task(ended.wait())
    await asyncio.wait({starting, ending}, return_when=asyncio.FIRST_COMPLETED)
    for task in (starting, ending):
        if not task.done():
            task.cancel()
    await asyncio.wait({starting, ending})
    if starting.cancelled():
        return False
    await starting
    return True


@asynccontextmanager
async def _controlled(instance: Instance, operations: Operations) -> AsyncIterator[None]:
    server = await control.serve(instance.control, operations)
    try:
        yield
    finally:
        server.close()
        instance.control.unlink(missing_ok=True)


def _until(*signals: signal.Signals) -> asyncio.Event:
    ended = asyncio.Event()
    for number in signals:
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    return ended


def _watch_stdin(ended: asyncio.Event) -> None:
    try:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _at_eof, ended)
    except PermissionError:  # a file or /dev/null, which has nothing to wait for
        ended.set()


def _at_eof(ended: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        ended.set()


async def _watch_folder(instance: Instance, ended: asyncio.Event) -> None:
    ours = instance.run.stat()
    while _is_still(instance.run, ours):  # noqa: ASYNC110 - the file system tells no event
        await asyncio.sleep(FOLDER_SECONDS)
    print(f"{instance.run} is gone: stopping", file=sys.stderr, flush=True)
    ended.set()


def _is_still(folder: Path, ours: os.stat_result) -> bool:
    try:
        return os.path.samestat(folder.stat(), ours)
    except OSError:
        return False


def _signal(name: str) -> signal.Signals:
    try:
        return signal.Signals[f"SIG{name.upper().removeprefix('SIG')}"]
    except KeyError:
        raise BadRequest(f"there is no signal {name}") from None
