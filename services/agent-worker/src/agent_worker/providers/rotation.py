"""Several keys of one provider, and their change while calls are made with them.

Each key has a client of its own. A new key takes the next call; one that was taken away ends the calls that it has, and
then its connections are closed. One that the provider refuses rests for a minute, and its call is made with another.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count
from time import monotonic

import structlog

from agent_worker.providers.base import CallMeter, ModelRequest, Piece, Provider, ProviderError
from agent_worker.providers.warming import Warmable

_log = structlog.get_logger(__name__)
_LOOK_SECONDS = 2.0
_REST_SECONDS = 60.0
# What another key may not meet with.
_OF_A_KEY = frozenset({"provider_refused_credentials", "provider_quota_exhausted"})


@dataclass(slots=True, eq=False)
class _Keyed:
    """A client, and what its key is at."""

    name: str
    provider: Provider
    calls: int = 0
    turn: int = 0
    rests_until: float = 0.0

    @property
    def order(self) -> tuple[bool, float, int, int]:
        """The first is asked next: one that does not rest, with the fewest calls, for the longest not asked."""
        resting = monotonic() < self.rests_until
        return resting, self.rests_until if resting else 0.0, self.calls, self.turn


class Rotating:
    """A provider with several keys."""

    def __init__(self, connect: Callable[[str], Provider], keys: Sequence[str]) -> None:
        """`connect` makes a client for a key; there is at least one."""
        self._connect = connect
        self._turns = count(1)
        self._current: dict[str, _Keyed] = {}
        self._leaving: list[_Keyed] = []
        self.use(keys)
        self.name = next(iter(self._current.values())).provider.name

    def use(self, keys: Sequence[str]) -> bool:
        """Make calls with these keys from now on; whether they are others than before."""
        before = self._current
        self._current = {key: before.get(key) or _Keyed(_named(key), self._connect(key)) for key in keys}
        self._leaving += [keyed for key, keyed in before.items() if key not in self._current]
        return set(before) != set(self._current)

    async def close_drained(self) -> None:
        """Close what is used no more, and has no calls."""
        drained = [keyed for keyed in self._leaving if not keyed.calls]
        self._leaving = [keyed for keyed in self._leaving if keyed.calls]
        for keyed in drained:
            await keyed.provider.close()
            _log.info("provider.key_drained", provider=self.name, key=keyed.name)

    async def stream(self, request: ModelRequest, meter: CallMeter) -> AsyncGenerator[Piece, None]:
        """See `Provider.stream`."""
        tried: set[str] = set()
        while True:
            keyed = self._next(tried)
            tried.add(keyed.name)
            keyed.calls += 1
            keyed.turn = next(self._turns)
            try:
                async with aclosing(keyed.provider.stream(request, meter)) as pieces:
                    async for piece in pieces:
                        yield piece
            except ProviderError as error:
                # Refused before it began: nothing was said, and nothing is billed.
                if error.reason not in _OF_A_KEY or meter.accepted:
                    raise
                keyed.rests_until = monotonic() + _REST_SECONDS
                _log.error("provider.key_refused", provider=self.name, key=keyed.name, reason=error.reason)
                if not self._others(tried):
                    raise
            else:
                return
            finally:
                keyed.calls -= 1

    async def warm_up(self) -> None:
        """See `Warmable.warm_up`."""
        for keyed in list(self._current.values()):
            if isinstance(keyed.provider, Warmable):
                await keyed.provider.warm_up()

    async def close(self) -> None:
        """See `Provider.close`."""
        for keyed in (*self._current.values(), *self._leaving):
            await keyed.provider.close()

    def _next(self, tried: Collection[str]) -> _Keyed:
        return min(self._others(tried), key=lambda keyed: keyed.order)

    def _others(self, tried: Collection[str]) -> list[_Keyed]:
        return [keyed for keyed in self._current.values() if keyed.name not in tried]


class KeyKeeper:
    """Keeps the providers to the keys that their files have. `run` is its background task."""

    def __init__(
        self,
        read: Callable[[], Mapping[str, Sequence[str]]],
        rotating: Mapping[str, Sequence[Rotating]],
        on_change: Callable[[str], None],
    ) -> None:
        """`read` tells the keys by provider, and raises `ValueError` where they are not usable; `on_change` is told of
        a provider that has others than before."""
        self._read = read
        self._rotating = rotating
        self._on_change = on_change
        self._known: Mapping[str, Sequence[str]] = {}

    async def run(self) -> None:
        """Look, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_SECONDS)

    async def look(self) -> None:
        """Take what is new, and close what is drained. Files that are gone, or wrong, change nothing."""
        try:
            found = await asyncio.to_thread(self._read)
        except (ValueError, OSError) as error:
            _log.warning("provider.keys_unreadable", error=str(error))
            found = {}
        for provider, clients in self._rotating.items():
            keys = found.get(provider)
            if keys and keys != self._known.get(provider):
                _log.info("provider.keys", provider=provider, keys=[_named(key) for key in keys])
                changed = [client.use(keys) for client in clients]
                if any(changed):
                    self._on_change(provider)
                self._known = {**self._known, provider: keys}
            for client in clients:
                await client.close_drained()


def _named(key: str) -> str:
    """For the log: whoever has the key can tell that it is this one, and nobody else anything."""
    return hashlib.sha256(key.encode()).hexdigest()[:8]
