"""`/v1/schedules`: tasks that come again by the clock."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from common.errors import StoreUnavailable
from gateway import problems
from gateway.documentation import problem_responses, schedule_body, schedule_parameters
from gateway.failures import invalid_parameter
from gateway.principals import Principals
from gateway.routes.raw import SECURED, Json, RawRoute
from gateway.schedule_documents import SchedulePage, ScheduleWithTicks
from gateway.schedule_records import Schedules
from gateway.schedule_schemas import read_document
from gateway.schedule_views import schedule_address, schedule_view, schedule_with_ticks
from gateway.scheduling import Scheduling

_SHOWN_TICKS = 20
_UNKNOWN = "The schedule may have been {}: read the list before you ask again."
_BODY_PROBLEMS = ("too-large", "unsupported-media-type", "invalid-request")


def making_schedules(principals: Principals, scheduling: Scheduling) -> APIRouter:
    """New ones."""
    router = APIRouter(route_class=RawRoute, tags=["schedules"], dependencies=[SECURED])

    @router.post(
        "/v1/schedules",
        status_code=201,
        summary="Make a schedule",
        openapi_extra=schedule_body(),
        responses={201: {"model": ScheduleWithTicks}, **problem_responses(*_BODY_PROBLEMS)},
    )
    async def add(request: Request) -> Response:
        """One task for each tick, as POST /v1/tasks would submit it then, with `schedule_id` and `scheduled_for` in its
        metadata. Ticks are no requests: the plan's outstanding tasks limit them, not its rate."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        document = await read_document(request)
        try:
            row = await scheduling.add(principal, document)
        except StoreUnavailable as error:
            raise problems.unavailable(_UNKNOWN.format("made")) from error
        response = Json(schedule_with_ticks(row, []), 201)
        response.headers["Location"] = schedule_address(row)
        return response

    return router


def changing_schedules(principals: Principals, scheduling: Scheduling, schedules: Schedules) -> APIRouter:
    """Changing and deleting them."""
    router = APIRouter(route_class=RawRoute, tags=["schedules"], dependencies=[SECURED])

    @router.patch(
        "/v1/schedules/{schedule_id}",
        summary="Change a schedule",
        openapi_extra=schedule_body(change=True),
        responses={200: {"model": ScheduleWithTicks}, **problem_responses("not-found", *_BODY_PROBLEMS)},
    )
    async def change(request: Request) -> Response:
        """What the body has is changed, and the rest stays; `task` is replaced as a whole."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        known = _schedule_uuid(request.path_params["schedule_id"])
        document = await read_document(request)
        try:
            row = await scheduling.change(principal, known, document)
        except StoreUnavailable as error:
            raise problems.unavailable(_UNKNOWN.format("changed")) from error
        if row is None:
            raise _no_such_schedule()
        return Json(schedule_with_ticks(row, await schedules.ticks(principal.tenant_id, [known], _SHOWN_TICKS)))

    @router.delete(
        "/v1/schedules/{schedule_id}",
        status_code=204,
        summary="Delete a schedule",
        openapi_extra=schedule_parameters(),
        responses=problem_responses("not-found"),
    )
    async def delete(request: Request) -> Response:
        """What it has submitted goes on; POST /v1/tasks/cancel with its `schedule_id` as metadata ends that, too."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        try:
            found = await scheduling.delete(principal, _schedule_uuid(request.path_params["schedule_id"]))
        except StoreUnavailable as error:
            raise problems.unavailable(_UNKNOWN.format("deleted")) from error
        if not found:
            raise _no_such_schedule()
        return Response(status_code=204)

    return router


def listing_schedules(principals: Principals, schedules: Schedules) -> APIRouter:
    """Many schedules."""
    router = APIRouter(tags=["schedules"], dependencies=[SECURED])

    @router.get(
        "/v1/schedules",
        summary="List schedules, newest first",
        responses={200: {"model": SchedulePage}, **problem_responses("invalid-request")},
    )
    async def listed(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        cursor: Annotated[str | None, Query(max_length=100, description="`next_cursor` of the page before")] = None,
    ) -> Response:
        principal = await principals.authenticate(request.headers.get("authorization"))
        rows = await schedules.page(principal.tenant_id, _place(cursor), limit + 1)
        more = str(rows[limit - 1]["schedule_id"]) if len(rows) > limit else None
        shown = rows[:limit]
        ticks = await schedules.ticks(principal.tenant_id, [row["schedule_id"] for row in shown], 1)
        last = {tick["schedule_id"]: tick for tick in ticks}
        items = [schedule_view(row, last.get(row["schedule_id"])) for row in shown]
        return Json({"items": items, "next_cursor": more})

    return router


def reading_schedules(principals: Principals, schedules: Schedules) -> APIRouter:
    """One schedule."""
    router = APIRouter(route_class=RawRoute, tags=["schedules"], dependencies=[SECURED])

    @router.get(
        "/v1/schedules/{schedule_id}",
        summary="Read a schedule",
        openapi_extra=schedule_parameters(),
        responses={200: {"model": ScheduleWithTicks}, **problem_responses("not-found")},
    )
    async def read(request: Request) -> Response:
        """With what became of its last ticks: the task of each, or the reason why it has none."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        known = _schedule_uuid(request.path_params["schedule_id"])
        row = await schedules.find(principal.tenant_id, known)
        if row is None:
            raise _no_such_schedule()
        return Json(schedule_with_ticks(row, await schedules.ticks(principal.tenant_id, [known], _SHOWN_TICKS)))

    return router


def _schedule_uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise _no_such_schedule() from error


def _place(cursor: str | None) -> UUID | None:
    try:
        return None if cursor is None else UUID(cursor)
    except ValueError as error:
        raise invalid_parameter("cursor", "is not one that a page ended with") from error


def _no_such_schedule() -> problems.Problem:
    """Another tenant's reads the same as none."""
    return problems.NOT_FOUND.problem("There is no such schedule.")
