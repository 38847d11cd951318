"""`/v1/admin/proof`: whether the books agree, with each other and with the caps."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.responses import Response

from gateway import problems
from gateway.documentation import problem_responses
from gateway.failures import invalid_parameter
from gateway.proof_documents import ProofPage
from gateway.proof_records import Asked, Proofs
from gateway.routes.admin import Administration, admin_router
from gateway.routes.raw import Json


def proving(administration: Administration, proofs: Proofs) -> APIRouter:
    """All tenants' books."""
    router = admin_router(administration)

    @router.get(
        "/proof",
        summary="Prove the books: caps, holds, usage, postings and invoices side by side",
        responses={200: {"model": ProofPage}, **problem_responses("not-found", "too-large", "invalid-request")},
    )
    async def prove(
        tenant_id: Annotated[UUID | None, Query(description="this tenant's books only")] = None,
        month: Annotated[str | None, Query(description="this month only, as 2026-10")] = None,
        after: Annotated[str | None, Query(description="`next` of the page before")] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> Response:
        """Each month is read as of one moment, so it agrees while work goes on. A difference is always a fault."""
        asked = Asked(tenant_id, _month("month", month) if month else None, _place(after) if after else None, limit)
        if tenant_id is not None and not await proofs.is_there(tenant_id):
            raise problems.NOT_FOUND.problem("There is no such tenant.")
        books, as_of = await proofs.books(asked), datetime.now(UTC)
        items = [await proofs.prove(tenant, begun) for tenant, begun in books[:limit]]
        last = "{tenant_id}.{month}".format_map(items[-1]) if len(books) > limit else None
        agrees = all(item["agrees"] for item in items)
        return Json({"as_of": as_of, "agrees": agrees, "items": items, "next": last})

    return router


def _month(name: str, text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m").date()  # noqa: DTZ007 - a month has no zone
    except ValueError:
        raise invalid_parameter(name, "must be a month, as 2026-10") from None


def _place(text: str) -> tuple[UUID, date]:
    tenant, _, month = text.partition(".")
    try:
        return UUID(tenant), _month("after", month)
    except ValueError:
        raise invalid_parameter("after", "must be `next` of an earlier page") from None
