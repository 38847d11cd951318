"""A run of an hour, by a virtual clock: its lease is held to the end, whatever is away for a moment meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from agent_worker.lease import Lease
from agent_worker.repository import RunRepository
from agent_worker.run import Run
from agent_worker.runner import Runner
from agent_worker.stopping import StopReason
from agent_worker.supervisor import Supervisor
from common.contracts import Contract, TaskSubmitted
from common.errors import StoreUnavailable
from common.lifecycle import stop
from common.messaging.settlement import Disposition
from tests.unit.agent_worker.test_worker_pauses import TASK
from tests.unit.agent_worker.virtual_time import in_virtual_time

HOUR = 3600.0
LEASE = 4.0
ANSWER_SECONDS = 0.2


class Store:
    """One lease, as `runtime.renew` keeps it, and the times in which the server does not answer."""

    def __init__(self, *outages: tuple[float, float]) -> None:
        self._outages = outages
        self.until = LEASE
        self.renewals = 0

    async def renew(self, held: Sequence[tuple[UUID, int]]) -> dict[UUID, bool]:
        clock = asyncio.get_running_loop().time
        if any(begin <= clock() < end for begin, end in self._outages):
            await asyncio.sleep(ANSWER_SECONDS)
            raise StoreUnavailable("it does not answer")
        if clock() > self.until:  # another worker has it
            return {}
        self.until, self.renewals = clock() + LEASE, self.renewals + 1
        return {task_id: False for task_id, _ in held}


class Long:
    """A runner whose run takes an hour, and is found finished after that."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.stopped: list[StopReason] = []
        self.began: list[float] = []

    async def run(self, task: TaskSubmitted) -> Disposition:
        self.began.append(asyncio.get_running_loop().time())
        if len(self.began) == 1:
            lease = Lease(LEASE, 0.0)
            run = SimpleNamespace(fence=1, ended=False, given_back=False, lease=lease, stop=self.stopped.append)
            self._supervisor.note_run(cast(Run, run), task)
            await asyncio.sleep(HOUR)
            self._supervisor.note_run(None, task)
        return Disposition.DONE


class Message:
    """A delivery; its channel may be gone when it is settled."""

    redelivered = False
    headers: dict[str, object] = {}  # noqa: RUF012 - never written

    def __init__(self) -> None:
        self.settled: list[Disposition] = []

    def decode(self) -> Contract:
        return TASK

    async def settle(self, disposition: Disposition) -> bool:
        self.settled.append(disposition)
        return True


async def _an_hour(store: Store, meanwhile: Callable[[Supervisor], Any] | None = None) -> Long:
    supervisor = Supervisor(cast(RunRepository, store), LEASE)
    runner = Long(supervisor)
    supervisor.runner = cast(Runner, runner)
    renewing = asyncio.create_task(supervisor.keep_leases())
    first = supervisor.start(Message())
    if meanwhile is not None:
        asyncio.get_running_loop().call_later(HOUR / 2, meanwhile, supervisor)
    await first
    await stop(renewing)
    return runner


def test_a_lease_is_renewed_four_times_in_its_length_for_an_hour() -> None:
    store = Store()
    runner = in_virtual_time(_an_hour(store))
    assert runner.stopped == []
    assert HOUR / LEASE * 4 - 2 <= store.renewals <= HOUR / LEASE * 4
    assert store.until >= HOUR


def test_it_outlives_a_database_that_is_away_again_and_again_for_less_than_the_lease() -> None:
    # What is left of a lease when an outage begins is three renewals at least.
    outages = [(float(begin), begin + LEASE / 2) for begin in range(60, int(HOUR), 60)]
    runner = in_virtual_time(_an_hour(Store(*outages)))
    assert runner.stopped == []


def test_one_that_is_away_for_longer_costs_the_run_and_it_is_told() -> None:
    runner = in_virtual_time(_an_hour(Store((HOUR / 2, HOUR / 2 + 2 * LEASE))))
    assert set(runner.stopped) == {StopReason.LOST}


@pytest.mark.parametrize("times", [1, 3])
def test_a_broker_that_restarts_in_the_middle_brings_it_again_and_it_waits_for_the_end(times: int) -> None:
    again = [Message() for _ in range(times)]

    async def redelivered() -> tuple[Long, Store]:
        store = Store()
        tasks: list[asyncio.Task[None]] = []
        runner = await _an_hour(store, lambda supervisor: tasks.extend(map(supervisor.start, again)))
        await asyncio.gather(*tasks)
        return runner, store

    runner, store = in_virtual_time(redelivered())
    assert (runner.stopped, len(runner.began)) == ([], 1 + times)
    assert runner.began[0] == 0
    assert all(began >= HOUR for began in runner.began[1:]), "not beside itself"
    assert store.until >= HOUR
    assert [message.settled for message in again] == [[Disposition.DONE]] * times
