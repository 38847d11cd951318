"""`/v1/tasks/{id}/events` and `/v1/chat/stream`: runs as they happen, as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from uuid import UUID

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from common.contracts.events import BEGINNING, EventId
from common.errors import CacheUnavailable
from gateway.background import Background
from gateway.cancelling import Cancellations
from gateway.documentation import CHAT_HEADERS, problem_responses, stream_parameters, stream_response, task_body
from gateway.failures import invalid_parameter
from gateway.principals import Principals
from gateway.records import Records
from gateway.routes.raw import SECURED, RawRoute
from gateway.routes.tasks import no_such_task, task_uuid
from gateway.sse import EventStream
from gateway.streams import Streams
from gateway.submission import Receipt, Submissions
from gateway.tasks import State, Tasks


class ChatStream(EventStream):
    """A stream whose run is cancelled when its client goes away: no more tokens are bought for nobody."""

    def __init__(
        self, frames: AsyncGenerator[bytes], receipt: Receipt, abandon: Background, run: Cancellations
    ) -> None:
        super().__init__(frames, {**receipt.headers, "X-Laneway-Task-Id": str(receipt.task_id)})
        self._abandon = abandon
        self._cancellations = run
        self._tenant_id = receipt.tenant_id
        self._task_id = receipt.task_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await super().__call__(scope, receive, send)
        if self.gone:
            self._abandon.start(self._cancellations.abandon(self._tenant_id, self._task_id), "chat.abandon")


def following(principals: Principals, tasks: Tasks, records: Records, streams: Streams) -> APIRouter:
    """Streams of tasks that were submitted before."""
    router = APIRouter(route_class=RawRoute, tags=["streams"], dependencies=[SECURED])

    @router.get(
        "/v1/tasks/{task_id}/events",
        summary="Follow a task",
        openapi_extra=stream_parameters(),
        status_code=200,
        response_class=EventStream,
        responses={**stream_response(), **problem_responses("not-found", "invalid-request")},
    )
    async def follow(request: Request) -> Response:
        """Every event after the one named, once and in order; `done` is the last."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        task_id = task_uuid(request.path_params["task_id"])
        after = _after(request)
        known = await _known(principal.tenant_id, task_id)
        return EventStream(streams.frames(principal.tenant_id, task_id, after, known))

    async def _known(tenant_id: UUID, task_id: UUID) -> State | None:
        """What the record says of the task; None for one that was submitted lately. Raises `Problem`: none such."""
        try:
            if await records.answer(tenant_id, task_id) is not None:
                return None
        except CacheUnavailable:
            if (state := await tasks.state(tenant_id, task_id)) is None:
                raise
            return state
        if (state := await tasks.state(tenant_id, task_id)) is None:
            raise no_such_task()
        return state

    return router


def chatting(
    submissions: Submissions, streams: Streams, cancellations: Cancellations, background: Background
) -> APIRouter:
    """Submitting and following in one request."""
    router = APIRouter(route_class=RawRoute, tags=["streams"], dependencies=[SECURED])

    @router.post(
        "/v1/chat/stream",
        summary="Submit a task and follow it; closing the connection cancels it",
        openapi_extra=task_body(),
        status_code=200,
        response_class=EventStream,
        responses={**stream_response(CHAT_HEADERS), **problem_responses(
            "forbidden", "idempotency-conflict", "too-large", "unsupported-media-type", "invalid-request",
            "rate-limited", "too-many-outstanding", "lane-full",
        )},
    )  # fmt: skip
    async def chat(request: Request) -> Response:
        """The first event is a `status` with the task as a 202 would show it; then the task's own events."""
        receipt = await submissions.receive(request, streamed=True)
        following = streams.frames(receipt.tenant_id, receipt.task_id, fresh=receipt.status == 202)
        return ChatStream(_with_receipt(receipt, following), receipt, background, cancellations)

    return router


async def _with_receipt(receipt: Receipt, frames: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    # Without an id: it is no place to resume from.
    document = orjson.loads(receipt.body) | {"type": "status", "at": orjson.loads(receipt.body)["created_at"]}
    yield b"event: status\ndata: %b\n\n" % orjson.dumps(document)
    async with aclosing(frames):
        async for frame in frames:
            yield frame


def _after(request: Request) -> EventId:
    named = request.headers.get("last-event-id") or request.query_params.get("last_event_id")
    if not named:
        return BEGINNING
    try:
        return EventId.parse(named)
    except ValueError as error:
        raise invalid_parameter("Last-Event-ID", str(error)) from error
