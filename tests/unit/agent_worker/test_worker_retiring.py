"""When a worker has served long enough."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_worker.retiring import Term, resident_megabytes, retire_in_time
from common.lifecycle import stop


@pytest.mark.parametrize(
    ("term", "runs", "megabytes", "why"),
    [
        (Term(None, None), 10**9, 10**6, None),
        (Term(100, None), 99, 10**6, None),
        (Term(100, None), 100, 0, "100 runs"),
        (Term(None, 500), 10**9, 500.0, None),
        (Term(None, 500), 0, 501.4, "501 MB of memory"),
        (Term(100, 500), 5, 600.0, "600 MB of memory"),
    ],
)
def test_its_term_is_over_at_either_mark(term: Term, runs: int, megabytes: float, why: str | None) -> None:
    assert term.over(runs, megabytes) == why


@given(st.integers(1, 10**6), st.randoms(use_true_random=False))
def test_workers_of_one_start_end_apart_and_none_before_its_mark(runs: int, chance: random.Random) -> None:
    spread = Term(runs, 500).spread(chance)
    assert spread.runs is not None
    assert runs <= spread.runs <= runs * 1.1
    assert spread.megabytes == 500
    assert Term(None, None).spread(chance) == Term(None, None)


def test_memory_is_measured() -> None:
    before = resident_megabytes()
    held = bytearray(b"x" * 50_000_000)
    assert resident_megabytes() > before + 40
    del held


async def test_it_asks_to_stop_when_its_term_is_over() -> None:
    served, stopping = 0, asyncio.Event()
    retiring = asyncio.create_task(retire_in_time(Term(1, None), lambda: served, stopping))
    await asyncio.sleep(0)
    assert not stopping.is_set()
    served = 1
    async with asyncio.timeout(30):
        await stopping.wait()
    await stop(retiring)
    assert retiring.cancelled()
