"""Who goes first among the calls that wait in one process, and that nobody is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from agent_worker.limiter import waiting
from agent_worker.limiter.waiting import Queue


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LONGEST_LOOK", 0.001)


class Gate:
    """Lets nobody through before it is opened, and then so many."""

    def __init__(self) -> None:
        self.room = 0
        self.asked: list[str] = []
        self.passed: list[str] = []

    def attempt(self, name: str) -> Callable[[], Awaitable[float]]:
        async def ask() -> float:
            self.asked.append(name)
            await asyncio.sleep(0)
            if self.room <= 0:
                return 1.0
            self.room -= 1
            self.passed.append(name)
            return 0.0

        return ask


async def turns_until(condition: Callable[[], bool]) -> None:
    """Give way to the others until it is so."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what changes is counted in turns of the loop
            await asyncio.sleep(0)


async def queued(queue: Queue, gate: Gate, *names: str) -> list[asyncio.Task[None]]:
    """Calls in that order; the digit of a name is its rank."""
    tasks = []
    for name in names:
        tasks.append(asyncio.create_task(queue.through(int(name[-1]), gate.attempt(name))))
        await turns_until(lambda: len(queue) == len(tasks))
    return tasks


async def test_the_best_tier_goes_first_and_a_tier_in_its_order() -> None:
    queue, gate = Queue(), Gate()
    tasks = await queued(queue, gate, "a2", "b1", "c2", "d0", "e1", "f0")
    gate.room = 6
    await asyncio.gather(*tasks)
    assert gate.passed == ["d0", "f0", "b1", "e1", "a2", "c2"]
    assert len(queue) == 0


async def test_a_newcomer_of_a_better_tier_asks_at_once_and_one_of_the_same_waits_behind() -> None:
    queue, gate = Queue(), Gate()
    tasks = await queued(queue, gate, "a1", "b1", "c0")
    assert "b1" not in gate.asked
    assert "c0" in gate.asked
    gate.room = 3
    await asyncio.gather(*tasks)


async def test_only_the_first_asks() -> None:
    queue, gate = Queue(), Gate()
    tasks = await queued(queue, gate, "a1", *(f"{number}-1" for number in range(50)))
    await turns_until(lambda: gate.asked.count("a1") >= 5)
    assert set(gate.asked) == {"a1"}
    gate.room = 51
    await asyncio.gather(*tasks)


async def test_what_is_given_back_is_asked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LONGEST_LOOK", 3600.0)
    queue, gate = Queue(), Gate()
    (task,) = await queued(queue, gate, "a1")
    gate.room = 1
    queue.wake()
    async with asyncio.timeout(5):
        await task


@pytest.mark.parametrize("victim", range(4))
async def test_whoever_is_cancelled_the_others_go_on(victim: int) -> None:
    queue, gate = Queue(), Gate()
    tasks = await queued(queue, gate, "a1", "b0", "c1", "d2")
    tasks[victim].cancel()
    await asyncio.wait({tasks[victim]})
    gate.room = 3
    async with asyncio.timeout(5):
        await asyncio.gather(*(task for task in tasks if task is not tasks[victim]))
    assert len(queue) == 0
    assert tasks[victim].cancelled()


async def test_wherever_calls_are_cancelled_nobody_is_left_behind() -> None:
    for turns in range(60):
        queue, gate = Queue(), Gate()
        tasks = [
            asyncio.create_task(queue.through(rank, gate.attempt(f"{number}{rank}")))
            for number, rank in enumerate((2, 1, 0, 1, 2))
        ]
        for _ in range(turns):
            await asyncio.sleep(0)
        tasks[turns % 5].cancel()
        gate.room = 5
        async with asyncio.timeout(5):
            await asyncio.wait(tasks)
        assert len(queue) == 0
        assert len(gate.passed) >= 4
