"""Who asks: API keys and users' tiers, cached in the process, and forgotten when the `control` exchange says so."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar
from uuid import UUID

from common.contracts import Contract, PrincipalsChanged
from common.errors import StoreUnavailable
from gateway import problems
from gateway.identities import Identities, KeyRow
from gateway.keys import ApiKey

_KNOWN_SECONDS = 60.0
_UNKNOWN_SECONDS = 5.0
_STALE_SECONDS = 5.0
_CACHED = 10_000
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="laneway"'}

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Principal:
    """A tenant that has proved itself, with what its plan allows."""

    tenant_id: UUID
    tier: str
    requests_per_minute: int
    max_outstanding: int


@dataclass(slots=True)
class _Entry(Generic[Value]):
    value: Value | None
    expires: float


class Remembering(Generic[Key, Value]):
    """A bounded cache before a look-up in the database.

    One look-up for a key at a time. What was found once is still believed while the database is away: nothing can
    have been revoked in it then.
    """

    def __init__(self, find: Callable[[Key], Awaitable[Value | None]]) -> None:
        self._find = find
        self._entries: OrderedDict[Key, _Entry[Value]] = OrderedDict()
        self._looking: dict[Key, asyncio.Task[Value | None]] = {}
        self._generation = 0

    def fresh(self, key: Key) -> _Entry[Value] | None:
        """The entry, where it need not be looked up again."""
        entry = self._entries.get(key)
        return entry if entry is not None and entry.expires > asyncio.get_running_loop().time() else None

    async def get(self, key: Key) -> Value | None:
        """The value, or None where there is none. Raises `StoreUnavailable`."""
        entry = self.fresh(key)
        if entry is not None:
            return entry.value
        looking = self._looking.get(key)
        if looking is None:
            looking = self._looking[key] = asyncio.create_task(self._look_up(key), name="principals.look_up")
            looking.add_done_callback(lambda _: self._looking.pop(key, None))
        return await asyncio.shield(looking)

    def forget(self, drop: Callable[[Key, Value | None], bool]) -> None:
        """Drop entries, and whatever a look-up that is under way may still find."""
        self._generation += 1
        for key in [key for key, entry in self._entries.items() if drop(key, entry.value)]:
            del self._entries[key]

    async def _look_up(self, key: Key) -> Value | None:
        generation = self._generation
        now = asyncio.get_running_loop().time()
        try:
            value = await self._find(key)
        except StoreUnavailable:
            stale = self._entries.get(key)
            if stale is None or stale.value is None:
                raise
            stale.expires = now + _STALE_SECONDS
            return stale.value
        if generation == self._generation:
            self._remember(key, value, now + (_UNKNOWN_SECONDS if value is None else _KNOWN_SECONDS))
        return value

    def _remember(self, key: Key, value: Value | None, expires: float) -> None:
        self._entries[key] = _Entry(value, expires)
        self._entries.move_to_end(key)
        while len(self._entries) > _CACHED:
            self._entries.popitem(last=False)


class Principals:
    """Authenticates requests."""

    def __init__(self, identities: Identities) -> None:
        self._keys: Remembering[str, KeyRow] = Remembering(identities.key)
        self._users: Remembering[tuple[UUID, str], str] = Remembering(lambda key: identities.user_tier(*key))

    async def authenticate(self, authorization: str | None) -> Principal:
        """The principal of an `Authorization` header. Raises `Problem` (401) or `StoreUnavailable`."""
        key = _bearer(authorization)
        row = await self._keys.get(key.key_id)
        if row is None or row.revoked or not key.matches(row.secret_hash):
            raise problems.UNAUTHENTICATED.problem("The API key is not valid.", headers=_CHALLENGE)
        return Principal(row.tenant_id, row.tier, row.requests_per_minute, row.max_outstanding)

    async def tier(self, principal: Principal, user_id: str | None) -> str:
        """The tier of a tenant's user: its own, else the plan's. Raises `StoreUnavailable`."""
        if user_id is None:
            return principal.tier
        return await self._users.get((principal.tenant_id, user_id)) or principal.tier

    def hear(self, contract: Contract) -> None:
        """Forget a tenant of which something changed, and all keys that were unknown: one may be new."""
        if isinstance(contract, PrincipalsChanged):
            tenant = contract.tenant_id
            self._keys.forget(lambda _, row: row is None or row.tenant_id == tenant)
            self._users.forget(lambda key, _: key[0] == tenant)


def _bearer(authorization: str | None) -> ApiKey:
    if authorization is None:
        raise problems.UNAUTHENTICATED.problem("Send `Authorization: Bearer <API key>`.", headers=_CHALLENGE)
    scheme, _, token = authorization.partition(" ")
    key = ApiKey.parse(token.strip()) if scheme.lower() == "bearer" else None
    if key is None:
        raise problems.UNAUTHENTICATED.problem("The API key is malformed.", headers=_CHALLENGE)
    return key
