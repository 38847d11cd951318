"""Who asks: API keys and users' tiers, cached in the process, and forgotten when the `control` exchange says so."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar
from uuid import UUID

from starlette.requests import Request

from common.contracts import Contract, PrincipalsChanged
from common.errors import StoreUnavailable
from gateway import problems
from gateway.identities import Identities, KeyRow
from gateway.keys import ApiKey

_KNOWN_SECONDS = 60.0
_UNKNOWN_SECONDS = 5.0
_STALE_SECONDS = 5.0
# Longer than a failover takes; a key that is revoked while a gateway can reach neither server ends with this.
_BELIEVED_SECONDS = 600.0
_CACHED = 10_000
_UNKNOWN = 1_000
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="laneway"'}

Key = TypeVar("Key")
Value = TypeVar("Value")
Kept = TypeVar("Kept")


@dataclass(frozen=True, slots=True)
class Principal:
    """A tenant that has proved itself, with what its plan allows."""

    tenant_id: UUID
    tier: str
    requests_per_minute: int
    max_outstanding: int
    allowed_models: tuple[str, ...] | None = None
    """None: all of the catalogue; and so with the agents."""
    allowed_agents: tuple[str, ...] | None = None


@dataclass(slots=True)
class _Entry(Generic[Value]):
    value: Value
    confirmed: float
    expires: float


class Remembering(Generic[Key, Value]):
    """A bounded cache before a look-up in the database.

    One look-up for a key at a time. What was found is believed for a while longer where the database cannot be reached:
    only this process may have lost it, and what changes there meanwhile is heard of by `control` alone. What was not
    found is remembered apart, so that nobody pushes out what is in use by asking for what does not exist.
    """

    def __init__(self, find: Callable[[Key], Awaitable[Value | None]]) -> None:
        self._find = find
        self._entries: OrderedDict[Key, _Entry[Value]] = OrderedDict()
        self._unknown: OrderedDict[Key, float] = OrderedDict()
        self._looking: dict[Key, asyncio.Task[Value | None]] = {}
        self._generation = 0

    async def get(self, key: Key) -> Value | None:
        """The value, or None where there is none. Raises `StoreUnavailable`."""
        now = asyncio.get_running_loop().time()
        entry = self._entries.get(key)
        if entry is not None and entry.expires > now:
            self._entries.move_to_end(key)
            return entry.value
        if self._unknown.get(key, now) > now:
            return None
        looking = self._looking.get(key)
        if looking is None:
            looking = self._looking[key] = asyncio.create_task(self._look_up(key), name="principals.look_up")
            looking.add_done_callback(lambda _: self._looking.pop(key, None))
        return await asyncio.shield(looking)

    def forget(self, drop: Callable[[Key, Value], bool]) -> None:
        """Drop entries, all that was not found, and whatever a look-up that is under way may still find."""
        self._generation += 1
        self._unknown.clear()
        for key in [key for key, entry in self._entries.items() if drop(key, entry.value)]:
            del self._entries[key]

    async def _look_up(self, key: Key) -> Value | None:
        generation = self._generation
        now = asyncio.get_running_loop().time()
        try:
            value = await self._find(key)
        except StoreUnavailable:
            stale = self._entries.get(key)
            if stale is None or now - stale.confirmed > _BELIEVED_SECONDS:
                raise
            stale.expires = now + _STALE_SECONDS
            return stale.value
        if generation == self._generation:
            self._remember(key, value, now)
        return value

    def _remember(self, key: Key, value: Value | None, now: float) -> None:
        if value is None:
            self._entries.pop(key, None)
            _put(self._unknown, key, now + _UNKNOWN_SECONDS, most=_UNKNOWN)
        else:
            _put(self._entries, key, _Entry(value, now, now + _KNOWN_SECONDS), most=_CACHED)


def _put(cache: OrderedDict[Key, Kept], key: Key, kept: Kept, *, most: int) -> None:
    cache[key] = kept
    cache.move_to_end(key)
    while len(cache) > most:
        cache.popitem(last=False)


class Principals:
    """Authenticates requests."""

    def __init__(self, identities: Identities) -> None:
        self._keys: Remembering[str, KeyRow] = Remembering(identities.key)
        self._users: Remembering[tuple[UUID, str], str] = Remembering(partial(_own_tier, identities))

    async def authenticate(self, authorization: str | None) -> Principal:
        """The principal of an `Authorization` header. Raises `Problem` (401) or `StoreUnavailable`."""
        key = _bearer(authorization)
        row = await self._keys.get(key.key_id)
        if row is None or row.revoked or not key.matches(row.secret_hash):
            raise problems.UNAUTHENTICATED.problem("The API key is not valid.", headers=_CHALLENGE)
        limits = (row.requests_per_minute, row.max_outstanding, row.allowed_models, row.allowed_agents)
        return Principal(row.tenant_id, row.tier, *limits)

    async def tier(self, principal: Principal, user_id: str | None) -> str:
        """The tier of a tenant's user: its own, else the plan's. Raises `StoreUnavailable`."""
        if user_id is None:
            return principal.tier
        return await self._users.get((principal.tenant_id, user_id)) or principal.tier

    def hear(self, contract: Contract) -> None:
        """Forget a tenant of which something changed, and all keys that were unknown: one may be new."""
        if isinstance(contract, PrincipalsChanged):
            tenant = contract.tenant_id
            self._keys.forget(lambda _, row: row.tenant_id == tenant)
            self._users.forget(lambda key, _: key[0] == tenant)


async def _own_tier(identities: Identities, user: tuple[UUID, str]) -> str:
    """Empty for a user without one, as most are: that is worth knowing as long as any other answer."""
    return await identities.user_tier(*user) or ""


def key_name(request: Request) -> str:
    """The public part of the key that a request was authenticated with, for what is kept of who did something."""
    return f"key:{request.headers['authorization'].split('_')[1]}"


def _bearer(authorization: str | None) -> ApiKey:
    if authorization is None:
        raise problems.UNAUTHENTICATED.problem("Send `Authorization: Bearer <API key>`.", headers=_CHALLENGE)
    scheme, _, token = authorization.partition(" ")
    key = ApiKey.parse(token.strip()) if scheme.lower() == "bearer" else None
    if key is None:
        raise problems.UNAUTHENTICATED.problem("The API key is malformed.", headers=_CHALLENGE)
    return key
