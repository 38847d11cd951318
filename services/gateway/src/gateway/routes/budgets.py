"""`/v1/budgets`, and the same for operators, who may set others: in force for the next model call of every run."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, get_args
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from gateway import problems
from gateway.budget_documents import (
    BudgetList,
    BurningList,
    By,
    NewBudget,
    NewTimeZone,
    Reason,
    TenantBudgets,
    TimeZone,
)
from gateway.budget_records import OF_MANY, OF_TENANT, Budgets, Scope, UnknownZoneError
from gateway.documentation import problem_responses
from gateway.failures import invalid_field, invalid_parameter
from gateway.principals import Principals
from gateway.routes.admin import Administration, admin_router
from gateway.routes.raw import SECURED, Json
from gateway.schemas import Text

_MOST = 1000
_ADMIN = problem_responses("not-found", "too-large", "invalid-request", "unavailable")
_SHOWN: dict[int | str, dict[str, Any]] = {200: {"model": TenantBudgets}}
ScopeAsked = Annotated[
    Scope | None, Query(description="one scope's: left out, the tenant's own and what each of the others has")
]
Subject = Annotated[Text | None, Query(max_length=200, description="the user, conversation or task: that one alone")]
After = Annotated[Text, Query(max_length=200, description="`next` of the answer before")]
Limit = Annotated[int, Query(ge=1, le=_MOST)]


def budgeting(principals: Principals, budgets: Budgets) -> APIRouter:
    """The tenant's own."""
    router = APIRouter(tags=["budgets"], dependencies=[SECURED])

    @router.get(
        "/v1/budgets",
        summary="Budgets: cap, held, charged, left",
        responses={200: {"model": BudgetList}, **problem_responses("invalid-request")},
    )
    async def listed(
        request: Request, scope: ScopeAsked = None, subject: Subject = None, after: After = "", limit: Limit = 100
    ) -> Response:
        """Money is a decimal string. `left_usd` is what the next call may cost at most, in this scope."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        return Json(await _listed(budgets, principal.tenant_id, scope, subject, after, limit))

    return router


def budgets_of_tenants(administration: Administration, budgets: Budgets) -> APIRouter:
    """Any tenant's, for those who have the admin key: to read, and to set."""
    router = admin_router(administration)

    @router.get(
        "/tenants/{tenant_id}/budgets",
        summary="A tenant's budgets, what was set in place of its plan's, and by whom",
        responses=_SHOWN | _ADMIN,
    )
    async def listed(
        tenant_id: UUID,
        scope: ScopeAsked = None,
        subject: Subject = None,
        after: After = "",
        limit: Limit = 100,
        log: Annotated[int, Query(ge=0, le=_MOST, description="entries of the log")] = 100,
    ) -> Response:
        document = await _listed(budgets, tenant_id, scope, subject, after, limit)
        return Json({"tenant_id": tenant_id, **document, **await _set(budgets, tenant_id, log)})

    @router.put(
        "/tenants/{tenant_id}/budgets/{scope}",
        summary="Set a tenant's budget, or that of each of its runs, users or conversations",
        responses=_SHOWN | _ADMIN,
    )
    async def put(tenant_id: UUID, scope: Scope, new: NewBudget) -> Response:
        return await changed(tenant_id, scope, "", new.cap_usd, new.by, new.reason)

    @router.put(
        "/tenants/{tenant_id}/budgets/{scope}/{subject:path}",
        summary="Set the budget of one user, conversation or run",
        responses=_SHOWN | _ADMIN,
    )
    async def put_one(tenant_id: UUID, scope: Scope, subject: Text, new: NewBudget) -> Response:
        return await changed(tenant_id, scope, _subject(scope, subject), new.cap_usd, new.by, new.reason)

    @router.delete(
        "/tenants/{tenant_id}/budgets/{scope}",
        summary="Let the plan's budget be in force again",
        responses=_SHOWN | _ADMIN,
    )
    async def remove(
        tenant_id: UUID, scope: Scope, by: Annotated[By, Query()], reason: Annotated[Reason, Query()]
    ) -> Response:
        return await changed(tenant_id, scope, "", None, by, reason)

    @router.delete(
        "/tenants/{tenant_id}/budgets/{scope}/{subject:path}",
        summary="Let one user, conversation or run have what each of them has again",
        responses=_SHOWN | _ADMIN,
    )
    async def remove_one(
        tenant_id: UUID, scope: Scope, subject: Text, by: Annotated[By, Query()], reason: Annotated[Reason, Query()]
    ) -> Response:
        return await changed(tenant_id, scope, _subject(scope, subject), None, by, reason)

    async def changed(
        tenant_id: UUID, scope: Scope, subject: str, cap: Decimal | None, by: str, reason: str
    ) -> Response:
        if not await budgets.put(tenant_id, scope, subject, cap, by=by, reason=reason):
            raise problems.NOT_FOUND.problem("There is no such tenant, or no such budget was set for it.")
        document = await _listed(budgets, tenant_id, scope, subject, "", 1)
        return Json({"tenant_id": tenant_id, **document, **await _set(budgets, tenant_id, 1)})

    return router


