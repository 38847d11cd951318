"""How long a call may take, with a provider that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from uuid import uuid4

import pytest

from agent_worker.providers.base import CallMeter, ModelRequest, Piece, TextDelta, TransientError
from agent_worker.resilience.deadlines import Deadlines, Timed

REQUEST = ModelRequest("m", "", (), (), 10, None, uuid4())
SOON, NEVER = 0.05, 3600.0


class Hesitant:
    """Says so many pieces at once, counts some bytes that are no piece yet, and then nothing until it is cut."""

    name = "hesitant"

    def __init__(self, pieces: int = 0, received: int = 0, *, ends: bool = False) -> None:
        self._pieces = pieces
        self._received = received
        self._ends = ends
        self.cut = False

    async def stream(self, request: ModelRequest, meter: CallMeter) -> AsyncGenerator[Piece, None]:
        """See `Provider.stream`."""
        meter.received_bytes += self._received
        for _ in range(self._pieces):
            meter.received_bytes += 1
            yield TextDelta("x")
        try:
            await asyncio.sleep(0 if self._ends else NEVER)
        except asyncio.CancelledError:
            self.cut = True
            raise

    async def close(self) -> None:
        """See `Provider.close`."""


async def heard(provider: Hesitant, deadlines: Deadlines, pieces: list[Piece]) -> None:
    async with aclosing(Timed(provider, deadlines).stream(REQUEST, CallMeter())) as stream:
        async for piece in stream:
            pieces.append(piece)


async def test_an_answer_in_time_is_left_alone() -> None:
    pieces: list[Piece] = []
    await heard(Hesitant(3, ends=True), Deadlines(NEVER, NEVER), pieces)
    assert len(pieces) == 3


@pytest.mark.parametrize("deadlines", [Deadlines(SOON, NEVER), Deadlines(NEVER, SOON)])
async def test_a_model_that_does_not_begin(deadlines: Deadlines) -> None:
    provider = Hesitant()
    with pytest.raises(TransientError) as caught:
        await heard(provider, deadlines, [])
    assert (caught.value.reason, caught.value.fault, caught.value.refused) == ("provider_timeout", "provider", False)
    assert provider.cut
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


@pytest.mark.parametrize("provider", [Hesitant(2), Hesitant(0, received=100)], ids=["text", "half a tool call"])
async def test_a_model_that_has_begun_has_the_whole_time(provider: Hesitant) -> None:
    with pytest.raises(TransientError, match="did not end its answer in time"):
        await heard(provider, Deadlines(SOON, 4 * SOON), [])
    assert provider.cut


async def test_who_reads_slowly_is_not_cut_in_what_it_does_and_hears_of_it_after() -> None:
    done = False
    async with aclosing(Timed(Hesitant(2), Deadlines(SOON, SOON)).stream(REQUEST, CallMeter())) as stream:
        await anext(stream)
        await asyncio.sleep(2 * SOON)
        done = True
        with pytest.raises(TransientError):
            await anext(stream)
    assert done


async def test_a_run_that_is_cut_is_cut_though_the_time_is_up_too() -> None:
    task = asyncio.create_task(heard(Hesitant(), Deadlines(NEVER, NEVER), []))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
