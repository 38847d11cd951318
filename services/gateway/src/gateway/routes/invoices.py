"""`/v1/invoices`, and the same for operators: what a tenant owes, month by month."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from gateway import problems
from gateway.documentation import problem_responses
from gateway.failures import invalid_parameter
from gateway.invoice_documents import InvoiceByLabel, InvoiceList, InvoiceMonth, as_csv
from gateway.invoice_pdf import MOST_LINES, Printer, TooManyLinesError
from gateway.invoice_records import Invoices
from gateway.principals import Principals
from gateway.routes.admin import Administration, admin_router
from gateway.routes.raw import SECURED, Json
from gateway.usage import MOST_ROWS, TooManyRowsError

Month = Annotated[str, Path(pattern=r"^[0-9]{4}-[0-9]{2}$", description="as 2026-10")]
LabelKey = Annotated[str, Path(max_length=200, pattern=r"^[^\x00]*$", description="a key of the tasks' metadata")]
_LIST: dict[int | str, dict[str, Any]] = {200: {"model": InvoiceList}}
_BY_LABEL: dict[int | str, dict[str, Any]] = {200: {"model": InvoiceByLabel}}
_ONE: dict[int | str, dict[str, Any]] = {200: {"model": InvoiceMonth}}


class Csv(Response):
    """A table as a file."""

    media_type = "text/csv"


class Pdf(Response):
    """Pages as a file."""

    media_type = "application/pdf"


def invoicing(principals: Principals, invoices: Invoices) -> APIRouter:
    """The tenant's own."""
    router, printer = APIRouter(tags=["invoices"], dependencies=[SECURED]), Printer()

    @router.get("/v1/invoices", summary="Invoices, credit notes and drafts", responses=_LIST | problem_responses())
    async def listed(request: Request) -> Response:
        """Newest first. Money is a decimal string."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        return Json(_found(await invoices.months(principal.tenant_id)))

    @router.get(
        "/v1/invoices/{month}",
        summary="A month's invoice and credit notes, or its draft",
        responses=_ONE | problem_responses("invalid-request"),
    )
    async def one(request: Request, month: Month) -> Response:
        """A draft says what is owed by what is settled so far; what is final never changes."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        return Json(_found(await invoices.month(principal.tenant_id, _begun(month))))

    @router.get(
        "/v1/invoices/{month}/lines.csv",
        summary="All lines of a month, one a row",
        response_class=Csv,
        responses=problem_responses("invalid-request"),
    )
    async def lines(request: Request, month: Month) -> Response:
        """They sum to what is owed for the month."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        return _file(_found(await invoices.month(principal.tenant_id, _begun(month))))

    @router.get(
        "/v1/invoices/{month}/invoice.pdf",
        summary="A month's invoice and credit notes, or its draft, as PDF",
        response_class=Pdf,
        responses=problem_responses("invalid-request"),
    )
    async def pages(request: Request, month: Month) -> Response:
        """Each document on pages of its own."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        document = _found(await invoices.month(principal.tenant_id, _begun(month)))
        return await _pages(printer, document, principal.tenant_id)

    @router.get(
        "/v1/invoices/{month}/labels/{label}",
        summary="A month's charges by a label of the tasks' metadata",
        responses=_BY_LABEL | problem_responses("invalid-request"),
    )
    async def by_label(request: Request, month: Month, label: LabelKey) -> Response:
        """By what is posted now: they sum to the usage lines of the month."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        return await _by_label(invoices, principal.tenant_id, _begun(month), label)

    return router


def invoices_of_tenants(administration: Administration, invoices: Invoices) -> APIRouter:
    """Any tenant's, for those who have the admin key."""
    router, printer = admin_router(administration), Printer()

    @router.get(
        "/tenants/{tenant_id}/invoices",
        summary="A tenant's invoices, credit notes and drafts",
        responses=_LIST | problem_responses("not-found", "too-large", "invalid-request"),
    )
    async def listed(tenant_id: UUID) -> Response:
        return Json(_found(await invoices.months(tenant_id)))

    @router.get(
        "/tenants/{tenant_id}/invoices/{month}",
        summary="A tenant's month",
        responses=_ONE | problem_responses("not-found", "too-large", "invalid-request"),
    )
    async def one(tenant_id: UUID, month: Month) -> Response:
        return Json(_found(await invoices.month(tenant_id, _begun(month))))

    @router.get(
        "/tenants/{tenant_id}/invoices/{month}/lines.csv",
        summary="All lines of a tenant's month, one a row",
        response_class=Csv,
        responses=problem_responses("not-found", "too-large", "invalid-request"),
    )
    async def lines(tenant_id: UUID, month: Month) -> Response:
        return _file(_found(await invoices.month(tenant_id, _begun(month))))

    @router.get(
        "/tenants/{tenant_id}/invoices/{month}/invoice.pdf",
        summary="A tenant's month as PDF",
        response_class=Pdf,
        responses=problem_responses("not-found", "too-large", "invalid-request"),
    )
    async def pages(tenant_id: UUID, month: Month) -> Response:
        return await _pages(printer, _found(await invoices.month(tenant_id, _begun(month))), tenant_id)

    @router.get(
        "/tenants/{tenant_id}/invoices/{month}/labels/{label}",
        summary="A tenant's charges of a month by a label",
        responses=_BY_LABEL | problem_responses("not-found", "too-large", "invalid-request"),
    )
    async def by_label(tenant_id: UUID, month: Month, label: LabelKey) -> Response:
        return await _by_label(invoices, tenant_id, _begun(month), label)

    return router


async def _pages(printer: Printer, document: dict[str, Any], tenant_id: UUID) -> Response:
    name = f'attachment; filename="invoice-{document["month"]}.pdf"'
    try:
        return Pdf(await printer.drawn(document, str(tenant_id)), headers={"Content-Disposition": name})
    except TooManyLinesError:
        reason = f"has more than {MOST_LINES:,} lines, which are not drawn: take lines.csv, which has all of them"
        raise invalid_parameter("month", reason) from None


async def _by_label(invoices: Invoices, tenant_id: UUID, month: date, label: str) -> Response:
    try:
        return Json(_found(await invoices.by_label(tenant_id, month, label)))
    except TooManyRowsError:
        reason = f"has more than {MOST_ROWS:,} values in the month: export the usage records"
        raise invalid_parameter("label", reason) from None


def _begun(text: str) -> date:
    try:
        month = date.fromisoformat(f"{text}-01")
    except ValueError:
        raise invalid_parameter("month", "must be a month, as 2026-10") from None
    # Somewhere it has begun by then: whose days begin there is shown it.
    if month > (datetime.now(UTC) + timedelta(hours=14)).date():
        raise invalid_parameter("month", "has not begun: there is nothing to invoice yet")
    return month


def _found(document: dict[str, Any] | None) -> dict[str, Any]:
    if document is None:
        raise problems.NOT_FOUND.problem("There is no such tenant.")
    return document


def _file(document: dict[str, Any]) -> Response:
    name = f'attachment; filename="invoice-{document["month"]}.csv"'
    return Csv(as_csv(document), headers={"Content-Disposition": name})
