"""`/v1/usage`: what was used and charged."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from gateway import documents
from gateway.documentation import problem_responses
from gateway.failures import invalid_parameter
from gateway.principals import Principals
from gateway.routes.raw import SECURED, Json
from gateway.usage import UsageReport

_LONGEST_DAYS = 400


def reporting(principals: Principals, usage: UsageReport) -> APIRouter:
    """The tenant's own numbers."""
    router = APIRouter(tags=["usage"], dependencies=[SECURED])

    @router.get(
        "/v1/usage",
        summary="Usage and cost by day and model",
        responses={200: {"model": documents.UsageReport}, **problem_responses("invalid-request")},
    )
    async def report(
        request: Request,
        from_: Annotated[date | None, Query(alias="from", description="first day, UTC; default: of this month")] = None,
        to: Annotated[date | None, Query(description="last day, UTC, included; default: today")] = None,
    ) -> Response:
        """Money is a decimal string. Usage appears once billing has settled it."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        last = to or datetime.now(UTC).date()
        first = from_ or last.replace(day=1)
        if not 0 <= (last - first).days <= _LONGEST_DAYS:
            raise invalid_parameter("from", f"must be at most {_LONGEST_DAYS} days before `to`")
        return Json(await usage.report(principal.tenant_id, first, last))

    return router
