"""`/v1/conversations`: list, read, name, cancel and delete. A conversation begins with the first task that names it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from asyncpg import Record
from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from common.errors import Unavailable
from gateway import problems
from gateway.cancelling_many import CancellationsOfMany
from gateway.conversation_documents import (
    Conversation,
    ConversationCancelled,
    ConversationDeleted,
    ConversationPage,
    MessagePage,
)
from gateway.conversation_records import Conversations
from gateway.documentation import conversation_parameters, problem_responses
from gateway.failures import invalid_parameter
from gateway.principals import Principals, key_name
from gateway.routes.raw import SECURED, Json, RawRoute, checked
from gateway.schemas import Text
from gateway.views import parse_cursor

_Limit = Annotated[int, Query(ge=1, le=100)]
_Cursor = Annotated[str | None, Query(max_length=100, description="`next_cursor` of the page before")]


class Titled(BaseModel):
    """A conversation's new title."""

    model_config = ConfigDict(extra="forbid")

    title: Text = Field(min_length=1, max_length=200, pattern=r"\S", examples=["Holidays in Norway"])


def conversations(
    principals: Principals, records: Conversations, cancellations: CancellationsOfMany
) -> Sequence[APIRouter]:
    """All that can be done with conversations, but talking."""
    return (
        _reading(principals, records),
        _showing(principals, records),
        _naming(principals, records),
        _ending(principals, records, cancellations),
    )


def _reading(principals: Principals, records: Conversations) -> APIRouter:
    router = APIRouter(tags=["conversations"], dependencies=[SECURED])

    @router.get(
        "/v1/conversations",
        summary="List conversations, the one that was last written to first",
        responses={200: {"model": ConversationPage}, **problem_responses("invalid-request")},
    )
    async def listed(
        request: Request,
        user_id: Annotated[Text | None, Query(max_length=200, description="only this user's")] = None,
        limit: _Limit = 20,
        cursor: _Cursor = None,
    ) -> Response:
        """Recorded conversations; one whose first message was submitted a moment ago may not be among them yet."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        before = None if cursor is None else _place(cursor)
        rows = await records.page(principal.tenant_id, before=before, user_id=user_id, limit=limit + 1)
        more = _cursor_of(rows[limit - 1]) if len(rows) > limit else None
        return Json({"items": [_view(row) for row in rows[:limit]], "next_cursor": more})

    @router.get(
        "/v1/conversations/{conversation_id}/messages",
        summary="Read what was said in a conversation",
        responses={200: {"model": MessagePage}, **problem_responses("not-found", "invalid-request")},
    )
    async def messages(request: Request, conversation_id: str, limit: _Limit = 50, cursor: _Cursor = None) -> Response:
        """Oldest first: the turns of completed tasks, as the next task's model is shown them. What failed, was
        cancelled, or is not over is no turn."""
        after = (0, 0) if cursor is None else _message_place(cursor)
        principal = await principals.authenticate(request.headers.get("authorization"))
        row = await _found(records, principal.tenant_id, conversation_id)
        rows = await records.messages(principal.tenant_id, row["conversation_id"], after, limit + 1)
        last = rows[limit - 1] if len(rows) > limit else None
        more = f"{last['number']}-{last['place']}" if last is not None else None
        return Json({"items": [_message(row) for row in rows[:limit]], "next_cursor": more})

    return router


def _showing(principals: Principals, records: Conversations) -> APIRouter:
    router = APIRouter(route_class=RawRoute, tags=["conversations"], dependencies=[SECURED])

    @router.get(
        "/v1/conversations/{conversation_id}",
        summary="Read a conversation",
        openapi_extra=conversation_parameters(),
        responses={200: {"model": Conversation}, **problem_responses("not-found")},
    )
    async def read(request: Request) -> Response:
        """Not found until its first message is recorded, a moment after it was submitted."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        return Json(_view(await _found(records, principal.tenant_id, request.path_params["conversation_id"])))

    return router


