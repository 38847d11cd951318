"""The account of model calls, against a repository and a publisher that answer as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from agent_worker import accounts
from agent_worker.accounts import (
    CancelRequestedError,
    RunAccounts,
    RunLostError,
    UnpricedModelError,
)
from agent_worker.budgets import BudgetExceededError
from agent_worker.checkpoint import Checkpoint
from agent_worker.happenings import Step
from agent_worker.leave import CallRequest, Leave
from agent_worker.limiter.provider_limits import CallLimit, Unlimited
from agent_worker.limiter.shared import Reservation
from agent_worker.progress import RunLog
from agent_worker.providers.base import CallMeter, RateLimits
from agent_worker.providers.scripted import Scripted
from agent_worker.repository import RunRepository, SavedStep
from agent_worker.resilience.chain import Served
from common.contracts import Contract, TaskSubmitted, UsageRecorded
from common.contracts.base import now
from common.contracts.events import EventId
from common.contracts.tasks import InputMessage
from common.contracts.usage import Usage
from common.errors import BrokerUnavailable, StoreUnavailable
from common.messaging.publisher import Publisher
from tests.unit.agent_worker.serving import served

HELD = Leave("held", None, Decimal("0.1"), None)
TASK = TaskSubmitted(
    task_id=uuid4(),
    tenant_id=uuid4(),
    tier="free",
    level=30,
    priority=5,
    agent="default",
    input=(InputMessage(role="user", content="x"),),
    request_hash="",
    submitted_at=now(),
)


class Store:
    """Gives the answers in turn, the last one for ever; an exception is raised."""

    def __init__(self, *answers: Leave | Exception) -> None:
        self.answers = list(answers)
        self.held: set[UUID] = set()
        self.saved: list[SavedStep | None] = []

    async def begin_call(
        self, tenant: UUID, task: UUID, fence: int, call: CallRequest, saved: SavedStep | None
    ) -> Leave:
        await asyncio.sleep(0)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        if answer.verdict == "held" and call.attempt_id is not None:
            self.held.add(call.attempt_id)
        self.saved.append(saved)
        await asyncio.sleep(0)
        return answer


class Wire:
    """Takes records, after some failures."""

    ready = True

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.records: list[UsageRecorded] = []

    async def publish(self, exchange: str, routing_key: str, contract: Contract, **_: Any) -> None:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise BrokerUnavailable("away")
        assert isinstance(contract, UsageRecorded)
        self.records.append(contract)
        await asyncio.sleep(0)


class Unread:
    """Nobody writes these logs."""

    def notice(self, log: RunLog, *, urgent: bool) -> None:
        """See `Sink.notice`."""


def books(
    store: Store,
    wire: Wire,
    checkpoint: Checkpoint | None = None,
    log: RunLog | None = None,
    limit: CallLimit | None = None,
) -> RunAccounts:
    return RunAccounts(
        TASK,
        1,
        0,
        cast(RunRepository, store),
        cast(Publisher, wire),
        checkpoint or Checkpoint(),
        log or RunLog("k", 1, Unread()),
        lambda _: limit or Unlimited(),
    )


def answering(most: int) -> Served:
    """A model that answers with so many tokens at most."""
    return served(Scripted(), limit=most)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "_PAUSES", (0.0,))


@pytest.mark.parametrize(
    ("verdict", "error"),
    [
        ("fenced", RunLostError),
        ("cancelled", CancelRequestedError),
        ("unpriced", UnpricedModelError),
        ("exceeded", BudgetExceededError),
    ],
)
async def test_a_refusal_ends_the_run(verdict: Any, error: type[Exception]) -> None:
    leave = Leave(verdict, "tenant_day", Decimal("0.5"), Decimal(2))
    with pytest.raises(error):
        await books(Store(leave), Wire()).begin(1, answering(10), 10, 10)


async def test_open_holds_are_waited_for() -> None:
    wait = Leave("wait", "run", Decimal(1), Decimal(2))
    store = Store(wait, wait, HELD)
    attempt = await books(store, Wire()).begin(1, answering(10), 10, 10)
    assert store.held == {attempt}


async def test_however_long_and_the_client_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "_FIRST_LOOK_SECONDS", 0.0005)
    monkeypatch.setattr(accounts, "_LONGEST_LOOK_SECONDS", 0.001)
    store, log = Store(*[Leave("wait", "run", Decimal(1), Decimal(2))] * 50, HELD), RunLog("k", 1, Unread())
    await books(store, Wire(), log=log).begin(3, answering(10), 10, 10)
    told = [(event.type, event.data) for event in log.not_durable()]
    assert told == [("status", {"status": "running", "step": 3, "waiting_for": "holds", "scope": "run"})]


async def test_servers_that_are_away_are_waited_for() -> None:
    store, wire = Store(StoreUnavailable("away"), StoreUnavailable("away"), HELD), Wire(failures=3)
    accounts_ = books(store, wire)
    attempt = await accounts_.begin(1, answering(10), 10, 10)
    accounts_.record(attempt, 1, CallMeter(usage=Usage(output_tokens=3), estimated=True))
    await accounts_.confirmed()
    (record,) = wire.records
    assert (record.attempt_id, record.usage.output_tokens, record.estimated) == (attempt, 3, True)
    assert accounts_.used.output_tokens == 3


async def test_no_other_leave_is_asked_for_before_the_last_call_is_accounted_for() -> None:
    store, wire = Store(HELD), Wire(failures=3)
    account = books(store, wire)
    first = await account.begin(1, answering(10), 10, 10)
    account.record(first, 1, CallMeter(usage=Usage(output_tokens=3)))
    assert wire.records == []  # the run goes on meanwhile
    second = asyncio.create_task(account.begin(2, answering(10), 10, 10))
    while not wire.records:
        assert store.held == {first}
        await asyncio.sleep(0)
    assert store.held == {first, await second}


async def test_who_gives_up_waiting_gives_up_the_record() -> None:
    wire = Wire(failures=10**9)
    account = books(Store(HELD), wire)
    account.record(await account.begin(1, answering(10), 10, 10), 1, CallMeter())
    waiting = asyncio.create_task(account.confirmed())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    wire.failures = 0
    with pytest.raises(asyncio.CancelledError):
        await account.confirmed()
    assert wire.records == []


@pytest.mark.parametrize(("verdict", "kept"), [("held", False), ("cancelled", False), ("fenced", True)])
async def test_the_step_before_is_saved_with_the_leave(verdict: Any, kept: bool) -> None:
    checkpoint = Checkpoint()
    checkpoint.add(Step(1, (), Usage()), EventId(1, 4))
    store = Store(Leave(verdict, None, None, None))
    await asyncio.gather(books(store, Wire(), checkpoint).begin(2, answering(1), 1, 1), return_exceptions=True)
    (saved,) = store.saved
    assert saved is not None
    assert (saved.number, saved.last_seq) == (1, 4)
    assert (checkpoint.unsaved is not None) is kept


class Limit:
    """A `CallLimit` that notes what it is asked, and how many reservations are open."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.asked: list[tuple[int, int]] = []
        self.open: list[Reservation] = []
        self.settled: list[CallMeter] = []

    async def reserve(self, tokens: int, on_long_wait: Callable[[], None]) -> Reservation:
        await asyncio.sleep(0)
        on_long_wait()
        self.asked.append((tokens, len(self.store.held)))
        self.open.append(Reservation(0.0, open=True))
        return self.open[-1]

    def give_back(self, reservation: Reservation) -> None:
        if reservation in self.open:
            self.open.remove(reservation)

    def settle(self, reservation: Reservation, meter: CallMeter) -> None:
        self.give_back(reservation)
        self.settled.append(meter)

    def heed(self, limits: RateLimits) -> None:
        """See `CallLimit.heed`."""


