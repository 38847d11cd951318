"""Owns every run of the process: starts one for each delivery, renews their leases, stops them, and drains.

A run lives here and not in the broker's callback, which is cancelled with its channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from time import monotonic
from uuid import UUID

import structlog

from agent_worker.metrics import RUNS_ENDED
from agent_worker.obstacles import Obstacle
from agent_worker.progress import RunLog
from agent_worker.repository import RunRepository
from agent_worker.run import Run
from agent_worker.runner import Runner
from agent_worker.stopping import StopReason
from agent_worker.telemetry import processing
from common.contracts import CancelRequested, CancelsRequested, Contract, TaskSubmitted
from common.errors import DecodeError, StoreUnavailable
from common.messaging.settlement import Delivery, Disposition

_log = structlog.get_logger(__name__)
_GIVE_BACK_SECONDS = 5.0
_GIVE_UP_SECONDS = 4.0


class Supervisor:
    """The runs of this process."""

    def __init__(self, repository: RunRepository, lease_seconds: float) -> None:
        self._repository = repository
        self._renewal = lease_seconds / 4
        self._runs: dict[UUID, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._active: dict[UUID, asyncio.Task[None]] = {}
        self.served = 0
        """Deliveries that this process has settled."""
        self.runner: Runner | None = None

    @property
    def held(self) -> int:
        """Deliveries that this process holds."""
        return len(self._tasks)

    def start(self, delivery: Delivery) -> asyncio.Task[None]:
        """Take a delivery on; the task is done when it is settled."""
        task = asyncio.create_task(self._handle(delivery))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.served += 1
        if not task.cancelled() and task.exception() is not None:
            _log.error("delivery.unsettled", error=repr(task.exception()))

    async def _handle(self, delivery: Delivery) -> None:
        try:
            disposition = await self._decide(delivery)
        except asyncio.CancelledError:
            disposition = Disposition.RETURN
        except Exception as error:  # noqa: BLE001 - unsettled it would take up its slot until the broker loses patience
            _log.error("delivery.crashed", error=repr(error), exc_info=error)
            disposition = Disposition.RETRY
        await delivery.settle(disposition)

    async def _decide(self, delivery: Delivery) -> Disposition:
        try:
            task = delivery.decode()
        except DecodeError as error:
            _log.warning("task.undecodable", reason=error.reason)
            return Disposition.DEAD
        if not isinstance(task, TaskSubmitted):
            _log.warning("task.unexpected_kind", kind=task.kind)
            return Disposition.DEAD
        with processing(task, delivery.headers):
            return await self._run(task)

    async def _run(self, task: TaskSubmitted) -> Disposition:
        assert self.runner is not None  # noqa: S101 - set by the composition root before consumers open
        await self._until_alone(task.task_id)
        self._active[task.task_id] = asyncio.current_task()  # type: ignore[assignment]
        try:
            disposition = await self.runner.run(task)
        except asyncio.CancelledError:
            disposition = Disposition.RETURN
        except Exception as error:  # noqa: BLE001 - the boundary that decides what becomes of a failed run
            _log.error("run.crashed", task_id=str(task.task_id), error=repr(error), exc_info=error)
            disposition = Disposition.RETRY
        finally:
            self._active.pop(task.task_id, None)
        RUNS_ENDED.labels(tier=task.tier, disposition=disposition.name.lower()).inc()
        return disposition

    async def _until_alone(self, task_id: UUID) -> None:
        """After a lost channel the broker may deliver again what this very process still runs."""
        while (other := self._active.get(task_id)) is not None:
            await asyncio.wait({other})

    def note_run(self, run: Run | None, task: TaskSubmitted) -> None:
        """A run began, or with None is over."""
        if run is None:
            self._runs.pop(task.task_id, None)
        else:
            self._runs[task.task_id] = run

    def hear(self, contract: Contract) -> None:
        """A message on `control`."""
        if isinstance(contract, CancelRequested):
            self._cancel((contract.task_id,))
        elif isinstance(contract, CancelsRequested):
            self._cancel(contract.task_ids)

    def _cancel(self, task_ids: Iterable[UUID]) -> None:
        for task_id in task_ids:
            if task_id in self._runs:
                self._runs[task_id].stop(StopReason.CANCELLED)

    def park(self, obstacle: Callable[[TaskSubmitted], Obstacle | None]) -> None:
        """Stop and park the runs of all tasks that have an obstacle."""
        for run in self._runs.values():
            if not run.ended and (found := obstacle(run.task)) is not None:
                run.park(found)

    def fenced_off(self, log: RunLog) -> None:
        """Redis has events of a newer fence: another worker runs what we thought was ours."""
        for run in self._runs.values():
            if run.log is log:
                run.stop(StopReason.LOST)

    async def keep_leases(self) -> None:
        """Renew all leases until cancelled, and hear from the answer which runs were lost or are to be cancelled."""
        while True:
            await asyncio.sleep(self._renewal)
            held = {task_id: run.fence for task_id, run in self._runs.items() if not run.given_back}
            if not held:
                continue
            asked_at = monotonic()
            try:
                renewed = await self._repository.renew(list(held.items()))
            except StoreUnavailable as error:
                _log.warning("leases.not_renewed", error=str(error), runs=len(held))
                continue
            for task_id, fence in held.items():
                run = self._runs.get(task_id)
                if run is None or run.fence != fence or run.ended:
                    continue
                if task_id not in renewed:
                    run.stop(StopReason.LOST)
                    continue
                run.lease.renewed(asked_at)
                if renewed[task_id]:
                    run.stop(StopReason.CANCELLED)

    async def drain(self, grace: float) -> None:
        """Let runs finish for so many seconds, then give the rest back, and in the end drop what waits for a server."""
        if self.runner is not None:
            self.runner.drain()
        await self._none_left(grace)
        for run in list(self._runs.values()):
            run.stop(StopReason.DRAINING)
        await self._none_left(_GIVE_BACK_SECONDS)
        for task in list(self._tasks):
            task.cancel()
        await self._none_left(_GIVE_UP_SECONDS)

    async def _none_left(self, timeout: float) -> None:
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout)