def _naming(principals: Principals, records: Conversations) -> APIRouter:
    async def authenticated(request: Request) -> None:
        await principals.authenticate(request.headers.get("authorization"))

    router = APIRouter(route_class=checked(authenticated), tags=["conversations"], dependencies=[SECURED])

    @router.patch(
        "/v1/conversations/{conversation_id}",
        summary="Give a conversation a title",
        responses={200: {"model": Conversation}, **problem_responses("not-found", "invalid-request", "too-large")},
    )
    async def name(request: Request, conversation_id: str, titled: Titled) -> Response:
        """It stays, whatever is said later."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        row = await _found(records, principal.tenant_id, conversation_id)
        if not await records.entitle(principal.tenant_id, row["conversation_id"], titled.title.strip()):
            raise _no_such_conversation()
        return Json(_view(await _found(records, principal.tenant_id, conversation_id)))

    return router


def _ending(principals: Principals, records: Conversations, cancellations: CancellationsOfMany) -> APIRouter:
    router = APIRouter(route_class=RawRoute, tags=["conversations"], dependencies=[SECURED])

    @router.post(
        "/v1/conversations/{conversation_id}/cancel",
        summary="Cancel all open tasks of a conversation",
        openapi_extra=conversation_parameters(),
        responses={200: {"model": ConversationCancelled}, **problem_responses("not-found")},
    )
    async def cancel(request: Request) -> Response:
        """Every task of it whose `created_at` is not after the answer's `as_of`. What was said before stays."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        row = await _found(records, principal.tenant_id, request.path_params["conversation_id"])
        try:
            done = await cancellations.cancel(principal.tenant_id, conversation_id=row["conversation_id"])
        except Unavailable as error:
            raise problems.unavailable("The cancel may have been taken: ask again.") from error
        counts = {status: done.counts[status] for status in ("cancelled", "cancelling")}
        return Json({"id": row["conversation_id"], "as_of": done.as_of, **counts, "complete": done.complete})

    @router.delete(
        "/v1/conversations/{conversation_id}",
        status_code=202,
        summary="Delete a conversation and all that was said in it",
        openapi_extra=conversation_parameters(),
        responses={202: {"model": ConversationDeleted}, **problem_responses("not-found")},
    )
    async def delete(request: Request) -> Response:
        """Its open tasks are cancelled, it and its documents are gone at once, and then its turns and its tasks'
        inputs, outputs, metadata and events are deleted, however many there are. What was charged stays on the books.

        Doing it again says how far it is.
        """
        principal = await principals.authenticate(request.headers.get("authorization"))
        tenant, known = principal.tenant_id, _uuid(request.path_params["conversation_id"])
        try:
            if await records.exists(tenant, known):
                cancelled = await cancellations.cancel(tenant, conversation_id=known)
                erasure = await records.erase(tenant, known, cancelled.as_of, key_name(request))
            else:
                erasure = await records.erasure(tenant, known)
        except Unavailable as error:
            raise problems.unavailable("The deletion may have been taken: ask again.") from error
        if erasure is None:
            raise _no_such_conversation()
        return Json({"id": known, "as_of": erasure.as_of, "complete": erasure.done}, 202)

    return router


async def _found(records: Conversations, tenant_id: UUID, named: str) -> Record:
    row = await records.find(tenant_id, _uuid(named))
    if row is None:
        raise _no_such_conversation()
    return row


def _uuid(text: str) -> UUID:
    """The id in an address. What is no id is no conversation. Raises `Problem`."""
    try:
        return UUID(text)
    except ValueError as error:
        raise _no_such_conversation() from error


def _no_such_conversation() -> problems.Problem:
    """Another tenant's conversation reads the same as none."""
    return problems.NOT_FOUND.problem("There is no such conversation.")


def _view(row: Record) -> dict[str, Any]:
    own = f"/v1/conversations/{row['conversation_id']}"
    names = ("title", "user_id", "created_at", "active_at", "turns", "busy")
    links = {"self": own, "messages": f"{own}/messages", "cancel": f"{own}/cancel"}
    return {"id": row["conversation_id"], **{name: row[name] for name in names}, "links": links}


def _message(row: Record) -> dict[str, Any]:
    names = ("task_id", "finished_at")
    return {"turn": row["number"], **{name: row[name] for name in names}, **row["message"]}


def _cursor_of(row: Record) -> str:
    at = row["active_at"].astimezone(UTC).isoformat().replace("+00:00", "Z")
    return f"{at}_{row['conversation_id']}"


def _place(cursor: str) -> tuple[datetime, UUID]:
    try:
        return parse_cursor(cursor)
    except ValueError as error:
        raise invalid_parameter("cursor", "is not one that a page ended with") from error


def _message_place(cursor: str) -> tuple[int, int]:
    number, _, place = cursor.partition("-")
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in (number, place)):
        raise invalid_parameter("cursor", "is not one that a page ended with")
    return int(number), int(place)