async def test_the_limit_comes_before_the_hold_and_the_client_is_told_of_the_wait() -> None:
    store, log = Store(HELD), RunLog("k", 1, Unread())
    limit = Limit(store)
    accounts_ = books(store, Wire(), log=log, limit=limit)
    attempt = await accounts_.begin(2, answering(50), 900, 200)
    assert limit.asked == [(250, 0)]  # the likely input and the longest answer, before any hold
    assert len(limit.open) == 1
    told = [(event.type, event.data) for event in log.not_durable()]
    assert told == [("status", {"status": "running", "step": 2, "waiting_for": "provider"})]
    meter = CallMeter(usage=Usage(output_tokens=3))
    accounts_.record(attempt, 2, meter)
    await accounts_.confirmed()
    assert (limit.open, limit.settled) == ([], [meter])


async def test_nothing_of_the_limit_is_kept_while_holds_are_in_the_way() -> None:
    wait = Leave("wait", "run", Decimal(1), Decimal(2))
    store = Store(wait, wait, HELD)
    limit = Limit(store)
    await books(store, Wire(), limit=limit).begin(1, answering(10), 10, 10)
    assert (len(limit.asked), len(limit.open)) == (3, 1)


@pytest.mark.parametrize("verdict", ["fenced", "cancelled", "unpriced", "exceeded"])
async def test_a_call_that_is_refused_its_hold_gives_back_what_it_drew(verdict: Any) -> None:
    store = Store(Leave(verdict, "run", Decimal(1), Decimal(2)))
    limit = Limit(store)
    with pytest.raises((RunLostError, CancelRequestedError, UnpricedModelError, BudgetExceededError)):
        await books(store, Wire(), limit=limit).begin(1, answering(10), 10, 10)
    assert (len(limit.asked), limit.open) == (1, [])


async def test_wherever_leave_is_cut_nothing_stays_drawn() -> None:
    for turns in range(30):
        store = Store(StoreUnavailable("away"), HELD)
        limit = Limit(store)
        task = asyncio.create_task(books(store, Wire(), limit=limit).begin(1, answering(10), 10, 10))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        assert len(limit.open) == (0 if task.cancelled() else 1)


async def test_wherever_leave_is_cut_a_hold_that_was_taken_is_given_back() -> None:
    given_back = 0
    for turns in range(30):
        store, wire = Store(StoreUnavailable("away"), HELD), Wire(failures=1)
        account = books(store, wire)
        task = asyncio.create_task(account.begin(1, answering(10), 10, 10))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        await account.confirmed()
        assert [record.attempt_id for record in wire.records] == (list(store.held) if task.cancelled() else [])
        assert all(record.usage == Usage() for record in wire.records)
        given_back += len(wire.records)
    assert given_back > 0


async def test_an_answer_that_is_known_has_leave_without_a_hold() -> None:
    checkpoint = Checkpoint()
    checkpoint.add(Step(1, (), Usage(output_tokens=3)), EventId(1, 4))
    store, wire = Store(HELD), Wire()
    account = books(store, wire, checkpoint)
    await account.begin_known(2, answering(10))
    assert (store.held, wire.records) == (set(), [])
    assert [saved.number for saved in store.saved if saved is not None] == [1]
    assert checkpoint.unsaved is None
    assert account.used.cached_calls == 1


async def test_nor_is_it_used_by_a_run_that_is_another_workers() -> None:
    with pytest.raises(RunLostError):
        await books(Store(Leave("fenced", None, None, None)), Wire()).begin_known(1, answering(10))
