from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from agent_worker.batching import Batched
from common.errors import PoisonError, StoreContended, StoreUnavailable


class Database:
    """Doubles numbers, one statement at a time; may be told to wait, or to fail for some."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.bad: dict[int, Exception] = {}

    async def perform(self, calls: Sequence[int]) -> list[int]:
        self.batches.append(list(calls))
        await self.open.wait()
        for call in calls:
            if call in self.bad:
                raise self.bad[call]
        return [2 * call for call in calls]


@pytest.fixture
def database() -> Database:
    return Database()


def batched(database: Database, size: int = 10) -> Batched[int, int]:
    return Batched(database.perform, size=size, order=int)


async def test_a_call_that_is_alone_goes_at_once(database: Database) -> None:
    assert await batched(database).call(21) == 42
    assert database.batches == [[21]]


async def test_what_is_asked_while_a_batch_is_under_way_goes_together_sorted_and_bounded(database: Database) -> None:
    calls = batched(database, size=3)
    database.open.clear()
    first = asyncio.create_task(calls.call(9))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    rest = [asyncio.create_task(calls.call(n)) for n in (5, 1, 4, 2, 3)]
    await asyncio.sleep(0)
    database.open.set()
    assert await asyncio.gather(first, *rest) == [18, 10, 2, 8, 4, 6]
    assert database.batches == [[9], [1, 4, 5], [2, 3]]


@pytest.mark.parametrize("error", [PoisonError("cannot be stored"), StoreContended("a lock"), RuntimeError("a bug")])
async def test_one_bad_call_does_not_fail_the_others(database: Database, error: Exception) -> None:
    database.bad = {2: error}
    answers = await asyncio.gather(*map(batched(database).call, (1, 2, 3)), return_exceptions=True)
    assert answers == [2, error, 6]


async def test_a_database_that_is_away_is_asked_once_for_the_whole_batch(database: Database) -> None:
    error = StoreUnavailable("away")
    database.bad = {2: error}
    assert await asyncio.gather(*map(batched(database).call, (1, 2, 3)), return_exceptions=True) == [error] * 3
    assert database.batches == [[1, 2, 3]]


async def test_a_caller_that_goes_away_takes_nothing_from_the_others(database: Database) -> None:
    calls = batched(database)
    database.open.clear()
    going, staying = asyncio.create_task(calls.call(1)), asyncio.create_task(calls.call(2))
    await asyncio.sleep(0)
    going.cancel()
    database.open.set()
    assert await staying == 4
    with pytest.raises(asyncio.CancelledError):
        await going
    assert await calls.call(3) == 6
