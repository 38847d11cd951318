from __future__ import annotations

import asyncio

import pytest

from agent_worker.cutting import undisturbed


async def turns(count: int, done: list[str], word: str) -> str:
    for _ in range(count):
        await asyncio.sleep(0)
    done.append(word)
    return word


async def test_the_result_comes_back() -> None:
    assert await undisturbed(turns(3, [], "x")) == "x"


async def test_a_failure_comes_back() -> None:
    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await undisturbed(fail())


@pytest.mark.parametrize("after", range(1, 7))
async def test_one_cancellation_waits_for_the_end(after: int) -> None:
    done: list[str] = []
    task = asyncio.create_task(undisturbed(turns(3, done, "x")))
    for _ in range(after):
        await asyncio.sleep(0)
    was_running = task.cancel()
    await asyncio.wait({task})
    assert done == ["x"]
    assert task.cancelled() is was_running


async def test_a_second_cancellation_gives_up() -> None:
    never = asyncio.Event()
    task = asyncio.create_task(undisturbed(never.wait()))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    await asyncio.wait({task}, timeout=1)
    assert task.cancelled()
