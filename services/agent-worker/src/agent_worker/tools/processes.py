"""Processes for what computes, so that no tool keeps the worker's loop from its other runs.

Not a `ProcessPoolExecutor`: what does not end in time must be killed, and only its own process with it. A process reads
calls from its standard input and answers on its standard output, each four bytes of length and a JSON document.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import Any, Protocol

import orjson
import structlog

from agent_worker.cutting import undisturbed
from agent_worker.tools.signature import ToolError
from common.errors import ConfigurationError

_log = structlog.get_logger(__name__)
LENGTH_BYTES = 4
_LARGEST_ANSWER = 64 * 1024 * 1024


class Computing(Protocol):
    """Somewhere else to compute."""

    def call(self, function: Callable[..., object], arguments: Mapping[str, Any], seconds: float) -> Awaitable[object]:
        """Its output as a text, in so many seconds of the processor at most. Raises `ToolError`."""


class Processes:
    """So many processes at most, each started when it is first needed. Use as a context."""

    def __init__(self, size: int, environment: Mapping[str, str]) -> None:
        """`environment` is all that they know of this process's."""
        self._slots = asyncio.Semaphore(size)
        self._environment = environment
        self._idle: list[Process] = []

    async def __aenter__(self) -> Processes:
        return self

    async def __aexit__(self, *_: object) -> None:
        idle, self._idle = self._idle, []
        for process in idle:
            await _end(process)

    async def call(self, function: Callable[..., object], arguments: Mapping[str, Any], seconds: float) -> str:
        """See `Computing.call`. Cancelled, it ends the process that computes."""
        question = orjson.dumps({"function": address_of(function), "arguments": dict(arguments), "seconds": seconds})
        async with self._slots:
            process = await self._process()
            try:
                answer = await _ask(process, question)
            except (OSError, EOFError) as error:
                await _end(process)
                _log.warning("tool.process_died", function=address_of(function), code=process.returncode)
                raise ToolError("it took too much memory or time, or crashed") from error
            except BaseException:
                await undisturbed(_end(process))
                raise
            self._idle.append(process)
        if "output" not in answer:
            raise ToolError(str(answer["error"]))
        return str(answer["output"])

    async def _process(self) -> Process:
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "agent_worker.tools.process"),
            stdin=PIPE,
            stdout=PIPE,
            env=dict(self._environment),
            start_new_session=True,  # whoever stops the worker's whole group lets it end its runs first
        )


async def _ask(process: Process, question: bytes) -> dict[str, Any]:
    assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - both are pipes
    process.stdin.write(len(question).to_bytes(LENGTH_BYTES) + question)
    await process.stdin.drain()
    size = int.from_bytes(await process.stdout.readexactly(LENGTH_BYTES))
    if size > _LARGEST_ANSWER:
        raise EOFError
    answer: dict[str, Any] = orjson.loads(await process.stdout.readexactly(size))
    return answer


async def _end(process: Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    if process.returncode is None:
        process.kill()
    await process.wait()


def address_of(function: Callable[..., object]) -> str:
    """Where another process finds it. Raises `ConfigurationError` where it does not."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    if module == "__main__" or not name.isidentifier() or getattr(import_module(module), name, None) is not function:
        raise ConfigurationError(
            f"The tool {name!r} is a plain function, which computes in a process of its own: it must be one of its"
            " module's, by its own name, or be async."
        )
    return f"{module}:{name}"