def time_zones(administration: Administration, budgets: Budgets) -> APIRouter:
    """When tenants' days and months begin."""
    router = admin_router(administration)

    @router.put(
        "/tenants/{tenant_id}/time-zone",
        summary="Set the time zone of a tenant's days and months",
        responses={200: {"model": TimeZone}, **_ADMIN},
    )
    async def put(tenant_id: UUID, new: NewTimeZone) -> Response:
        """The present day and month go on, unless it is a later one there already: then that one begins now."""
        try:
            known = await budgets.put_time_zone(tenant_id, new.time_zone, by=new.by, reason=new.reason)
        except UnknownZoneError:
            raise invalid_field(
                "time_zone", f"there is no time zone {new.time_zone!r}: name one of IANA's, as Europe/Vienna or UTC"
            ) from None
        document = await budgets.of_tenant(tenant_id) if known else None
        if document is None:
            raise problems.NOT_FOUND.problem("There is no such tenant.")
        day, month = (document["budgets"][OF_TENANT.index(scope)]["period"] for scope in ("tenant_day", "tenant_month"))
        return Json({"tenant_id": tenant_id, "time_zone": document["time_zone"], "day": day, "month": month})

    return router


def burn_rates(administration: Administration, budgets: Budgets) -> APIRouter:
    """Who would use up its month before it ends."""
    router = admin_router(administration)

    @router.get(
        "/burn-rates",
        summary="Tenants whose rate would use up their month before it ends",
        responses={200: {"model": BurningList}, **problem_responses("unavailable")},
    )
    async def burning() -> Response:
        """At the rate of the last two days; alerted as `LanewayTenantsBurning`."""
        return Json({"tenants": await budgets.burning()})

    return router


async def _listed(
    budgets: Budgets, tenant_id: UUID, scope: Scope | None, subject: str | None, after: str, limit: int
) -> dict[str, Any]:
    if scope is None and (subject or after):
        raise invalid_parameter("scope", f"say of which scope: one of {', '.join(get_args(Scope))}")
    if scope in OF_TENANT and subject:
        raise invalid_parameter("subject", f"a {scope} budget is the tenant's: leave it out")
    if scope is None:
        document = await budgets.of_tenant(tenant_id)
    else:
        document = await budgets.of_scope(tenant_id, scope, "" if scope in OF_TENANT else subject, after, limit)
    if document is None:
        raise problems.NOT_FOUND.problem("There is no such tenant.")
    return document


async def _set(budgets: Budgets, tenant_id: UUID, log: int) -> dict[str, Any]:
    return {"overrides": await budgets.overrides(tenant_id, _MOST), "log": await budgets.log(tenant_id, log)}


def _subject(scope: Scope, subject: str) -> str:
    """As holds name it. Raises `Problem` where it can be none of the scope's."""
    if scope in OF_TENANT:
        raise invalid_parameter("subject", f"a {scope} budget is the tenant's: set it without naming anybody")
    if not 1 <= len(subject) <= 200:
        raise invalid_parameter("subject", "must have 1 to 200 characters")
    if scope not in OF_MANY or scope == "user_day":
        return subject
    try:
        return str(UUID(subject))
    except ValueError:
        raise invalid_parameter("subject", f"a {scope} is named by its id, a UUID") from None
