"""`/v1/admin/doubts`: holds that went in doubt, and how they were resolved."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.responses import Response

from gateway.documentation import problem_responses
from gateway.doubt_documents import DoubtList
from gateway.doubt_records import Doubts, Place
from gateway.failures import invalid_parameter
from gateway.routes.admin import Administration, admin_router
from gateway.routes.raw import Json

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def doubting(administration: Administration, doubts: Doubts) -> APIRouter:
    """Of all tenants."""
    router = admin_router(administration)

    @router.get(
        "/doubts",
        summary="Holds that went in doubt: of which call, since when, and how they were resolved",
        responses={200: {"model": DoubtList}, **problem_responses("invalid-request", "unavailable")},
    )
    async def listed(
        tenant_id: Annotated[UUID | None, Query(description="this tenant's only")] = None,
        state: Annotated[
            Literal["open", "resolved"] | None, Query(description="open: still in doubt; left out: both")
        ] = None,
        after: Annotated[str | None, Query(max_length=80, description="`next` of the page before")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Response:
        """A hold goes in doubt where its run has moved on and its usage record has not come. The newest first."""
        resolved = None if state is None else state == "resolved"
        items, last = await doubts.listed(tenant_id, resolved, _place(after) if after else None, limit)
        return Json({"items": items, "next": None if last is None else _text(last)})

    return router


def _text(place: Place) -> str:
    return f"{(place.doubted_at - _EPOCH) // _MICROSECOND}.{place.attempt_id}"


def _place(text: str) -> Place:
    moment, _, attempt = text.partition(".")
    try:
        return Place(_EPOCH + timedelta(microseconds=int(moment)), UUID(attempt))
    except (ValueError, OverflowError):
        raise invalid_parameter("after", "must be `next` of an earlier page") from None
