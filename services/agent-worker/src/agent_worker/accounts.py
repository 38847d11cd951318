"""The leave to make a model call, and the account of it: PostgreSQL before, the usage record on RabbitMQ after."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar
from uuid import UUID

import structlog

from agent_worker.budgets import PATIENCE, Patience, consider
from agent_worker.checkpoint import Checkpoint
from agent_worker.cutting import undisturbed
from agent_worker.leave import CallRequest, Leave
from agent_worker.limiter.provider_limits import CallLimit, Unlimited
from agent_worker.limiter.shared import Reservation
from agent_worker.progress import RunLog
from agent_worker.providers.base import CallMeter, RateLimits
from agent_worker.repository import RunRepository
from agent_worker.resilience.chain import Served
from common.catalogue import Model
from common.contracts import TaskSubmitted, UsageRecorded
from common.contracts.base import now
from common.contracts.identifiers import attempt_id
from common.contracts.usage import Usage
from common.errors import BrokerUnavailable, StoreUnavailable
from common.messaging.publisher import Publisher
from common.messaging.topology import EVENTS

_log = structlog.get_logger(__name__)
_PAUSES = (0.05, 0.2, 0.5, 1.0, 2.0)
# Between two looks at holds that are in the way; a wait that comes to the longest is told to the client.
_FIRST_LOOK_SECONDS = 0.02
_LONGEST_LOOK_SECONDS = 1.0
T = TypeVar("T")


class RunLostError(Exception):
    """Another worker holds the fence: nothing that this one still does may count."""


class CancelRequestedError(Exception):
    """The run's cancel was asked for."""


class UnpricedModelError(Exception):
    """The model has no price, so no call of it can be held against a cap."""


class ModelNotAllowedError(Exception):
    """The tenant's plan does not have the model."""

    def __init__(self, model: str, leave: Leave) -> None:
        super().__init__(f"the plan does not allow the model {model}; it allows {', '.join(leave.allowed or ())}")


async def until_available(action: Callable[[], Awaitable[T]]) -> T:
    """Repeat an action that is safe to repeat until its server answers; the caller's deadline bounds it."""
    attempt = 0
    while True:
        try:
            return await action()
        except (StoreUnavailable, BrokerUnavailable) as error:
            pause = _PAUSES[min(attempt, len(_PAUSES) - 1)]
            _log.warning("run.waits_for_server", error=str(error), seconds=pause)
            attempt += 1
            await asyncio.sleep(pause)


