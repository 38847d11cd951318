"""Scripts and small commands for Redis, where all that are asked for at the same moment travel together.

Under load one write, one read and one connection serve many requests, and the client's own cost of a call, which is
more than the server's, is shared by them.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, ResponseError

from common.errors import CacheRefused, CacheUnavailable
from common.redis import Client, reporting

_log = structlog.get_logger(__name__)
_BATCH = 200
_WAITING = 10_000
# For a command and all that waits before it, in time-outs of one exchange.
_EXCHANGES = 3
# After a failure no other script waits for the same time-out: one in this many seconds finds out for all.
_PAUSE_SECONDS = 0.5

Argument = str | int | bytes


@dataclass(frozen=True)
class Script:
    """A Lua script, named by its hash as Redis does."""

    text: str

    @cached_property
    def sha(self) -> str:
        """Its name in Redis."""
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


@dataclass(slots=True)
class _Call:
    command: tuple[Argument, ...]
    unknown: tuple[Argument, ...]
    """What to send instead where Redis does not know the script yet."""
    answer: asyncio.Future[Any]


class Pipelined:
    """Runs scripts over a client; the tasks that flush are its own."""

    def __init__(self, client: Client, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        self._connection: AbstractConnection | None = None
        self._waiting: deque[_Call] = deque()
        self._flushing: asyncio.Task[None] | None = None
        self._paused_until = 0.0

    async def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """The script's answer. Raises `CacheUnavailable`; `CacheRefused` where that is the answer."""
        (answer,) = await self.run_each(script, [(keys, arguments)])
        if isinstance(answer, CacheRefused):
            raise answer
        return answer

    async def run_each(
        self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]
    ) -> list[Any | CacheRefused]:
        """The script's answer to each (keys, arguments), in their order. Raises `CacheUnavailable` for all of them."""
        if asyncio.get_running_loop().time() < self._paused_until:
            raise CacheUnavailable("Redis did not answer a moment ago")
        commands = []
        for keys, arguments in calls:
            rest = (len(keys), *keys, *arguments)
            commands.append((("EVALSHA", script.sha, *rest), ("EVAL", script.text, *rest)))
        return await self._ask(commands)

    async def execute(self, *command: Argument) -> Any:
        """The answer to a command that is small, and whose answer is. Raises `CacheUnavailable`."""
        (answer,) = await self._ask([(command, command)])
        if isinstance(answer, CacheRefused):
            raise answer
        return answer

    async def _ask(self, commands: Sequence[tuple[tuple[Argument, ...], tuple[Argument, ...]]]) -> list[Any]:
        loop = asyncio.get_running_loop()
        if len(self._waiting) + len(commands) > _WAITING:
            raise CacheUnavailable("too much waits for Redis")
        calls = [_Call(command, unknown, loop.create_future()) for command, unknown in commands]
        self._waiting.extend(calls)
        if self._flushing is None or self._flushing.done():
            self._flushing = loop.create_task(self._flush(), name="redis.flush")
        try:
            async with asyncio.timeout(_EXCHANGES * self._timeout):
                return [await call.answer for call in calls]
        except TimeoutError as error:
            raise CacheUnavailable(f"Redis did not answer within {_EXCHANGES * self._timeout} s") from error
        finally:
            for call in calls:
                _forget(call.answer)

    async def _flush(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            try:
                await self._send(batch)
            except CacheUnavailable as error:
                self._paused_until = asyncio.get_running_loop().time() + _PAUSE_SECONDS
                self._fail(batch, error)
            except asyncio.CancelledError:
                self._fail(batch, CacheUnavailable("the process is stopping"))
                raise
            except Exception as error:  # noqa: BLE001 - nobody else is there to tell those who wait
                _log.exception("redis.flush_failed")
                self._fail(batch, CacheUnavailable(f"Redis could not be asked: {error!r}"))

    def _fail(self, batch: Sequence[_Call], error: CacheUnavailable) -> None:
        for call in (*batch, *self._waiting):
            if not call.answer.done():
                call.answer.set_exception(error)
        self._waiting.clear()

    async def _send(self, batch: Sequence[_Call]) -> None:
        answers = await self._execute([call.command for call in batch])
        for call, answer in zip(batch, answers, strict=True):
            if isinstance(answer, NoScriptError):
                (answer,) = await self._execute([call.unknown])
            _settle(call, answer)

    async def _execute(self, commands: Sequence[tuple[Argument, ...]]) -> list[Any]:
        with reporting():
            async with asyncio.timeout(self._timeout):
                connection = await self._connected()
                try:
                    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
                    return [await _read(connection) for _ in commands]
                except BaseException:
                    # Answers may still be on their way: nothing else may be read as one of them.
                    await connection.disconnect(nowait=True)
                    raise

    async def _connected(self) -> AbstractConnection:
        """A connection that stays ours: taking one from the pool each time costs more than a script does."""
        if self._connection is None:
            self._connection = await self._client.connection_pool.get_connection()  # type: ignore[no-untyped-call]
        await self._connection.connect()
        return self._connection


async def _read(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response(timeout=math.inf)  # the deadline is around the whole batch
    except ResponseError as error:
        return error


def _forget(answer: asyncio.Future[Any]) -> None:
    """Nobody waits for it any more, nor wants to hear of its error."""
    if not answer.cancel() and not answer.cancelled():
        answer.exception()


def _settle(call: _Call, answer: Any) -> None:
    if call.answer.done():
        return
    if isinstance(answer, ResponseError):
        call.answer.set_result(CacheRefused(f"Redis refused a command: {answer}"))
    else:
        call.answer.set_result(answer)
