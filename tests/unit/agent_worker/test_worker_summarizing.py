"""What a run is shown where a summary is to be made, whatever is there and whatever goes wrong; nothing but values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_worker.budgets import BudgetExceededError, ParkedForBudgetError
from agent_worker.history import Exchange, History
from agent_worker.leave import Leave
from agent_worker.minutes import shown
from agent_worker.obstacles import Obstacle
from agent_worker.providers.base import ModelRequest, PermanentError, ProviderError, TextDelta, ToolCall, Turn
from agent_worker.providers.scripted import Scripted
from agent_worker.resilience.chain import Served
from agent_worker.summarizing import Summarizer
from agent_worker.summary_records import Summary
from common.contracts import TaskSubmitted
from tests.unit.agent_worker.serving import served
from tests.unit.agent_worker.test_worker_loop import Books

TASK = cast(TaskSubmitted, type("Task", (), {"task_id": uuid4()}))
ROOM = 6_000


def exchange(number: int, size: int = 900) -> Exchange:
    return Exchange.of((Turn("user", ({"type": "text", "text": f"{number}:".ljust(size, "x")},)),))


class Shelf:
    """A conversation and its summary, as PostgreSQL has them."""

    def __init__(self, exchanges: Sequence[Exchange], summary: Summary | None = None) -> None:
        self.summaries = self
        self.all, self.summary = tuple(exchanges), summary
        self.read: list[tuple[int, int]] = []

    async def history(self, _: UUID, size: int) -> History:
        """See `RunRepository.history`."""
        return History(self.all).fitting(size)

    async def newest(self, _: UUID) -> Summary | None:
        """See `SummaryRecords.newest`."""
        return self.summary

    async def exchanges(self, _: UUID, after: int, upto: int, size: int) -> tuple[Exchange, ...]:
        """See `SummaryRecords.exchanges`."""
        self.read.append((after, upto))
        return History(self.all[after:upto]).fitting(size).exchanges

    async def keep(self, _: UUID, fence: int, summary: Summary) -> None:
        """See `SummaryRecords.keep`."""
        assert fence == 3
        self.summary = summary


class Told:
    """A stream."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def emit(self, kind: str, data: dict[str, Any]) -> None:
        """One event."""
        self.events.append((kind, data))


class Refusing(Books):
    """Gives no leave."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def begin(self, step: int, served: Served, input_bound: int, input_estimate: int) -> UUID:
        """See `Calls.begin`."""
        raise self.error


def summarizer(shelf: Shelf, *said: TextDelta | ToolCall | ProviderError, calls: Books | None = None) -> Summarizer:
    def script(request: ModelRequest) -> Sequence[TextDelta | ToolCall | ProviderError]:
        assert request.max_output_tokens == 100
        return said or (TextDelta("what was said"),)

    model = served(Scripted(script), window=20_000)
    return Summarizer(TASK, 3, 1, model, cast(Any, shelf), calls or Books(), cast(Any, Told()))


def size(history: History) -> int:
    return sum(one.size for one in history.exchanges) + (history.summary.size if history.summary is not None else 0)


async def test_what_fits_needs_no_summary() -> None:
    shelf = Shelf([exchange(n) for n in range(1, 6)])
    history, used = await summarizer(shelf, PermanentError("x", "not to be asked")).history(ROOM)
    assert (history.dropped, history.summary, used.total_input_tokens) == (0, None, 0)


async def test_half_of_the_room_is_freed_and_the_next_run_uses_what_there_is() -> None:
    shelf = Shelf([exchange(n) for n in range(1, 9)])
    first, used = await summarizer(shelf).history(ROOM)
    assert (first.dropped, len(first.exchanges)) == (5, 3)
    assert first.summary == shown("what was said")
    assert used.total_input_tokens > 0
    assert shelf.read == [(0, 5)]
    shelf.all = (*shelf.all, exchange(9))
    again, nothing = await summarizer(shelf, PermanentError("x", "not to be asked")).history(ROOM)
    assert (again.dropped, len(again.exchanges), again.summary) == (5, 4, first.summary)
    assert nothing.total_input_tokens == 0
    shelf.all = (*shelf.all, *(exchange(n) for n in range(10, 14)))
    later, _ = await summarizer(shelf, TextDelta("more")).history(ROOM)
    assert shelf.read[1:] == [(5, later.dropped)]
    assert shelf.summary == Summary(later.dropped, "more")


async def test_none_is_kept_before_its_call_is_accounted_for() -> None:
    calls = Books()

    class Watched(Shelf):
        async def keep(self, task: UUID, fence: int, summary: Summary) -> None:
            assert (len(calls.recorded), calls.durable) == (1, 1)
            await super().keep(task, fence, summary)

    shelf = Watched([exchange(n) for n in range(1, 9)])
    await summarizer(shelf, calls=calls).history(ROOM)
    assert shelf.summary is not None


@pytest.mark.parametrize(
    "calls",
    [
        Refusing(BudgetExceededError(Leave("exceeded", "run", None, None))),
        Refusing(ParkedForBudgetError(Obstacle("budget", "tenant_day"))),
    ],
    ids=["exceeded", "parked"],
)
async def test_a_budget_without_room_costs_the_summary_alone(calls: Books) -> None:
    shelf = Shelf([exchange(n) for n in range(1, 9)])
    history, _ = await summarizer(shelf, calls=calls).history(ROOM)
    assert history == History(shelf.all).fitting(ROOM)
    assert shelf.summary is None


@pytest.mark.parametrize("said", [(PermanentError("overloaded", "x"),), (TextDelta("  "),), (TextDelta("x" * 9_000),)])
async def test_where_none_can_be_had_the_one_before_is_shown(
    said: tuple[TextDelta | ToolCall | ProviderError, ...],
) -> None:
    shelf = Shelf([exchange(n) for n in range(1, 12)], Summary(2, "long ago"))
    history, _ = await summarizer(shelf, *said).history(ROOM)
    if said[0] != TextDelta("x" * 9_000):
        assert history.summary == shown("long ago")
    assert history.exchanges[-1] == shelf.all[-1]
    assert size(history) <= ROOM


@given(
    st.lists(st.integers(0, 3_000), max_size=10),
    st.none() | st.tuples(st.integers(0, 10), st.integers(0, 4_000)),
    st.integers(0, 9_000),
    st.integers(0, 9_000),
)
async def test_never_more_than_there_is_room_for(
    sizes: list[int], known: tuple[int, int] | None, answer: int, room: int
) -> None:
    summary = None if known is None else Summary(min(known[0], len(sizes)), "s" * known[1])
    shelf = Shelf([exchange(n, size) for n, size in enumerate(sizes)], summary)
    history, _ = await summarizer(shelf, TextDelta("a" * answer)).history(room)
    assert size(history) <= room
    assert history.dropped + len(history.exchanges) == len(sizes)
    assert history.exchanges == shelf.all[history.dropped :]
