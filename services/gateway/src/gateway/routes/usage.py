"""`/v1/usage`, and the same for operators: what was used and charged, added up or record by record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from gateway import documents, problems
from gateway.documentation import problem_responses
from gateway.failures import invalid_parameter
from gateway.principals import Principals
from gateway.routes.admin import Administration, admin_router
from gateway.routes.raw import SECURED, Json
from gateway.schemas import Text
from gateway.usage import DIMENSIONS, MOST_ROWS, Grouping, TooManyRowsError, UsageReport
from gateway.usage_exports import Chunks, as_csv, as_json_lines

_LONGEST_DAYS = 400
From = Annotated[date | None, Query(alias="from", description="first day, UTC; default: of this month")]
To = Annotated[date | None, Query(description="last day, UTC, included; default: today")]
GroupBy = Annotated[
    str, Query(max_length=100, description=f"some of {', '.join(DIMENSIONS)}, in their order", examples=["agent,label"])
]
Label = Annotated[Text | None, Query(max_length=200, description="with `label`: the key of the tasks' metadata")]
_REPORT: dict[int | str, dict[str, Any]] = {200: {"model": documents.UsageReport}}


class Csv(StreamingResponse):
    """A table as a file, as it is read."""

    media_type = "text/csv"


class JsonLines(StreamingResponse):
    """A JSON document a line, as it is read."""

    media_type = "application/x-ndjson"


@dataclass(frozen=True)
class _Export:
    suffix: str
    what: str
    response: type[StreamingResponse]
    render: Callable[[Chunks], AsyncIterator[bytes]]


_EXPORTS = (
    _Export("csv", "as a table", Csv, as_csv),
    _Export("jsonl", "as JSON lines", JsonLines, as_json_lines),
)


def reporting(principals: Principals, usage: UsageReport) -> APIRouter:
    """The tenant's own numbers."""
    router = APIRouter(tags=["usage"], dependencies=[SECURED])

    @router.get(
        "/v1/usage",
        summary="Usage and cost by day, model, agent, user or label",
        responses=_REPORT | problem_responses("invalid-request"),
    )
    async def report(
        request: Request, from_: From = None, to: To = None, group_by: GroupBy = "day,model", label: Label = None
    ) -> Response:
        """Money is a decimal string. Usage appears once billing has settled it."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        return await _report(usage, principal.tenant_id, _period(from_, to), _grouping(group_by, label))

    for export in _EXPORTS:
        _add_export(router, export, principals, usage)
    return router


def _add_export(router: APIRouter, export: _Export, principals: Principals, usage: UsageReport) -> None:
    @router.get(
        f"/v1/usage/records.{export.suffix}",
        summary=f"Every usage record, {export.what}",
        response_class=export.response,
        responses=problem_responses("invalid-request"),
    )
    async def records(request: Request, from_: From = None, to: To = None) -> Response:
        """One for each model call, oldest first, streamed: a file that breaks off was not complete."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        return await _records(usage, principal.tenant_id, _period(from_, to), export)


def usage_of_tenants(administration: Administration, usage: UsageReport) -> APIRouter:
    """Any tenant's, for those who have the admin key."""
    router = admin_router(administration)
    may_end_in = problem_responses("not-found", "too-large", "invalid-request")

    @router.get("/tenants/{tenant_id}/usage", summary="A tenant's usage and cost", responses=_REPORT | may_end_in)
    async def report(
        tenant_id: UUID, from_: From = None, to: To = None, group_by: GroupBy = "day,model", label: Label = None
    ) -> Response:
        return await _report(usage, tenant_id, _period(from_, to), _grouping(group_by, label))

    for export in _EXPORTS:
        _add_admin_export(router, export, usage)
    return router


def _add_admin_export(router: APIRouter, export: _Export, usage: UsageReport) -> None:
    @router.get(
        f"/tenants/{{tenant_id}}/usage/records.{export.suffix}",
        summary=f"Every usage record of a tenant, {export.what}",
        response_class=export.response,
        responses=problem_responses("not-found", "too-large", "invalid-request"),
    )
    async def records(tenant_id: UUID, from_: From = None, to: To = None) -> Response:
        return await _records(usage, tenant_id, _period(from_, to), export)


async def _report(usage: UsageReport, tenant_id: UUID, period: tuple[date, date], by: Grouping) -> Response:
    try:
        return Json(await _of(usage.report(tenant_id, *period, by)))
    except TooManyRowsError:
        reason = f"gives more than {MOST_ROWS:,} rows: ask for fewer days, or export the records"
        raise invalid_parameter("group_by", reason) from None


async def _records(usage: UsageReport, tenant_id: UUID, period: tuple[date, date], export: _Export) -> Response:
    """Asked for the tenant first: once the answer has begun, there is no other status to be told."""
    await _of(usage.exists(tenant_id))
    first, last = period
    name = f'attachment; filename="usage-{first}-{last}.{export.suffix}"'
    body = export.render(usage.records(tenant_id, first, last))
    return export.response(body, headers={"Content-Disposition": name})


async def _of(found: Awaitable[Any]) -> Any:
    if not (document := await found):
        raise problems.NOT_FOUND.problem("There is no such tenant.")
    return document


def _period(from_: date | None, to: date | None) -> tuple[date, date]:
    last = to or datetime.now(UTC).date()
    first = from_ or last.replace(day=1)
    if last == date.max:
        raise invalid_parameter("to", "must be a day that has a next one")
    if not 0 <= (last - first).days <= _LONGEST_DAYS:
        raise invalid_parameter("from", f"must be at most {_LONGEST_DAYS} days before `to`")
    return first, last


def _grouping(text: str, label: str | None) -> Grouping:
    dimensions = tuple(dict.fromkeys(text.split(",")))
    if unknown := [name for name in dimensions if name not in DIMENSIONS]:
        raise invalid_parameter("group_by", f"there is no {unknown[0]!r}: take some of {', '.join(DIMENSIONS)}")
    if ("label" in dimensions) != (label is not None):
        raise invalid_parameter("label", "names a key of the tasks' metadata, and goes with `group_by=label`")
    return Grouping(dimensions, label)
