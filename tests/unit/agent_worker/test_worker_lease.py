"""How long a worker may take a run for its own, and what it does when that time is over."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import cast
from uuid import UUID, uuid4

import pytest

from agent_worker import lease as lease_module
from agent_worker.accounts import CancelRequestedError, RunLostError
from agent_worker.intents import RunIntents
from agent_worker.lease import Lease
from agent_worker.repository import RunRepository
from common.contracts.events import EventId

TASK = uuid4()
SECONDS = 1000.0


class Store:
    """Answers renewals."""

    def __init__(self, answer: dict[UUID, bool]) -> None:
        self.answer = answer
        self.asked: list[Sequence[tuple[UUID, int]]] = []

    async def renew(self, held: Sequence[tuple[UUID, int]]) -> dict[UUID, bool]:
        self.asked.append(held)
        return self.answer


async def never_durable() -> EventId:
    raise AssertionError("nothing is begun")


def intents(store: Store, lease: Lease) -> RunIntents:
    return RunIntents(cast(RunRepository, store), TASK, 7, lease, never_durable)


def test_a_lease_holds_for_its_time_from_when_it_was_asked_for() -> None:
    assert Lease(SECONDS, monotonic()).holds
    assert not Lease(SECONDS, monotonic() - SECONDS).holds


def test_an_answer_that_comes_late_does_not_shorten_it() -> None:
    lease = Lease(SECONDS, monotonic())
    lease.renewed(monotonic() - SECONDS)
    assert lease.holds


async def test_a_run_that_is_surely_held_is_not_asked_about() -> None:
    store = Store({})
    await intents(store, Lease(SECONDS, monotonic())).confirm()
    assert store.asked == []


async def test_one_that_may_be_lost_is_asked_about_and_is_held_again() -> None:
    store, lease = Store({TASK: False}), Lease(SECONDS, monotonic() - SECONDS)
    await intents(store, lease).confirm()
    assert (store.asked, lease.holds) == ([[(TASK, 7)]], True)


@pytest.mark.parametrize(("answer", "raised"), [({}, RunLostError), ({TASK: True}, CancelRequestedError)])
async def test_what_is_lost_or_to_be_cancelled_meanwhile_ends(
    answer: dict[UUID, bool], raised: type[Exception]
) -> None:
    with pytest.raises(raised):
        await intents(Store(answer), Lease(SECONDS, monotonic() - SECONDS)).confirm()


async def test_where_it_stands_still_for_the_answer_too_it_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5_000.0
    monkeypatch.setattr(lease_module, "monotonic", lambda: now)
    monkeypatch.setattr("agent_worker.intents.monotonic", lambda: now)
    lease = Lease(SECONDS, 0.0)

    class Slow(Store):
        async def renew(self, held: Sequence[tuple[UUID, int]]) -> dict[UUID, bool]:
            nonlocal now
            now += SECONDS if not self.asked else 0.0
            return await super().renew(held)

    store = Slow({TASK: False})
    await intents(store, lease).confirm()
    assert (len(store.asked), lease.holds) == (2, True)
