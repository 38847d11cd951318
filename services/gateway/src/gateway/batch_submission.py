"""A batch on its way in: checked whole, admitted whole, published task by task, answered with what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from starlette.requests import Request

from common.catalogue import Catalogue
from common.contracts import RunFinished
from common.errors import BrokerUnavailable, StoreUnavailable
from gateway import problems
from gateway.admission import Outcome
from gateway.background import Background
from gateway.batch_admission import BatchAdmission, BatchDecision
from gateway.batch_publishing import ENDS, REASONS, BatchPublisher, Fate, Sending
from gateway.batch_records import Batches
from gateway.batch_schemas import ItemError, read_batch, refused
from gateway.batch_tickets import BatchTicket, batch_links, batch_ticket
from gateway.metrics import Metrics
from gateway.principals import Principal, Principals
from gateway.problems import Problem
from gateway.requests import idempotency_key, no_store
from gateway.schemas import TaskRequest
from gateway.submission import NOTHING, Submissions, refusal, within
from gateway.tasks import Tasks
from gateway.timing import check_times
from gateway.tracing import Tracing

_log = structlog.get_logger(__name__)

_DECIDE_SECONDS = 2.7
# Bodies of batches are large, and checking them keeps a process busy.
_AT_A_TIME = 4
_LOOK_UPS = 8
_UNKNOWN = "Tasks of the batch may have been accepted, and `batch` says which."
_SAME = " Retry with the same Idempotency-Key, and it is the same batch."
_LOOK = " Read the batch at its own address before you submit any of them again."


@dataclass(frozen=True, slots=True)
class BatchReceipt:
    """The answer to a batch."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class BatchSubmissions:
    """Takes batches in."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        principals: Principals,
        single: Submissions,
        admission: BatchAdmission,
        publisher: BatchPublisher,
        batches: Batches,
        tasks: Tasks,
        background: Background,
        metrics: Metrics,
        tracing: Tracing,
    ) -> None:
        self._catalogue = catalogue
        self._principals = principals
        self._single = single
        self._admission = admission
        self._publisher = publisher
        self._batches = batches
        self._tasks = tasks
        self._background = background
        self._metrics = metrics
        self._tracing = tracing
        self._turns = asyncio.Semaphore(_AT_A_TIME)

    async def receive(self, request: Request) -> BatchReceipt:
        """Take the batch of a request in. Raises `Problem`."""
        async with within(_DECIDE_SECONDS, at_deadline=NOTHING):
            principal = await self._principals.authenticate(request.headers.get("authorization"))
        key, fresh = idempotency_key(request), no_store(request)
        await request.body()  # as long as the client takes to send it
        async with within(_DECIDE_SECONDS, at_deadline=NOTHING):
            await self._turns.acquire()
        try:
            asked = await read_batch(request, self._catalogue)
            with self._tracing.receiving(request.headers):
                return await self._submit(principal, asked, key, fresh)
        finally:
            self._turns.release()

    async def _submit(
        self, principal: Principal, asked: Sequence[TaskRequest], key: str | None, fresh: bool
    ) -> BatchReceipt:
        async with within(_DECIDE_SECONDS, at_deadline=NOTHING):
            tiers = await self._tiers(principal, asked)
            if not self._publisher.ready:
                raise BrokerUnavailable("RabbitMQ is not connected")
        pairs = list(zip(asked, tiers, strict=True))
        ticket = batch_ticket(principal.tenant_id, pairs, key, principal.allowed_models, no_store=fresh)
        admitted = await self._admission.admit(principal, ticket)
        outcome = admitted.decision.outcome
        self._metrics.batches.labels(outcome.value).inc()
        if outcome in (Outcome.ADMITTED, Outcome.UNCONFIRMED, Outcome.REPEATED):
            return await self._enter(ticket, admitted)
        raise refusal(admitted.decision, principal)

    async def _tiers(self, principal: Principal, asked: Sequence[TaskRequest]) -> list[str]:
        """The tier of each task. Raises `Problem` for all that may not have the one they ask for."""
        gate = asyncio.Semaphore(_LOOK_UPS)

        async def own(user: str | None) -> None:
            async with gate:
                await self._principals.tier(principal, user)

        # Looked up side by side first, each user once: in their order they are known then.
        await asyncio.gather(*(own(user) for user in {request.user_id for request in asked}))
        tiers: list[str] = []
        errors: list[ItemError] = []
        for index, request in enumerate(asked):
            try:
                tiers.append(await self._single.entitled(principal, request))
            except Problem as problem:
                first = problem.errors[0] if problem.errors else {"field": "tier", "reason": problem.detail}
                errors.append((index, ("tasks", str(index), first["field"]), first["reason"]))
        if errors:
            raise refused(errors, len(errors), len(asked))
        return tiers

    async def _enter(self, ticket: BatchTicket, admitted: BatchDecision) -> BatchReceipt:
        fresh, asked_at = frozenset(range(len(ticket.tasks))) - admitted.accepted, ticket.at
        try:
            async with within(_DECIDE_SECONDS, at_deadline=NOTHING):
                ticket, confirmed = await self._as_before(ticket, admitted)
            _check_times(ticket, confirmed)
        except asyncio.CancelledError:
            self._settle(ticket, admitted, frozenset(), fresh)
            raise
        except Exception:
            if (undoing := self._settle(ticket, admitted, frozenset(), fresh)) is not None:
                await asyncio.shield(undoing)
            raise
        sending = Sending(ticket, admitted.levels, dict.fromkeys(confirmed, Fate.ACCEPTED))
        try:
            await self._publisher.publish(sending)
        finally:
            accepted = frozenset(place for place, fate in sending.fates.items() if fate is Fate.ACCEPTED)
            # What the record knew to be taken was admitted once more, for Redis had forgotten it.
            returned = fresh & confirmed | fresh - accepted
            unknown = frozenset(place for place, fate in sending.fates.items() if fate is Fate.UNKNOWN)
            settling = self._settle(ticket, admitted, accepted, returned, unknown)
        if settling is not None and returned:
            await asyncio.shield(settling)
        if ticket.key is None:
            self._refuse(sending)
        first = admitted.decision.outcome is Outcome.ADMITTED and ticket.at == asked_at
        return _receipt(sending, admitted, first=first)

    async def _as_before(self, ticket: BatchTicket, admitted: BatchDecision) -> tuple[BatchTicket, frozenset[int]]:
        """The batch as it came first, if it did, and which of its tasks were accepted then. Raises `Problem`."""
        confirmed = admitted.accepted
        if admitted.submitted_at is not None:
            ticket = ticket.as_submitted(admitted.submitted_at)
        if ticket.key is None or admitted.decision.outcome is Outcome.REPEATED:
            return ticket, confirmed
        try:
            recorded = await self._batches.recorded(ticket.tenant_id, ticket.id)
        except StoreUnavailable as error:
            if not admitted.decision.recorded:
                raise
            _log.info("batch.unchecked", error=repr(error))
            return ticket, confirmed
        for place, task in recorded.items():
            if task.size != len(ticket.tasks) or task.request_hash != ticket.tasks[place].candidate.request_hash:
                raise problems.CONFLICT.problem(problems.CONFLICT.detail)
            if ticket.at != task.batch_submitted_at:
                ticket = ticket.as_submitted(task.batch_submitted_at)
        # As with a single task: the record has its copy of what a lane refused, too.
        return ticket, confirmed | {place for place, task in recorded.items() if task.taken}

    def _settle(
        self,
        ticket: BatchTicket,
        admitted: BatchDecision,
        accepted: frozenset[int],
        returned: frozenset[int],
        unknown: frozenset[int] = frozenset(),
    ) -> asyncio.Task[None] | None:
        if not admitted.decision.recorded or not (
            returned or (accepted - admitted.accepted and ticket.key is not None)
        ):
            return None
        return self._background.start(self._admission.settle(ticket, accepted, returned, unknown), "admission.settle")

    def _refuse(self, sending: Sending) -> None:
        """End what nobody can ask for again, as no key leads to it: so the batch comes to an end. Best effort."""
        tasks = sending.ticket.tasks
        ends = [tasks[place].refused(ENDS[fate]) for place, fate in sending.fates.items() if fate in ENDS]
        if ends:
            self._background.start(self._refuse_each(sending.ticket, ends), "batch.refuse")

    async def _refuse_each(self, ticket: BatchTicket, ends: Sequence[RunFinished]) -> None:
        try:
            await self._tasks.refuse_each(ticket.tenant_id, ends)
        except StoreUnavailable as error:
            _log.warning("batch.not_refused", batch_id=str(ticket.id), tasks=len(ends), error=repr(error))


def _receipt(sending: Sending, admitted: BatchDecision, *, first: bool) -> BatchReceipt:
    ticket, fates = sending.ticket, set(sending.fates.values())
    if not fates & {Fate.ACCEPTED, Fate.UNKNOWN}:
        if Fate.REFUSED in fates:
            raise problems.LANE_FULL.problem(problems.LANE_FULL.detail, headers=problems.COME_AGAIN)
        raise problems.unavailable(NOTHING)
    complete = fates == {Fate.ACCEPTED}
    document = {
        "id": ticket.id,
        "created_at": ticket.at,
        "size": len(ticket.tasks),
        "complete": complete,
        "tasks": [_task(sending, place) for place in range(len(ticket.tasks))],
        "links": batch_links(ticket.id),
    }
    headers = admitted.decision.headers() | {"Location": f"/v1/batches/{ticket.id}"}
    if Fate.ACCEPTED not in fates:
        detail = _UNKNOWN + (_LOOK if ticket.key is None else _SAME)
        raise problems.unavailable(detail, headers=headers, members={"batch": document})
    if not complete:
        return BatchReceipt(207, orjson.dumps(document), headers | problems.COME_AGAIN)
    return BatchReceipt(202 if first else 200, orjson.dumps(document), headers)


def _check_times(ticket: BatchTicket, confirmed: frozenset[int]) -> None:
    """As with a single task: what was accepted before stays so, however long ago. Raises `Problem`."""
    errors: list[ItemError] = []
    for place, task in enumerate(ticket.tasks):
        try:
            if place not in confirmed:
                check_times(task.request, task.at)
        except Problem as problem:
            errors += [(place, ("tasks", str(place), one["field"]), one["reason"]) for one in problem.errors or ()]
    if errors:
        raise refused(errors, len({index for index, *_ in errors}), len(ticket.tasks))


def _task(sending: Sending, place: int) -> dict[str, Any]:
    fate = sending.fates[place]
    task = sending.ticket.tasks[place]
    said = {"index": place, "id": task.task_id, "tier": task.tier, "status": fate.value}
    return said if fate is Fate.ACCEPTED else said | {"reason": REASONS[fate]}
