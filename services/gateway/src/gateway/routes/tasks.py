"""`/v1/tasks`: submit, read, list, cancel."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from common.contracts.runs import Status
from common.errors import CacheUnavailable, Unavailable
from gateway import problems
from gateway.cancelling import Cancellations
from gateway.documentation import problem_responses, receipt_responses, task_body, task_parameters
from gateway.documents import Cancelled, Task, TaskPage
from gateway.failures import invalid_parameter
from gateway.lanes import UNKNOWN, Lanes
from gateway.principals import Principals
from gateway.records import Records
from gateway.routes.raw import SECURED, Json, RawRoute
from gateway.schemas import Text
from gateway.submission import Submissions
from gateway.tasks import Tasks
from gateway.views import cursor_of, parse_cursor, task_view, unrecorded_view


def submitting(submissions: Submissions) -> APIRouter:
    """The way in."""
    router = APIRouter(route_class=RawRoute, tags=["tasks"], dependencies=[SECURED])

    @router.post(
        "/v1/tasks",
        status_code=202,
        summary="Submit a task",
        openapi_extra=task_body(),
        responses={**receipt_responses(), **problem_responses(
            "forbidden", "idempotency-conflict", "too-large", "unsupported-media-type", "invalid-request",
            "rate-limited", "too-many-outstanding", "lane-full",
        )},
    )  # fmt: skip
    async def submit(request: Request) -> Response:
        """202 once the task is safe: both its lane and the durable record's queue have confirmed it."""
        receipt = await submissions.receive(request)
        return Response(receipt.body, receipt.status, receipt.headers, "application/json")

    return router


def listing(principals: Principals, tasks: Tasks) -> APIRouter:
    """Many tasks."""
    router = APIRouter(tags=["tasks"], dependencies=[SECURED])

    @router.get(
        "/v1/tasks",
        summary="List tasks, newest first",
        responses={200: {"model": TaskPage}, **problem_responses("invalid-request")},
    )
    async def listed(
        request: Request,
        status: Annotated[Status | None, Query()] = None,
        tier: Annotated[Text | None, Query(max_length=31)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        cursor: Annotated[str | None, Query(max_length=100, description="`next_cursor` of the page before")] = None,
    ) -> Response:
        """Recorded tasks; one that was submitted a moment ago may not be among them yet."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        before = _place(cursor)
        rows = await tasks.page(principal.tenant_id, before=before, status=status, tier=tier, limit=limit + 1)
        more = cursor_of(rows[limit - 1]) if len(rows) > limit else None
        return Json({"items": [task_view(row) for row in rows[:limit]], "next_cursor": more})

    return router


def reading(principals: Principals, tasks: Tasks, records: Records, lanes: Lanes) -> APIRouter:
    """One task that exists."""
    router = APIRouter(route_class=RawRoute, tags=["tasks"], dependencies=[SECURED])

    @router.get(
        "/v1/tasks/{task_id}",
        summary="Read a task",
        openapi_extra=task_parameters(),
        responses={200: {"model": Task}, **problem_responses("not-found")},
    )
    async def read(request: Request) -> Response:
        """`cost_usd` is a decimal string, and null until every model call of the finished task is settled.

        `position` and `estimated_start` are estimates: work that comes later may go first, and a lane's pace changes.
        """
        principal = await principals.authenticate(request.headers.get("authorization"))
        known = task_uuid(request.path_params["task_id"])
        row = await tasks.view(principal.tenant_id, known)
        if row is not None and row["submitted_at"] is not None:
            view = task_view(row)
            waits = view["status"] == "queued"
            turn = await lanes.estimate(row["tier"], row["level"], row["submitted_at"]) if waits else UNKNOWN
            return Json(view | turn)
        # Not recorded yet: what was answered at submission, and how far the run is by now.
        try:
            answer = await records.answer(principal.tenant_id, known)
        except CacheUnavailable:
            if row is None:
                raise
            answer = None
        if answer is None and row is None:
            raise no_such_task()
        return Json(unrecorded_view(answer, row))

    return router


def cancelling(principals: Principals, cancellations: Cancellations) -> APIRouter:
    """Ending a task early."""
    router = APIRouter(route_class=RawRoute, tags=["tasks"], dependencies=[SECURED])

    @router.post(
        "/v1/tasks/{task_id}/cancel",
        summary="Cancel a task",
        openapi_extra=task_parameters(),
        responses={200: {"model": Cancelled}, **problem_responses("not-found")},
    )
    async def cancel(request: Request) -> Response:
        """`cancelled`, `cancelling` while a worker is being told, or the end that the task had before."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        known = task_uuid(request.path_params["task_id"])
        try:
            status = await cancellations.cancel(principal.tenant_id, known)
        except Unavailable as error:
            raise problems.unavailable("The cancel may have been taken: ask again, or read the task.") from error
        if status is None:
            raise no_such_task()
        return Json({"id": known, "status": status})

    return router


def _place(cursor: str | None) -> tuple[datetime, UUID] | None:
    if cursor is None:
        return None
    try:
        return parse_cursor(cursor)
    except ValueError as error:
        raise invalid_parameter("cursor", "is not one that a page ended with") from error


def task_uuid(text: str) -> UUID:
    """The id in an address. What is no id is no task. Raises `Problem`."""
    try:
        return UUID(text)
    except ValueError as error:
        raise no_such_task() from error


def no_such_task() -> problems.Problem:
    """Another tenant's task reads the same as none."""
    return problems.NOT_FOUND.problem("There is no such task.")
