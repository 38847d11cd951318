"""Answers that are remembered for a while, as many as there is room for."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(slots=True)
class _Entry(Generic[Value]):
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    until: float = 0.0
    value: Value | None = None


class Remembering(Generic[Key, Value]):
    """One asks for a key at a time, and all who wait get that answer. What was long not wanted is forgotten."""

    def __init__(self, ask: Callable[[Key, Value | None], Awaitable[tuple[float, Value]]], most: int) -> None:
        """`ask` is given what was known before, and says for how many seconds its answer is believed."""
        self._ask = ask
        self._most = most
        self._entries: OrderedDict[Key, _Entry[Value]] = OrderedDict()

    async def get(self, key: Key) -> Value:
        """The answer. Raises what `ask` raises."""
        entry = self._entries.setdefault(key, _Entry())
        self._entries.move_to_end(key)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)
        clock = asyncio.get_running_loop().time
        async with entry.lock:
            if entry.value is None or clock() >= entry.until:
                seconds, entry.value = await self._ask(key, entry.value)
                entry.until = clock() + seconds
            return entry.value
