"""From a delivery to its settlement: acquire the run, run it, publish its end, release what admission counted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import structlog

from agent_worker import remains
from agent_worker.accounts import RunAccounts, until_available
from agent_worker.acquired import Acquired, decided_end
from agent_worker.checkpoint import Checkpoint
from agent_worker.fitting import fitted
from agent_worker.limiter.provider_limits import ProviderLimits
from agent_worker.loop import AgentLoop
from agent_worker.mcp.servers import McpServers
from agent_worker.plan import plan_of
from agent_worker.progress import RunLog
from agent_worker.quarantine import Death, Quarantine
from agent_worker.refusing import refusal_of
from agent_worker.repository import Acquisition, RunRepository
from agent_worker.resilience.retry import Retry
from agent_worker.response_cache import Responses
from agent_worker.run import Run
from agent_worker.settings import WorkerSettings
from agent_worker.staffing import Staffing
from agent_worker.stream_writer import StreamWriter
from agent_worker.tool_records import ToolRecords
from agent_worker.tooling import tool_context
from agent_worker.tools.base import Toolbox
from common import batches, streams
from common.admission import release
from common.contracts import CancelsRequested, RunFinished, RunProgressed, TaskSubmitted
from common.contracts.base import now
from common.contracts.runs import RunError, TerminalStatus
from common.ending import tell_end
from common.errors import BrokerUnavailable, CacheUnavailable
from common.messaging.publisher import Publisher
from common.messaging.settlement import Disposition
from common.messaging.topology import CONTROL, EVENTS
from common.pipelining import Pipelined

_log = structlog.get_logger(__name__)
_AFTER_LEASE_SECONDS = 0.05
_LONGEST_WAIT_SECONDS = 5.0
_LONGEST_SPIN_SECONDS = 1.0


@dataclass(frozen=True)
class Equipment:
    """What every run of this process shares."""

    settings: WorkerSettings
    worker: str
    staffing: Staffing
    toolboxes: Mapping[str, Toolbox]
    tool_records: ToolRecords
    repository: RunRepository
    publisher: Publisher
    writer: StreamWriter
    redis: Pipelined
    limits: ProviderLimits
    retry: Retry
    mcp: McpServers
    responses: Responses = field(default_factory=Responses)
    quarantine: Quarantine | None = None
    """Where runs are run alone; None in a process that is such a place itself."""


class Runner:
    """Runs tasks, one call of `run` for each delivery."""

    def __init__(self, equipment: Equipment, on_run: Callable[[Run | None, TaskSubmitted], None]) -> None:
        """`on_run` is told of each run that begins, and with None when it is over."""
        self._equipment = equipment
        self._on_run = on_run
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """Begin no run any more: what waits for one goes to another worker."""
        self._draining.set()

    async def run(self, task: TaskSubmitted, death: Death | None = None) -> Disposition:
        """Bring the task to its end, or to another worker; what is to become of the delivery.

        `death` is how a process ended that ran nothing but this.
        """
        found = await self._acquire(task)
        if found is None:
            return Disposition.RETURN
        if found.decision == "finished":
            await self._conclude(task, decided_end(task, found))
            return Disposition.DONE
        if found.decision == "parked":
            # It comes again when it is woken: the slot is free at once.
            await self._tell_interrupted(task, found)
            await self._tell_parked(task, found)
            return Disposition.DONE
        await self._ring(task)
        await until_available(partial(remains.note, task, found, self._equipment.repository, self._equipment.redis))
        log = RunLog(streams.key(task.tenant_id, task.task_id), found.fence, self._equipment.writer)
        refusal = refusal_of(task, found, self._equipment.settings, self._equipment.staffing, self._alone, death)
        if refusal is None and self._suspect(found):
            return await self._run_alone(task, found, death)
        if refusal is not None:
            finished, settles_as = await self._refuse(task, found, log, refusal), Disposition.DONE
        else:
            finished, settles_as = await self._execute(task, found, log)
        if isinstance(finished, Disposition):
            return finished
        await self._conclude(task, finished)
        return settles_as

    async def _acquire(self, task: TaskSubmitted) -> Acquisition | None:
        """Acquire the run, waiting while another worker has it: its end, or its lease's, comes first.

        None where this worker begins no more runs.
        """
        equipment, acquire = self._equipment, self._equipment.repository.acquire
        message = task.encode() if task.conditional else None
        least = _AFTER_LEASE_SECONDS  # grows, for a clock that is ahead of the database's would make this a spin
        while not self._draining.is_set():
            found = await until_available(partial(acquire, task, equipment.worker, message))
            if found.decision == "full":
                message = task.encode()
                continue
            if found.decision != "leased":
                return found
            left = (found.lease_until - now()).total_seconds() if found.lease_until else 0.0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_LONGEST_WAIT_SECONDS, max(least, left + _AFTER_LEASE_SECONDS))):
                    await self._draining.wait()
            least = min(_LONGEST_SPIN_SECONDS, least * 2)
        return None

    @property
    def _alone(self) -> bool:
        """Whether this process runs nothing else."""
        return self._equipment.quarantine is None

    def _suspect(self, found: Acquisition) -> bool:
        """Whether so many workers died with the run that it may be what killed them."""
        return not self._alone and found.attempts > self._equipment.settings.quarantine_after

    async def _run_alone(self, task: TaskSubmitted, found: Acquisition, death: Death | None) -> Disposition:
        """Let a process of its own have the run. Where that dies with it, the run is ended here."""
        equipment = self._equipment
        assert equipment.quarantine is not None  # noqa: S101 - `_suspect` has looked
        await until_available(partial(equipment.repository.release, task.task_id, found.fence, None))
        if death is not None:  # it died before it had the run: that is no fault of the run's
            return Disposition.RETRY
        ended = await equipment.quarantine.run(task, self._draining)
        return await self.run(task, ended) if isinstance(ended, Death) else ended

    async def _tell_interrupted(self, task: TaskSubmitted, found: Acquisition) -> None:
        """Ring for what was cancelled for this task. Unheard, their workers find it when they renew their leases."""
        if found.interrupted:
            bell = CancelsRequested(tenant_id=task.tenant_id, task_ids=found.interrupted)
            try:
                await self._equipment.publisher.publish(
                    CONTROL, "", bell, subject=task.task_id, stable_id=str(task.task_id)
                )
            except BrokerUnavailable as error:
                _log.info("interrupt.untold", task_id=str(task.task_id), error=repr(error))

    async def _tell_parked(self, task: TaskSubmitted, found: Acquisition) -> None:
        """Tell those who watch. Done again with each delivery until it is acknowledged, it changes nothing."""
        if not found.told:
            return
        try:
            key = streams.key(task.tenant_id, task.task_id)
            await streams.append(self._equipment.redis, key, found.told, create=True)
        except CacheUnavailable as error:
            _log.info("parking.untold", error=str(error))  # the record has it, a moment later
        progressed = RunProgressed(
            task_id=task.task_id, tenant_id=task.tenant_id, fence=found.fence, step=0, events=found.told
        )
        stable_id = f"{task.task_id}:{found.told[-1].id}"
        await until_available(
            lambda: self._equipment.publisher.publish(
                EVENTS, progressed.kind, progressed, subject=task.task_id, stable_id=stable_id
            )
        )

    async def _refuse(
        self, task: TaskSubmitted, found: Acquisition, log: RunLog, refusal: tuple[TerminalStatus, RunError]
    ) -> RunFinished | Disposition:
        status, error = refusal
        checkpoint = Checkpoint(found.steps, found.proposal)
        if found.fence > 1:
            stands = checkpoint.stands_until
            log.emit("reset", {"after": str(stands) if stands else None, "reason": "taken over"})
        log.emit("done", {"status": status, "error": error.model_dump()})
        finished = fitted(
            RunFinished(
                task_id=task.task_id,
                tenant_id=task.tenant_id,
                tier=task.tier,
                fence=found.fence,
                status=status,
                error=error,
                usage=checkpoint.used,
                steps=checkpoint.next_step - 1,
                attempts=found.attempts,
                messages=checkpoint.messages(None),
                events=log.not_durable(),
                started_at=found.started_at,
                finished_at=now(),
            )
        )
        decided = await until_available(
            lambda: self._equipment.repository.finish(
                task.task_id, found.fence, status, finished.encode(), finished.finished_at
            )
        )
        return finished if decided else Disposition.RETURN

    async def _execute(
        self, task: TaskSubmitted, found: Acquisition, log: RunLog
    ) -> tuple[RunFinished | Disposition, Disposition]:
        """The end of the run, or what becomes of its delivery before that; and what becomes of it after."""
        equipment, staffed = self._equipment, self._equipment.staffing.of(task)
        assert staffed is not None  # noqa: S101 - `_refusal` has looked
        checkpoint = Checkpoint(found.steps, found.proposal)
        accounts = RunAccounts(
            task,
            found.fence,
            found.calls,
            equipment.repository,
            equipment.publisher,
            checkpoint,
            log,
            partial(equipment.limits.of, task.tier),
            equipment.settings.budgets.patience,
        )
        own = equipment.toolboxes[staffed.agent.name]
        box = await until_available(partial(equipment.mcp.toolbox, staffed.agent, own, task.tenant_id))
        tools = box.within(tool_context(task, log, equipment.tool_records))
        agent_loop = AgentLoop(plan_of(task, staffed, box, equipment.responses), tools, accounts, equipment.retry)
        acquired = Acquired.of(found, equipment.settings.provider_retries)
        run = Run(
            task,
            acquired,
            agent_loop,
            staffed.routing,
            staffed.agent.timeout_seconds,
            accounts,
            checkpoint,
            log,
            equipment.repository,
            equipment.publisher,
        )
        self._on_run(run, task)
        try:
            return await run.execute(), run.settles_as
        finally:
            self._on_run(None, task)

    async def _conclude(self, task: TaskSubmitted, finished: RunFinished) -> None:
        """Publish the end that was decided. Done again after a crash, it changes nothing."""
        await until_available(
            lambda: self._equipment.publisher.publish(
                EVENTS,
                finished.kind,
                finished,
                subject=task.task_id,
                stable_id=f"{task.task_id}:{finished.fence}:finished",
            )
        )
        await self._ring(task)
        try:
            if finished.attempts == 0:  # whoever ended it before it ran may not have told its stream
                await tell_end(self._equipment.redis, finished, task.priority)
            else:
                await release(self._equipment.redis, task.tenant_id, task.task_id, task.priority)
        except CacheUnavailable as error:
            _log.info("admission.release_failed", error=str(error))  # it expires by itself

    async def _ring(self, task: TaskSubmitted) -> None:
        """Tell those who follow the task's batch to look. Unheard they look all the same, later."""
        if task.batch is not None:
            with contextlib.suppress(CacheUnavailable):
                await batches.ring(self._equipment.redis, task.tenant_id, task.batch.id)
