"""Answers that are known already: of calls that left nothing to chance, for as long as the cache's Redis has them.

Of identical requests that are in flight one is made, and the others wait for its answer. Who makes it says so again
each second; where it dies, fails or is cut, the next one makes it. Without Redis every call is made.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import astuple, dataclass
from typing import Protocol
from uuid import UUID

import orjson

from agent_worker.metrics import RESPONSE_CACHE
from agent_worker.providers.base import (
    CallMeter,
    ModelRequest,
    Piece,
    StopReason,
    TextDelta,
    ToolCall,
)
from agent_worker.tools.base import Toolbox
from common.contracts import TaskSubmitted
from common.contracts.usage import Usage
from common.errors import CacheUnavailable
from common.lifecycle import stop
from common.pipelining import Pipelined, Script

LARGEST_BYTES = 64 * 1024
CLAIM_SECONDS = 4.0
_RENEWAL_SECONDS = 1.0
_FIRST_LOOK_SECONDS = 0.05
_LONGEST_LOOK_SECONDS = 0.5
# However alive the other one is: then this one asks, too.
_LONGEST_WAIT_SECONDS = 120.0
# What was cut, or refused, may be said otherwise the next time.
_WHOLE: frozenset[StopReason] = frozenset({"end_turn", "tool_use"})

# KEYS: the answer, the claim. ARGV: who asks, for how many milliseconds. Answers the answer; 1: the claim is ours; 0:
# it is another one's.
_LOOK = Script("""
local known = redis.call('GET', KEYS[1])
if known then return known end
if redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
return 0
""")
# KEYS: the claim. ARGV: whose it is, for how many milliseconds more; none: it is given back.
_HOLD = Script("""
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return redis.call('DEL', KEYS[1])
""")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said to a request, whole."""

    pieces: tuple[Piece, ...]
    stop_reason: StopReason

    def note(self, meter: CallMeter) -> None:
        """Count it as a call that used nothing."""
        meter.usage = Usage(cached_calls=1)
        meter.stop_reason = self.stop_reason
        meter.complete = meter.final = True

    def write(self) -> bytes:
        """As it is kept: the text in one piece, as nobody waits for its tokens any more."""
        said: list[list[object]] = []
        for piece in self.pieces:
            if isinstance(piece, ToolCall):
                said.append(["call", piece.id, piece.name, piece.arguments])
            elif said and said[-1][0] == "text":
                said[-1][1] = f"{said[-1][1]}{piece.text}"
            else:
                said.append(["text", piece.text])
        return orjson.dumps([self.stop_reason, said])

    @classmethod
    def read(cls, written: bytes) -> Answer | None:
        """What `write` wrote; None where this is something else."""
        try:
            reason, said = orjson.loads(written)
            return cls(tuple(TextDelta(rest[0]) if kind == "text" else ToolCall(*rest) for kind, *rest in said), reason)
        except (ValueError, TypeError, IndexError):
            return None


class Place(Protocol):
    """Where the answer to one request is found, or left."""

    taken: bool
    """Whether another run asks the same now."""

    async def answer(self) -> Answer | None:
        """The answer, waited for where another run asks; None: the call is to be made."""

    async def keep(self, pieces: Sequence[Piece], meter: CallMeter) -> None:
        """The call was made, and this was said."""


class ResponseCache(Protocol):
    """The answers that one run may use."""

    def place(self, request: ModelRequest) -> AbstractAsyncContextManager[Place]:
        """The place of this request, for the time in which it is asked."""


class _Nowhere:
    """The place of a request whose answer is not to be known."""

    taken = False

    async def answer(self) -> Answer | None:
        """See `Place.answer`."""
        return None

    async def keep(self, pieces: Sequence[Piece], meter: CallMeter) -> None:
        """See `Place.keep`."""


class _NoCache:
    """No answer is known, and none kept."""

    @asynccontextmanager
    async def place(self, request: ModelRequest) -> AsyncIterator[Place]:  # noqa: ARG002 - every place is the same
        """See `ResponseCache.place`."""
        yield _Nowhere()


