"""One acquired run from its first event to its one end.

The order of what is made durable, which every crash is measured against: a step's events are confirmed by the broker
before its checkpoint is written, and so is the usage of its calls, before a tool with a side effect begins and before
the end is decided, too; the end is decided in PostgreSQL before it is published, and published before the message is
acknowledged. Redelivery repairs what is missing.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial

import structlog

from agent_worker import conversing
from agent_worker.accounts import CancelRequestedError, RunAccounts, RunLostError, until_available
from agent_worker.acquired import Acquired
from agent_worker.awaiting_approval import ApprovalNeededError, proposal_of, taken_up
from agent_worker.budgets import ParkedForBudgetError
from agent_worker.checkpoint import Checkpoint
from agent_worker.cutting import undisturbed
from agent_worker.deferring import DeferredError, final, waiting_event
from agent_worker.durable import make_durable
from agent_worker.endings import APPROVAL_EXPIRED, CANCELLED, FAILURES, Ending, done_data
from agent_worker.fitting import fitted
from agent_worker.happenings import Answered, FellBack, Happening, Proposed, Repairing, Retrying, Step, StepEnded, Token
from agent_worker.history import History
from agent_worker.intents import RunIntents
from agent_worker.loop import AgentLoop
from agent_worker.metrics import FALLBACKS
from agent_worker.obstacles import Obstacle
from agent_worker.progress import RunLog
from agent_worker.repository import RunRepository
from agent_worker.stopping import StopReason
from agent_worker.summarizing import Summarizer
from agent_worker.telling import event_of, started, taken_over
from agent_worker.undertaking import ApprovalExpiredError
from common.contracts import RunFinished, TaskSubmitted
from common.contracts.base import now
from common.contracts.events import EventId
from common.contracts.runs import Fallback, Routing, RunError, TerminalStatus
from common.contracts.usage import Usage
from common.messaging.publisher import Publisher
from common.messaging.settlement import Disposition

_log = structlog.get_logger(__name__)
# A broker message holds a MiB: a step that has more to say is made durable in parts.
_DURABLE_AT_BYTES = 128 * 1024
_GIVE_BACK_SECONDS = 3.0


class Run:
    """A run that this worker holds."""

    def __init__(
        self,
        task: TaskSubmitted,
        acquired: Acquired,
        agent_loop: AgentLoop,
        routing: Routing | None,
        timeout: float,
        accounts: RunAccounts,
        checkpoint: Checkpoint,
        log: RunLog,
        repository: RunRepository,
        publisher: Publisher,
    ) -> None:
        self.task = task
        self.log = log
        self.fence = acquired.fence
        self.lease = acquired.lease
        self._acquired = acquired
        self._loop = agent_loop
        self._routing = routing
        self._fallbacks = checkpoint.fallbacks
        self._timeout = timeout
        self._accounts = accounts
        self._checkpoint = checkpoint
        self._repository = repository
        self._publisher = publisher
        self._step_began = checkpoint.stands_until
        self._working: asyncio.Task[Ending] | None = None
        self.ended = False
        """Its work is over; its end may not be decided yet."""
        self.given_back = False
        """Its lease is not to be renewed."""
        self._stop_reason: StopReason | None = None
        self._obstacle: Obstacle | None = None
        self.settles_as = Disposition.DONE
        """What becomes of its delivery once its end is published."""

    def park(self, obstacle: Obstacle) -> None:
        """Cut the run, and let it wait without a slot until the obstacle is gone; it goes on after its last step."""
        if self._obstacle is None:
            self._obstacle = obstacle
            self.stop(StopReason.PARKED)

    def stop(self, reason: StopReason) -> None:
        """Cut the run at whatever it awaits, but for what is being made durable. The first reason counts."""
        if self._stop_reason is None:
            self._stop_reason = reason
            if self._working is not None:
                self._working.cancel()

    async def execute(self) -> RunFinished | Disposition:
        """Run to the end, and decide it; else, where the run goes on later, what is to become of its delivery."""
        self._begin()
        self._working = asyncio.create_task(self._work(), name=f"run:{self.task.task_id}")
        if self._stop_reason is not None:
            self._working.cancel()
        # Not `asyncio.timeout`: a run is cancelled once at most, so that a second time means that nobody can wait.
        left = self._timeout - self._acquired.passed(self._timeout)
        alarm = asyncio.get_running_loop().call_later(left, self.stop, StopReason.TIMED_OUT)
        try:
            ending = await self._outcome(self._working)
        finally:
            alarm.cancel()
            self.ended = True
            self._working.cancel()
        if self._stop_reason is StopReason.LOST:
            return Disposition.RETURN
        if ending is None and self._stop_reason is StopReason.DRAINING:
            await self._give_back()
            return Disposition.RETURN
        if ending is None and self._stop_reason is StopReason.DEFERRED:
            await self._give_back(deferred=True)
            return Disposition.RETRY
        if ending is None and self._obstacle is not None and self._stop_reason is StopReason.PARKED:
            return await self._wait_for(self._obstacle)
        return await self._finish(ending or self._cut_short()) or Disposition.RETURN

    @property
    def _model(self) -> str:
        """The one that is asked now."""
        return self._loop.serving.model.name

    def _cut_short(self) -> Ending:
        if self._stop_reason is StopReason.TIMED_OUT:
            return self._failed(RunError(type="timeout", message=f"the run took longer than {self._timeout:g} s"))
        return CANCELLED

    async def _outcome(self, working: asyncio.Task[Ending]) -> Ending | None:
        """How the run ended; None where it was stopped."""
        try:
            return await working
        except asyncio.CancelledError:
            if self._stop_reason is None:  # it is this task that was cancelled, not the run
                raise
        except CancelRequestedError:
            self._stop_reason = StopReason.CANCELLED
        except RunLostError:
            self._stop_reason = StopReason.LOST
        except (ApprovalNeededError, ParkedForBudgetError) as waits:
            self.park(waits.obstacle)
        except DeferredError as later:
            self.log.emit("status", waiting_event(self._checkpoint.next_step, later))
            self.stop(StopReason.DEFERRED)
        return None

    def _begin(self) -> None:
        if self.fence == 1:
            self.log.emit("start", started(self.task.agent, self._model, self._routing))
            self._step_began = self.log.last_id
            return
        self.log.emit("reset", taken_over(self._checkpoint.stands_until, self._acquired.attempts, self._model))

    async def _work(self) -> Ending:
        try:
            return await self._loop_through()
        except ApprovalExpiredError:
            return self._failed(APPROVAL_EXPIRED, "expired")
        except FAILURES as error:
            told, self.settles_as = final(error, self._model, self._acquired)
            return self._failed(told)
        finally:  # however it ended, and before that is decided
            await undisturbed(self._accounts.confirmed())

    def _failed(self, error: RunError, status: TerminalStatus = "failed") -> Ending:
        self.log.emit("error", error.model_dump())
        return Ending(status, error=error)

    async def _loop_through(self) -> Ending:
        asked = conversing.asked(self.task)
        history, used = await self._recalled(self._loop.room(asked))
        kept = self._checkpoint
        passed = self._acquired.passed(self._timeout)
        turns = (*asked, *kept.turns)
        intents = RunIntents(self._repository, self.task.task_id, self.fence, self.lease, self._make_durable)
        step, proposal, said = kept.next_step, taken_up(kept), kept.said_bytes
        used = kept.usage + used
        happenings = self._loop.run(turns, step, history, used, passed, proposal, kept.repaired, said, intents)
        async with aclosing(happenings):
            async for happening in happenings:
                if isinstance(happening, Answered):
                    return Ending("completed", happening.step, happening.text, happening.stop_reason)
                if isinstance(happening, Proposed):
                    raise ApprovalNeededError(proposal_of(happening, self._loop.tools))
                await self._observe(happening)
                if self.log.bytes_not_durable > _DURABLE_AT_BYTES:
                    await undisturbed(self._make_durable())
        raise AssertionError("the loop ended without an answer")

    async def _recalled(self, room: int) -> tuple[History, Usage]:
        """What was said before, in so many tokens, and what was used to sum up the rest."""
        if self.task.conversation_id is None or (served := self._loop.summarizing) is None:
            return await conversing.history(self.task, room, self._repository), Usage()
        step, accounts = self._checkpoint.next_step, self._accounts
        return await Summarizer(self.task, self.fence, step, served, self._repository, accounts, self.log).history(room)

    async def _observe(self, happening: Happening) -> None:
        if isinstance(happening, Token):
            self.log.token(happening.text)
            return
        if isinstance(happening, FellBack):
            self._fall_back(happening.fallback)
        if isinstance(happening, Retrying | FellBack) and happening.asked:
            self._reset(happening.reason, happening.delay)
        if isinstance(happening, Repairing):
            self._reset("response_does_not_match", 0.0)
        if isinstance(happening, StepEnded):
            # A step that is finished is worth its model call: it is kept even where the run is cut at this moment.
            await undisturbed(self._end_step(happening.step))
        if (event := event_of(happening)) is not None:
            self.log.emit(*event)

    def _fall_back(self, fallback: Fallback) -> None:
        self._fallbacks = (*self._fallbacks, fallback)
        FALLBACKS.labels(fallback.from_model, fallback.to_model, fallback.reason).inc()
        _log.warning("run.fell_back", task_id=str(self.task.task_id), **fallback.model_dump())

    def _reset(self, reason: str, delay: float) -> None:
        after = self._step_began and str(self._step_began)
        self.log.emit("reset", {"after": after, "reason": reason, "retry_in": round(delay, 3)})

    async def _end_step(self, step: Step) -> None:
        self.log.emit("status", {"status": "running", "step": step.number + 1})
        last_id = await self._make_durable()
        self._checkpoint.add(step, last_id)
        self._step_began = last_id

    async def _make_durable(self) -> EventId:
        last_id = await make_durable(self.log, self.task, self._checkpoint.next_step, self._publisher)
        await self._accounts.confirmed()
        return last_id

    async def _finish(self, ending: Ending) -> RunFinished | None:
        finished = fitted(self._finished(ending))
        outcome, exchange = finished.encode(), conversing.exchange(self.task, self._checkpoint, ending)
        decided = await until_available(
            lambda: self._repository.finish(
                self.task.task_id, self.fence, ending.status, outcome, finished.finished_at, exchange
            )
        )
        return finished if decided else None

    def _finished(self, ending: Ending) -> RunFinished:
        finished_at = now()
        self.log.emit("done", done_data(ending, self._accounts.used), finished_at)
        return RunFinished(
            task_id=self.task.task_id,
            tenant_id=self.task.tenant_id,
            tier=self.task.tier,
            fence=self.fence,
            status=ending.status,
            output=ending.output,
            cached=ending.cached,
            structured=ending.output is not None and self.task.response_schema is not None,
            error=ending.error,
            usage=self._accounts.used,
            provider=self._loop.serving.model.provider,
            model=self._model,
            routing=self._routing,
            fallbacks=self._fallbacks,
            steps=ending.step.number if ending.step else self._checkpoint.next_step - 1,
            attempts=self._acquired.attempts,
            messages=self._checkpoint.messages(ending.step),
            events=self.log.not_durable(),
            started_at=self._acquired.started_at,
            finished_at=finished_at,
        )

    async def _wait_for(self, obstacle: Obstacle) -> Disposition:
        """Park the run. Its message is published again when it is woken."""
        self.log.emit("status", obstacle.told())
        told = self.log.not_durable()[-1]
        await self._make_durable()
        park = partial(self._repository.park, self.task, self.fence, obstacle, told, self._checkpoint.unsaved)
        return Disposition.DONE if await until_available(park) else Disposition.RETURN

    async def _give_back(self, *, deferred: bool = False) -> None:
        """Save the step that is finished, and let another worker go on: at once, or when it comes again."""
        self.given_back = True
        release = partial(self._repository.release, self.task.task_id, self.fence, self._checkpoint.unsaved)
        try:
            async with asyncio.timeout(_GIVE_BACK_SECONDS):
                await until_available(lambda: release(deferred=deferred))
        except TimeoutError:  # another worker takes it when its lease has run out
            _log.warning("run.not_released", task_id=str(self.task.task_id))
