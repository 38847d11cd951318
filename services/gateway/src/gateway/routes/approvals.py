"""`/v1/tasks/{id}/approvals`: what a person has to say to a tool call."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from common.errors import Unavailable
from gateway import problems
from gateway.approval_documents import ApprovalList, ApprovalRequest, Decided
from gateway.approval_records import Approvals, Decision
from gateway.approving import Approving
from gateway.documentation import approval_body, problem_responses, task_parameters
from gateway.failures import invalid
from gateway.principals import Principals, key_name
from gateway.requests import json_body
from gateway.routes.raw import SECURED, Json, RawRoute
from gateway.routes.tasks import no_such_task, task_uuid


def approving(principals: Principals, approvals: Approving) -> APIRouter:
    """Deciding."""
    router = APIRouter(route_class=RawRoute, tags=["tasks"], dependencies=[SECURED])

    @router.post(
        "/v1/tasks/{task_id}/approvals",
        summary="Approve, edit or deny a tool call",
        openapi_extra=approval_body(),
        responses={
            200: {"model": Decided},
            **problem_responses(
                "not-found", "not-waiting", "already-decided", "too-large", "unsupported-media-type", "invalid-request"
            ),
        },
    )
    async def decide(request: Request) -> Response:
        """The task goes on once all calls that it waits for are decided. The same decision again changes nothing."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        known = task_uuid(request.path_params["task_id"])
        asked = await _decision(request)
        try:
            ruling = await approvals.decide(principal.tenant_id, known, asked)
        except Unavailable as error:
            raise problems.unavailable("The decision may have been taken: send it again.") from error
        return Json(
            {
                "id": known,
                "call_id": asked.call_id,
                "decision": ruling.decision,
                "decided_by": ruling.decided_by,
                "decided_at": ruling.decided_at,
            }
        )

    return router


def listing_approvals(principals: Principals, approvals: Approving, records: Approvals) -> APIRouter:
    """The record of it."""
    router = APIRouter(route_class=RawRoute, tags=["tasks"], dependencies=[SECURED])

    @router.get(
        "/v1/tasks/{task_id}/approvals",
        summary="List a task's approvals",
        openapi_extra=task_parameters(),
        responses={200: {"model": ApprovalList}, **problem_responses("not-found")},
    )
    async def listed(request: Request) -> Response:
        """Every tool call that waited for a person, oldest first: who decided what, and when."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        known = task_uuid(request.path_params["task_id"])
        rows = await records.listed(principal.tenant_id, known)
        if not rows and not await approvals.exists(principal.tenant_id, known):
            raise no_such_task()
        return Json({"items": [dict(row) for row in rows]})

    return router


async def _decision(request: Request) -> Decision:
    try:
        asked = ApprovalRequest.model_validate_json(await json_body(request))
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
        if details[0]["type"] == "json_invalid":
            raise problems.INVALID.problem("The body is not JSON.") from error
        raise invalid(details) from error
    return Decision(asked.call_id, asked.decision, asked.arguments, asked.reason, asked.user_id, key_name(request))