NO_CACHE: ResponseCache = _NoCache()


@dataclass(frozen=True)
class Responses:
    """The cache of this process; without a Redis there is none."""

    redis: Pipelined | None = None
    seconds: float = 0.0

    def of(self, task: TaskSubmitted) -> ResponseCache:
        """The answers that a task's run may use: its tenant's."""
        return NO_CACHE if self.redis is None else _Tenants(self.redis, self.seconds, task.tenant_id)


@dataclass(frozen=True)
class _Tenants:
    """One tenant's answers."""

    redis: Pipelined
    seconds: float
    tenant_id: UUID

    @asynccontextmanager
    async def place(self, request: ModelRequest) -> AsyncIterator[Place]:
        """See `ResponseCache.place`."""
        place = _Kept(self.redis, self.seconds, f"answer:{{{self.tenant_id}}}:{fingerprint(request)}")
        await place.look()
        try:
            yield place
        finally:
            await place.leave()


def may_be_repeated(task: TaskSubmitted, temperature: float | None, tools: Toolbox) -> bool:
    """Whether a model's answer may stand for another: nothing was left to chance, and nothing is done by it.

    What belongs to a conversation is deleted with it, so no copy of it is kept.
    """
    return temperature == 0 and not tools.side_effects and not task.no_store and task.conversation_id is None


def fingerprint(request: ModelRequest) -> str:
    """Everything that the answer may depend on, as one word."""
    asked = (
        request.model,
        request.system,
        [(turn.role, turn.content) for turn in request.turns],
        [astuple(tool) for tool in request.tools],
        request.max_output_tokens,
        request.temperature,
        request.use_tools,
        request.closing,
        request.response_schema,
    )
    return hashlib.sha256(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()


class _Kept:
    """See `Place`."""

    def __init__(self, redis: Pipelined, seconds: float, key: str) -> None:
        self._redis = redis
        self._seconds = seconds
        self._key = key
        self._claim = f"{key}:asked"
        self._name = os.urandom(8).hex()
        self._known: Answer | None = None
        self._renewing: asyncio.Task[None] | None = None
        self.taken = False

    async def look(self) -> None:
        """Find the answer, or claim the request, or learn that it is taken."""
        arguments = (self._name, int(CLAIM_SECONDS * 1000))
        try:
            found = await self._redis.run(_LOOK, [self._key, self._claim], arguments)
        except CacheUnavailable:
            RESPONSE_CACHE.labels("away").inc()
            self.taken = False
            return
        self._known = Answer.read(found) if isinstance(found, bytes) else None
        self.taken = found == 0
        if found == 1:
            self._renewing = asyncio.create_task(self._renew(), name="answer.claim")

    async def answer(self) -> Answer | None:
        """See `Place.answer`."""
        pause = _FIRST_LOOK_SECONDS
        with suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_WAIT_SECONDS):
                while self.taken:
                    await asyncio.sleep(pause)
                    pause = min(_LONGEST_LOOK_SECONDS, pause * 1.5)
                    await self.look()
        RESPONSE_CACHE.labels("hit" if self._known is not None else "miss").inc()
        return self._known

    async def keep(self, pieces: Sequence[Piece], meter: CallMeter) -> None:
        """See `Place.keep`."""
        malformed = any(isinstance(piece, ToolCall) and piece.malformed for piece in pieces)
        if meter.stop_reason not in _WHOLE or malformed:
            return
        written = Answer(tuple(pieces), meter.stop_reason).write()
        if len(written) <= LARGEST_BYTES:
            with suppress(CacheUnavailable):
                await self._redis.execute("SET", self._key, written, "PX", int(self._seconds * 1000))

    async def leave(self) -> None:
        """Let the next one ask, where this one was to."""
        if self._renewing is not None:
            await stop(self._renewing)
            with suppress(CacheUnavailable):
                await self._redis.run(_HOLD, [self._claim], (self._name,))

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(_RENEWAL_SECONDS)
            with suppress(CacheUnavailable):
                await self._redis.run(_HOLD, [self._claim], (self._name, int(CLAIM_SECONDS * 1000)))
