"""Keys that are changed, refused and many, with clients that say which key they have."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from uuid import uuid4

import pytest

from agent_worker.providers.base import CallMeter, ModelRequest, PermanentError, Piece, TextDelta, TransientError
from agent_worker.providers.rotation import KeyKeeper, Rotating
from agent_worker.settings import ProviderAccess

REQUEST = ModelRequest("m", "", (), (), 10, None, uuid4())
REFUSED = PermanentError("provider_refused_credentials", "no", refused=True, fault="provider")
BUSY = TransientError("rate_limited", "slowly", refused=True, fault="limit")


class Client:
    """Says its key; waits in the middle where it is told to."""

    name = "anthropic"

    def __init__(self, key: str, house: House) -> None:
        self.key = key
        self.closed = False
        self._house = house

    async def stream(self, request: ModelRequest, meter: CallMeter) -> AsyncGenerator[Piece, None]:
        """See `Provider.stream`."""
        assert not self.closed
        self._house.calls.append(self.key)
        if (error := self._house.errors.get(self.key)) is not None:
            raise error
        meter.accepted = True
        yield TextDelta(self.key)
        await self._house.go.wait()
        assert not self.closed

    async def close(self) -> None:
        """See `Provider.close`."""
        self.closed = True


class House:
    """All clients that were made."""

    def __init__(self) -> None:
        self.clients: list[Client] = []
        self.calls: list[str] = []
        self.errors: dict[str, Exception] = {}
        self.go = asyncio.Event()
        self.go.set()

    def connect(self, key: str) -> Client:
        self.clients.append(Client(key, self))
        return self.clients[-1]

    def closed(self) -> set[str]:
        return {client.key for client in self.clients if client.closed}


async def asked(rotating: Rotating) -> str:
    async with aclosing(rotating.stream(REQUEST, CallMeter())) as pieces:
        return "".join([piece.text async for piece in pieces if isinstance(piece, TextDelta)])


async def test_all_keys_are_used_alike() -> None:
    house = House()
    rotating = Rotating(house.connect, ("a", "b", "c"))
    for _ in range(9):
        await asked(rotating)
    assert Counter(house.calls) == {"a": 3, "b": 3, "c": 3}
    assert len(house.clients) == 3  # never one for each call


async def test_a_new_key_takes_the_next_call_and_the_old_one_drains() -> None:
    house = House()
    rotating = Rotating(house.connect, ("old",))
    house.go.clear()
    async with aclosing(rotating.stream(REQUEST, CallMeter())) as running:
        assert await anext(running) == TextDelta("old")
        rotating.use(("new",))
        await rotating.close_drained()
        assert house.closed() == set()
        house.go.set()
        assert await asked(rotating) == "new"
        assert [piece async for piece in running] == []  # to its end, with the key that it began with
    await rotating.close_drained()
    assert house.closed() == {"old"}
    await rotating.close()
    assert house.closed() == {"old", "new"}


async def test_a_key_that_stays_keeps_its_client() -> None:
    house = House()
    rotating = Rotating(house.connect, ("a", "b"))
    rotating.use(("b", "c"))
    await rotating.close_drained()
    assert [client.key for client in house.clients] == ["a", "b", "c"]
    assert house.closed() == {"a"}


@pytest.mark.parametrize("reason", ["provider_refused_credentials", "provider_quota_exhausted"])
async def test_a_key_that_is_refused_is_stood_in_for_at_once_and_left_alone(reason: str) -> None:
    house = House()
    house.errors["bad"] = PermanentError(reason, "no", refused=True, fault="provider")
    rotating = Rotating(house.connect, ("bad", "good"))
    assert [await asked(rotating) for _ in range(3)] == ["good"] * 3
    assert house.calls.count("bad") == 1


async def test_where_all_are_refused_the_last_error_is_the_calls_and_they_are_tried_again() -> None:
    house = House()
    house.errors = {"a": REFUSED, "b": REFUSED}
    rotating = Rotating(house.connect, ("a", "b"))
    for _ in range(2):
        with pytest.raises(PermanentError):
            await asked(rotating)
    assert Counter(house.calls) == {"a": 2, "b": 2}
    house.errors.clear()
    assert await asked(rotating) in ("a", "b")


async def test_any_other_error_is_no_keys_fault() -> None:
    house = House()
    house.errors["a"] = BUSY
    rotating = Rotating(house.connect, ("a", "b"))
    with pytest.raises(TransientError):
        await asked(rotating)
    assert house.calls == ["a"]


async def test_the_keeper_takes_what_is_new_and_keeps_what_it_has_where_there_is_nothing() -> None:
    house, found = House(), dict[str, Sequence[str]]()
    rotating = Rotating(house.connect, ("first",))

    def read() -> Mapping[str, Sequence[str]]:
        if "broken" in found:
            raise ValueError("no key")
        return found

    said, changed = [], list[str]()
    keeper = KeyKeeper(read, {"anthropic": (rotating,)}, changed.append)
    for keys in ({}, {"anthropic": ("second",)}, {"anthropic": ("second",)}, {"broken": ()}, {"openai": ("x",)}):
        found.clear()
        found.update(keys)
        await keeper.look()
        said.append(await asked(rotating))
    assert said == ["first", "second", "second", "second", "second"]
    assert (house.closed(), changed) == ({"first"}, ["anthropic"])


async def test_keys_that_are_what_it_was_started_with_are_no_change() -> None:
    house, changed = House(), list[str]()
    keeper = KeyKeeper(
        lambda: {"anthropic": ("b", "a")}, {"anthropic": (Rotating(house.connect, ("a", "b")),)}, changed.append
    )
    await keeper.look()
    assert (changed, house.closed()) == ([], set())


def test_several_keys_in_one_setting() -> None:
    assert ProviderAccess.model_validate({"api_key": "a,b,,a"}).keys == ("a", "b")
    with pytest.raises(ValueError, match="no key between the commas"):
        ProviderAccess.model_validate({"api_key": ",,"})
