"""`/v1/tasks/cancel`, and the same for an operator: ending all that a tenant has, or a part of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from common.errors import Unavailable
from gateway import problems
from gateway.batch_documents import TasksCancelled
from gateway.cancelling_many import CancellationsOfMany
from gateway.documentation import problem_responses
from gateway.identities import Identities
from gateway.principals import Principals
from gateway.routes.admin import Administration, admin_router
from gateway.routes.raw import SECURED, Json, checked
from gateway.schemas import Metadata

_EXAMPLES: Any = {
    "all": {"summary": "Everything", "value": {}},
    "waiting": {"summary": "What waits of one customer", "value": {"status": "queued", "metadata": {"order": "4711"}}},
}


class Which(BaseModel):
    """Which tasks; an empty object means all of them."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["queued", "running", "parked"] | None = Field(
        default=None, description="what is true of a task when the cancel reaches it"
    )
    batch_id: UUID | None = Field(default=None, description="only tasks of this batch")
    conversation_id: UUID | None = Field(default=None, description="only tasks of this conversation")
    metadata: Metadata | None = Field(default=None, min_length=1, description="only tasks that have all these pairs")


_Asked = Annotated[Which, Body(openapi_examples=_EXAMPLES)]
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"model": TasksCancelled},
    **problem_responses("invalid-request", "too-large"),
}


def cancelling_many(principals: Principals, cancellations: CancellationsOfMany) -> APIRouter:
    """By the tenant itself."""

    async def authenticated(request: Request) -> None:
        await principals.authenticate(request.headers.get("authorization"))

    router = APIRouter(route_class=checked(authenticated), tags=["tasks"], dependencies=[SECURED])

    @router.post("/v1/tasks/cancel", summary="Cancel many tasks", responses=_RESPONSES)
    async def cancel(request: Request, which: _Asked) -> Response:
        """Every task whose `created_at` is not after the answer's `as_of`, also where nobody has recorded it yet."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        return await _cancelled(cancellations, principal.tenant_id, which)

    return router


def cancelling_for_tenants(
    administration: Administration, identities: Identities, cancellations: CancellationsOfMany
) -> APIRouter:
    """By an operator."""
    router = admin_router(administration)

    @router.post(
        "/tenants/{tenant_id}/cancel",
        summary="Cancel many tasks of a tenant",
        responses={**_RESPONSES, **problem_responses("not-found", "invalid-request", "too-large")},
    )
    async def cancel(tenant_id: UUID, which: _Asked) -> Response:
        """As the tenant itself can."""
        if not await identities.has_tenant(tenant_id):
            raise problems.NOT_FOUND.problem("There is no such tenant.")
        return await _cancelled(cancellations, tenant_id, which)

    return router


async def _cancelled(cancellations: CancellationsOfMany, tenant_id: UUID, which: Which) -> Response:
    try:
        done = await cancellations.cancel(
            tenant_id,
            status=which.status,
            batch_id=which.batch_id,
            metadata=which.metadata,
            conversation_id=which.conversation_id,
        )
    except Unavailable as error:
        raise problems.unavailable("The cancel may have been taken: ask again.") from error
    return Json(
        {
            "id": done.id,
            "as_of": done.as_of,
            "cancelled": done.counts["cancelled"],
            "cancelling": done.counts["cancelling"],
            "already_ended": done.already_ended,
            "complete": done.complete,
        }
    )
