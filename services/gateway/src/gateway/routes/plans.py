"""`/v1/admin/tenants/{id}/plan`: which plan a tenant has, and has had."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.responses import Response

from gateway import problems
from gateway.documentation import problem_responses
from gateway.failures import invalid_field
from gateway.plan_documents import NewPlan, TenantPlan
from gateway.plan_records import Plans, UnknownPlanError
from gateway.routes.admin import Administration, admin_router
from gateway.routes.raw import Json

_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": TenantPlan},
    **problem_responses("not-found", "too-large", "invalid-request", "unavailable"),
}


def planning(administration: Administration, plans: Plans) -> APIRouter:
    """Plans of tenants."""
    router = admin_router(administration)

    @router.get("/tenants/{tenant_id}/plan", summary="A tenant's plan, and those it has had", responses=_RESPONSES)
    async def shown(tenant_id: UUID, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Response:
        return await _plan(tenant_id, limit)

    @router.put("/tenants/{tenant_id}/plan", summary="Give a tenant another plan", responses=_RESPONSES)
    async def put(tenant_id: UUID, new: NewPlan) -> Response:
        """In force for the next model call of every run. The month's fees are by the days of each plan."""
        try:
            known = await plans.put(tenant_id, new.plan, by=new.by, reason=new.reason)
        except UnknownPlanError:
            raise invalid_field("plan", f"there is no plan {new.plan!r}") from None
        if known:
            await administration.changed(tenant_id)
        return await _plan(tenant_id, 100)

    async def _plan(tenant_id: UUID, limit: int) -> Response:
        document = await plans.of_tenant(tenant_id, limit)
        if document is None:
            raise problems.NOT_FOUND.problem("There is no such tenant.")
        return Json(document)

    return router