class RunAccounts:
    """The `Calls` of one run (see `agent_worker.calls`)."""

    def __init__(
        self,
        task: TaskSubmitted,
        fence: int,
        calls: int,
        repository: RunRepository,
        publisher: Publisher,
        checkpoint: Checkpoint,
        events: RunLog,
        limit_of: Callable[[Model], CallLimit] = Unlimited.of,
        patience: Patience = PATIENCE,
    ) -> None:
        """`calls` have been made in earlier acquisitions; `limit_of` a model is what this run keeps to with it."""
        self._task = task
        self._fence = fence
        self._calls = calls
        self._repository = repository
        self._publisher = publisher
        self._checkpoint = checkpoint
        self._events = events
        self._limit_of = limit_of
        self._patience = patience
        self._limit: CallLimit = Unlimited()
        self._model: Model | None = None
        self._reservation = Reservation(0.0)
        self._held: UUID | None = None
        self._recording: list[asyncio.Task[None]] = []
        self.used = checkpoint.used
        """What the finished steps and this acquisition's calls used, those that were cut included."""

    async def begin(self, step: int, served: Served, input_bound: int, input_estimate: int) -> UUID:
        """Take leave for one call: of the provider's limit, then the hold, the fence and the checkpoint at once."""
        self._calls += 1
        self._model = served.model
        self._limit = self._limit_of(served.model)
        attempt = attempt_id(self._task.task_id, step, self._calls)
        request = self._request(attempt, step, served, input_bound, input_estimate)
        try:
            _raise_unless_held(await self._leave(request, input_estimate + served.max_output_tokens), served.model.name)
        except asyncio.CancelledError:
            self._limit.give_back(self._reservation)
            if self._held == attempt:  # the hold was taken, for a call that will not be made
                self.record(attempt, step, CallMeter(refused=True))
            raise
        return attempt

    async def begin_known(self, step: int, served: Served) -> None:
        """See `Calls.begin_known`. The fence is checked and the step before is saved, as for any call."""
        _raise_unless_held(await undisturbed(self._ask(self._request(None, step, served, 0, 0))), served.model.name)
        self.used = self.used + Usage(cached_calls=1)

    def _request(
        self, attempt: UUID | None, step: int, served: Served, input_bound: int, input_estimate: int
    ) -> CallRequest:
        return CallRequest(
            attempt,
            step,
            self._calls,
            self._task.user_id,
            served.model.provider,
            served.model.name,
            input_bound,
            served.max_output_tokens,
            self._task.max_cost_usd,
            self._task.conversation_id,
            input_estimate,
        )

    def heard(self, limits: RateLimits) -> None:
        """See `Calls.heard`."""
        self._limit.heed(limits)

    async def _leave(self, request: CallRequest, tokens: int) -> Leave:
        """The answer, once the provider's limit has room and no open hold is in the way.

        A hold that would wait for the limit would keep the tenant's other runs out, and what was drawn from the limit
        other tenants' calls: so nothing is kept of the one while the other is waited for. The limit fills, so that wait
        has no limit but the run's own time; how long the other is, and where, is as the task asked (see `budgets`).
        """
        pause, told = _FIRST_LOOK_SECONDS, False
        while True:
            self._reservation = await self._limit.reserve(tokens, lambda: self._tell_of_limit(request))
            leave = await undisturbed(self._ask(request))
            if leave.verdict == "held":
                return leave
            self._limit.give_back(self._reservation)
            if leave.verdict not in ("wait", "exceeded"):
                return leave
            consider(leave, self._task.on_budget_exhausted, self._task.max_cost_usd, self._patience, now())
            if pause >= _LONGEST_LOOK_SECONDS and not told:
                self._tell_of_wait(request.step, leave)
                told = True
            await asyncio.sleep(pause)
            pause = min(_LONGEST_LOOK_SECONDS, pause * 2)

    def _tell_of_limit(self, request: CallRequest) -> None:
        task_id = str(self._task.task_id)
        _log.info("run.waits_for_provider", task_id=task_id, provider=request.provider, model=request.model)
        self._events.emit("status", {"status": "running", "step": request.step, "waiting_for": "provider"})

    def _tell_of_wait(self, step: int, leave: Leave) -> None:
        _log.info("run.waits_for_holds", task_id=str(self._task.task_id), scope=leave.scope)
        waiting = {"status": "running", "step": step, "waiting_for": "holds", "scope": leave.scope}
        self._events.emit("status", waiting)

    async def _ask(self, request: CallRequest) -> Leave:
        await self.confirmed()
        saved = self._checkpoint.unsaved
        leave = await until_available(
            lambda: self._repository.begin_call(self._task.tenant_id, self._task.task_id, self._fence, request, saved)
        )
        if leave.verdict != "fenced":
            self._checkpoint.saved()
        if leave.verdict == "held":
            self._held = request.attempt_id
        return leave

    def record(self, attempt: UUID, step: int, meter: CallMeter) -> None:
        """Begin to publish what the call used (see `confirmed`)."""
        assert self._model is not None  # noqa: S101 - no call is recorded that was not begun
        self._limit.settle(self._reservation, meter)
        self.used = self.used + meter.usage
        record = UsageRecorded(
            attempt_id=attempt,
            task_id=self._task.task_id,
            tenant_id=self._task.tenant_id,
            user_id=self._task.user_id,
            agent=self._task.agent,
            provider=self._model.provider,
            model=self._model.name,
            step=step,
            call=self._calls,
            fence=self._fence,
            usage=meter.usage,
            estimated=meter.estimated,
            unanswered=meter.unanswered,
            provider_request_id=meter.request_id,
            metadata=self._task.metadata,
            recorded_at=now(),
        )
        publish = partial(self._publisher.publish, EVENTS, record.kind, record, subject=record.task_id)
        recording = until_available(partial(publish, stable_id=str(record.attempt_id)))
        self._recording.append(asyncio.create_task(recording, name=f"usage:{record.attempt_id}"))

    async def confirmed(self) -> None:
        """Wait until the broker has what all calls used that are over: nothing that follows is durable before.

        Tools that change nothing run meanwhile, and the events of the step are on their way.
        """
        while self._recording:
            await self._recording[0]
            del self._recording[:1]


def _raise_unless_held(leave: Leave, model: str) -> None:
    if leave.verdict == "fenced":
        raise RunLostError
    if leave.verdict == "cancelled":
        raise CancelRequestedError
    if leave.verdict == "unpriced":
        raise UnpricedModelError
    if leave.verdict == "not_allowed":
        raise ModelNotAllowedError(model, leave)
