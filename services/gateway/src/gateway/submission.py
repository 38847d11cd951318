"""A task on its way in: checked, admitted, published, answered. One confirmed publish is the commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter
from uuid import UUID

import structlog
from starlette.requests import Request

from common.catalogue import Catalogue
from common.errors import BrokerUnavailable, LaneFull, StoreUnavailable, Unavailable
from common.messaging.publisher import Publisher
from common.messaging.topology import TASKS
from gateway import problems
from gateway.admission import Admission, Decision, Outcome
from gateway.background import Background
from gateway.failures import invalid_field
from gateway.metrics import Metrics
from gateway.plan_features import check_plan
from gateway.principals import Principal, Principals
from gateway.requests import idempotency_key, no_store, read_task
from gateway.schemas import TaskRequest, check_catalogue
from gateway.tasks import Submitted, Tasks
from gateway.tickets import Ticket, ticket_for
from gateway.timing import check_times
from gateway.tracing import Tracing

_log = structlog.get_logger(__name__)

# The client hears something within 3 s, whatever is down.
_DEADLINE_SECONDS = 2.7

NOTHING = "Nothing was accepted: a retry is safe."
_UNKNOWN = "The task may have been accepted: retry with the same Idempotency-Key, and it is the same task."


@dataclass(frozen=True, slots=True)
class Receipt:
    """The answer to a submission."""

    tenant_id: UUID
    task_id: UUID
    status: int
    body: bytes
    headers: Mapping[str, str]


class Submissions:
    """Takes tasks in."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        principals: Principals,
        admission: Admission,
        publisher: Publisher,
        tasks: Tasks,
        background: Background,
        metrics: Metrics,
        tracing: Tracing,
    ) -> None:
        self._catalogue = catalogue
        self._ranks = {name: rank for rank, name in enumerate(catalogue.tier_names)}
        self._principals = principals
        self._admission = admission
        self._publisher = publisher
        self._tasks = tasks
        self._background = background
        self._metrics = metrics
        self._tracing = tracing

    async def receive(self, request: Request, *, streamed: bool = False) -> Receipt:
        """Take the task of a request in; `streamed`: its client waits for it. Raises `Problem`."""
        clock = asyncio.get_running_loop().time
        began = clock()
        async with within(_DEADLINE_SECONDS, at_deadline=NOTHING):
            principal = await self._principals.authenticate(request.headers.get("authorization"))
        left = _DEADLINE_SECONDS - (clock() - began)
        key, fresh = idempotency_key(request), no_store(request)
        # As long as the client takes to send it: that time is not ours.
        asked = await read_task(request)
        if streamed and asked.not_before is not None:
            raise invalid_field("not_before", "is for tasks that nobody waits for: submit it to /v1/tasks")
        with self._tracing.receiving(request.headers):
            async with within(left, at_deadline=_UNKNOWN):
                return await self._submit(principal, asked, key, fresh)

    async def _submit(self, principal: Principal, request: TaskRequest, key: str | None, fresh: bool) -> Receipt:
        check_catalogue(request, self._catalogue)
        tier = await self.entitled(principal, request)
        if not self._publisher.ready:
            raise BrokerUnavailable("RabbitMQ is not connected")
        ticket = ticket_for(principal.tenant_id, request, tier, key, principal.allowed_models, no_store=fresh)
        decision = await self._admission.admit(principal, ticket.candidate)
        self._metrics.admissions.labels(tier, decision.outcome.value).inc()
        if decision.outcome is Outcome.ADMITTED:
            return await self._enter(principal, ticket, decision)
        if decision.outcome is Outcome.UNCONFIRMED:
            return await self._publish_again(principal, ticket, decision, decision.answer)
        if decision.outcome is Outcome.REPEATED:
            return _receipt(ticket, decision, 200, decision.answer)
        raise refusal(decision, principal)

    async def entitled(self, principal: Principal, request: TaskRequest) -> str:
        """The tier that a task gets. Raises `Problem` where it asks for what its plan, or its user, may not have."""
        check_plan(request, principal, self._catalogue)
        own = await self._principals.tier(principal, request.user_id)
        if request.tier is None:
            return own
        if request.tier not in self._ranks:
            raise invalid_field("tier", f"there is no tier {request.tier!r}")
        if self._ranks[request.tier] < self._ranks.get(own, len(self._ranks)):
            raise problems.FORBIDDEN.problem(f"The tier {request.tier!r} is above this user's tier {own!r}.")
        return request.tier

    async def _enter(self, principal: Principal, ticket: Ticket, decision: Decision) -> Receipt:
        try:
            earlier = await self._recorded(principal, ticket, decision)
            if earlier is None:
                await self._publish(principal, ticket, decision, ticket.candidate.answer)
                return _receipt(ticket, decision, 202, ticket.candidate.answer)
            if not earlier.taken:
                # The record has its copy of what the lane refused, too: only a run shows that the lane had it.
                return await self._publish_again(principal, ticket, decision, earlier.answer)
        except asyncio.CancelledError:
            self._undo(principal, ticket, decision)
            raise
        except Exception:
            await self._undone(principal, ticket, decision)
            raise
        await self._undone(principal, ticket, decision)
        return _receipt(ticket, decision, 200, earlier.answer)

    async def _recorded(self, principal: Principal, ticket: Ticket, decision: Decision) -> Submitted | None:
        """The same request of long ago. Raises `Problem` where the key was another request's."""
        if not ticket.candidate.keyed:
            return None
        try:
            submitted = await self._tasks.submitted(principal.tenant_id, ticket.task_id)
        except StoreUnavailable as error:
            if not decision.recorded:
                raise
            # Redis answered, and knows of no earlier use: the database would only have told of older ones.
            _log.info("submission.unchecked", error=repr(error))
            return None
        if submitted is not None and submitted.request_hash != ticket.candidate.request_hash:
            raise problems.CONFLICT.problem(problems.CONFLICT.detail)
        return submitted

    async def _publish_again(self, principal: Principal, ticket: Ticket, decision: Decision, answer: bytes) -> Receipt:
        """Publish what may have been published before, as the same message: of two, only one is ever run."""
        await self._publish(principal, ticket.as_answered(answer), decision, answer)
        return _receipt(ticket, decision, 200, answer)

    async def _publish(self, principal: Principal, ticket: Ticket, decision: Decision, answer: bytes) -> None:
        check_times(ticket.request, ticket.at)
        began = perf_counter()
        message = ticket.message(decision.level)
        try:
            with self._tracing.publishing(ticket.task_id, ticket.tier):
                await self._publisher.publish(
                    TASKS,
                    ticket.tier,
                    message,
                    subject=ticket.task_id,
                    stable_id=str(ticket.task_id),
                    priority=decision.level,
                )
        except BrokerUnavailable as error:
            raise self._unpublished(ticket, error) from error
        self._metrics.publishing.observe(perf_counter() - began)
        if ticket.candidate.keyed:
            self._background.start(self._admission.accept(principal, ticket.candidate, answer), "admission.accept")

    def _unpublished(self, ticket: Ticket, error: BrokerUnavailable) -> problems.Problem:
        if not isinstance(error, LaneFull):
            self._metrics.admissions.labels(ticket.tier, "unconfirmed_publish").inc()
            return problems.unavailable(_UNKNOWN)
        self._metrics.admissions.labels(ticket.tier, "lane_full").inc()
        if not ticket.candidate.keyed:
            self._background.start(self._refuse(ticket), "submission.refuse")
        return problems.LANE_FULL.problem(problems.LANE_FULL.detail, headers=problems.COME_AGAIN)

    async def _refuse(self, ticket: Ticket) -> None:
        """End a task that nobody can ask for again: no key leads to it. Best effort."""
        try:
            await self._tasks.refuse(ticket.tenant_id, ticket.refused())
        except StoreUnavailable as error:
            _log.warning("submission.not_refused", task_id=str(ticket.task_id), error=repr(error))

    def _undo(self, principal: Principal, ticket: Ticket, decision: Decision) -> asyncio.Task[None] | None:
        if not decision.recorded:
            return None
        return self._background.start(self._admission.undo(principal, ticket.candidate), "admission.undo")

    async def _undone(self, principal: Principal, ticket: Ticket, decision: Decision) -> None:
        undo = self._undo(principal, ticket, decision)
        if undo is not None:
            await asyncio.shield(undo)


