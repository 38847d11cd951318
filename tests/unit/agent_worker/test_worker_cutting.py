from __future__ import annotations

import asyncio

import pytest

from agent_worker.cutting import side_by_side, undisturbed


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


async def test_what_is_done_side_by_side_comes_back_in_its_order() -> None:
    done: list[str] = []
    assert await side_by_side(turns(count, done, word) for count, word in ((3, "x"), (1, "y"))) == ["x", "y"]
    assert done == ["y", "x"]
    assert await side_by_side(turns(0, done, "") for _ in ()) == []


@pytest.mark.parametrize("first", [True, False])
async def test_a_failure_cuts_what_is_done_beside_it_and_is_raised_when_that_has_ended(first: bool) -> None:
    done: list[str] = []

    async def fail() -> str:
        await asyncio.sleep(0)
        raise ValueError("no")

    async def ending() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            await turns(3, done, "ended")
        return ""

    with pytest.raises(ValueError, match="no"):
        await side_by_side([fail(), ending()] if first else [ending(), fail()])
    assert done == ["ended"]


async def test_a_cancellation_cuts_all_that_is_done_side_by_side_and_waits_for_what_is_undisturbed() -> None:
    done: list[str] = []
    both = [undisturbed(turns(9, done, "kept")), turns(9, done, "cut")]
    task = asyncio.create_task(side_by_side(both))
    await turns(2, [], "")
    task.cancel()
    await asyncio.wait({task})
    assert (task.cancelled(), done) == (True, ["kept"])


async def test_a_second_cancellation_gives_up_all_that_is_done_side_by_side() -> None:
    both = [undisturbed(asyncio.Event().wait()) for _ in range(2)]
    task = asyncio.create_task(side_by_side(both))
    for _ in range(2):
        await turns(4, [], "")
        assert not task.done()
        task.cancel()
    await asyncio.wait({task}, timeout=30)
    assert task.cancelled()
