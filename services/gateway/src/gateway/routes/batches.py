"""`/v1/batches`: submit many tasks at once, follow them in one stream, read what became of each, cancel them all."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from common.errors import Unavailable
from gateway import problems
from gateway.batch_documents import Batch as BatchDocument
from gateway.batch_documents import BatchCancelled, BatchResults
from gateway.batch_records import Batch, Batches
from gateway.batch_streams import BatchStreams, Told
from gateway.batch_submission import BatchSubmissions
from gateway.batch_views import batch_view, ended_of, page, result_line, task_line
from gateway.cancelling_many import CancellationsOfMany
from gateway.documentation import (
    batch_body,
    batch_parameters,
    batch_receipt_responses,
    batch_stream_parameters,
    problem_responses,
    stream_response,
)
from gateway.failures import invalid_parameter
from gateway.principals import Principals
from gateway.routes.raw import SECURED, Json, RawRoute
from gateway.sse import EventStream

_Limit = Annotated[int, Query(ge=1, le=100)]
_Cursor = Annotated[str | None, Query(max_length=10, description="`next_cursor` of the page before")]


def submitting_batches(submissions: BatchSubmissions) -> APIRouter:
    """The way in."""
    router = APIRouter(route_class=RawRoute, tags=["batches"], dependencies=[SECURED])

    @router.post(
        "/v1/batches",
        status_code=202,
        summary="Submit up to 1,000 tasks at once",
        openapi_extra=batch_body(),
        responses={**batch_receipt_responses(), **problem_responses(
            "idempotency-conflict", "too-large", "unsupported-media-type", "invalid-request",
            "rate-limited", "too-many-outstanding", "lane-full",
        )},
    )  # fmt: skip
    async def submit(request: Request) -> Response:
        """Checked and admitted whole or not at all. 202 once every task is safe; 207 where only some are, and which.

        With an Idempotency-Key the same request again submits what was not accepted, and repeats nothing.
        """
        receipt = await submissions.receive(request)
        return Response(receipt.body, receipt.status, receipt.headers, "application/json")

    return router


def reading_batches(principals: Principals, batches: Batches) -> APIRouter:
    """Batches that exist."""
    router = APIRouter(tags=["batches"], dependencies=[SECURED])

    @router.get(
        "/v1/batches/{batch_id}",
        summary="Read a batch",
        responses={200: {"model": BatchDocument}, **problem_responses("not-found", "invalid-request")},
    )
    async def read(request: Request, batch_id: str, limit: _Limit = 20, cursor: _Cursor = None) -> Response:
        """How many of its tasks have which status, and a page of them. `unrecorded` is what was submitted a moment
        ago, or was not accepted."""
        first = _place(cursor)
        batch = await found(request, batch_id, principals, batches)
        counts, cost = await batches.counts(batch), await batches.cost(batch)
        places = range(first, min(first + limit, batch.size))
        rows = await batches.views(batch, places)
        lines = [task_line(batch, place, rows.get(place)) for place in places]
        return Json(batch_view(batch, counts, cost) | {"tasks": page(lines, places.stop, batch.size)})

    @router.get(
        "/v1/batches/{batch_id}/results",
        summary="Read what became of a batch's tasks",
        responses={200: {"model": BatchResults}, **problem_responses("not-found", "invalid-request")},
    )
    async def results(request: Request, batch_id: str, limit: _Limit = 100, cursor: _Cursor = None) -> Response:
        """One result for each task, in the order in which they were submitted."""
        first = _place(cursor)
        batch = await found(request, batch_id, principals, batches)
        places = range(first, min(first + limit, batch.size))
        rows = await batches.views(batch, places)
        return Json(page([result_line(batch, place, rows.get(place)) for place in places], places.stop, batch.size))

    return router


def following_batches(principals: Principals, batches: Batches, streams: BatchStreams) -> APIRouter:
    """Batches as they go."""
    router = APIRouter(route_class=RawRoute, tags=["batches"], dependencies=[SECURED])

    @router.get(
        "/v1/batches/{batch_id}/events",
        summary="Follow a batch",
        openapi_extra=batch_stream_parameters(),
        status_code=200,
        response_class=EventStream,
        responses={**stream_response(), **problem_responses("not-found", "invalid-request")},
    )
    async def follow(request: Request) -> Response:
        """`status` when a task begins, `result` when it has ended, `progress` in between, `done` at the end.

        Each task begins and ends once, however often the stream is resumed with `Last-Event-ID`.
        """
        batch = await found(request, request.path_params["batch_id"], principals, batches)
        named = request.headers.get("last-event-id") or request.query_params.get("last_event_id") or ""
        try:
            told = Told.parse(named, batch.size)
        except ValueError as error:
            raise invalid_parameter("Last-Event-ID", str(error)) from error
        return EventStream(streams.frames(batch, told))

    return router


def cancelling_batches(principals: Principals, batches: Batches, cancellations: CancellationsOfMany) -> APIRouter:
    """Ending a batch early."""
    router = APIRouter(route_class=RawRoute, tags=["batches"], dependencies=[SECURED])

    @router.post(
        "/v1/batches/{batch_id}/cancel",
        summary="Cancel all tasks of a batch",
        openapi_extra=batch_parameters(),
        responses={200: {"model": BatchCancelled}, **problem_responses("not-found")},
    )
    async def cancel(request: Request) -> Response:
        """`cancelling` tasks run, and their workers are being told; `pending` ones never begin."""
        batch = await found(request, request.path_params["batch_id"], principals, batches)
        try:
            cancelled = await cancellations.cancel(batch.tenant_id, batch_id=batch.id)
            # What was reached may have ended since, and is counted as what it was told.
            ended = ended_of(await batches.counts(batch, without=cancelled.reached))
        except Unavailable as error:
            raise problems.unavailable("The cancel may have been taken: ask again, or read the batch.") from error
        now_cancelled, cancelling = cancelled.counts["cancelled"], cancelled.counts["cancelling"]
        return Json(
            {
                "id": batch.id,
                "as_of": cancelled.as_of,
                "cancelled": now_cancelled,
                "cancelling": cancelling,
                "already_ended": ended,
                "pending": batch.size - now_cancelled - cancelling - ended,
            }
        )

    return router


async def found(request: Request, named: str, principals: Principals, batches: Batches) -> Batch:
    """The batch of an address. What is no id is no batch, and neither is another tenant's. Raises `Problem`."""
    principal = await principals.authenticate(request.headers.get("authorization"))
    try:
        batch = await batches.find(principal.tenant_id, UUID(named))
    except ValueError:
        batch = None
    if batch is None:
        raise problems.NOT_FOUND.problem("There is no such batch.")
    return batch


def _place(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not (cursor.isascii() and cursor.isdigit()):
        raise invalid_parameter("cursor", "is not one that a page ended with")
    return int(cursor)