@asynccontextmanager
async def within(seconds: float, *, at_deadline: str) -> AsyncIterator[None]:
    """A part of a submission that has a deadline. Raises `Problem`, with what is true then of what was asked."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise problems.unavailable(at_deadline) from error
    except Unavailable as error:
        raise problems.unavailable(NOTHING) from error


def _receipt(ticket: Ticket, decision: Decision, status: int, body: bytes) -> Receipt:
    headers = decision.headers()
    headers["Location"] = f"/v1/tasks/{ticket.task_id}"
    return Receipt(ticket.tenant_id, ticket.task_id, status, body, headers)


def refusal(decision: Decision, principal: Principal) -> problems.Problem:
    """The problem for what admission did not let in."""
    headers = decision.headers() | {"Retry-After": str(decision.reset_seconds)}
    if decision.outcome is Outcome.CONFLICT:
        return problems.CONFLICT.problem(problems.CONFLICT.detail)
    if decision.outcome is Outcome.RATE_LIMITED:
        detail = f"The plan allows {principal.requests_per_minute} requests per minute."
        return problems.RATE_LIMITED.problem(detail, headers=headers)
    detail = f"{principal.max_outstanding} tasks may be outstanding: submit again when some have ended, or cancel some."
    return problems.TOO_MANY_OUTSTANDING.problem(detail, headers=headers)
