"""`/v1/admin`: tenants, keys, limits and users' tiers. Every change is told to all gateways."""

from __future__ import annotations

import hmac
from typing import Annotated, TypeAlias
from uuid import UUID

import structlog
import uuid_utils.compat
from fastapi import APIRouter, Body, Path
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from common.contracts import PrincipalsChanged
from common.errors import BrokerUnavailable
from common.messaging.publisher import Publisher
from common.messaging.topology import CONTROL
from gateway import documents, problems
from gateway.documentation import problem_responses
from gateway.failures import invalid_field
from gateway.identities import Identities, Limits
from gateway.keys import ApiKey
from gateway.principals import Principals
from gateway.routes.raw import SECURED, Json, checked
from gateway.schemas import Text

_log = structlog.get_logger(__name__)


class Document(BaseModel):
    """A body, of which each field has a meaning."""

    model_config = ConfigDict(extra="forbid")


Cap: TypeAlias = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)] | None


class NewTenant(Document):
    """A tenant to be made."""

    name: Text = Field(min_length=1, max_length=200, examples=["Acme"])
    plan: Text = Field(min_length=1, max_length=100, examples=["pro"])


class NewKey(Document):
    """A key to be made."""

    name: Text = Field(default="key", min_length=1, max_length=200, examples=["production"])


class UserTier(Document):
    """A user's own tier."""

    tier: Text = Field(max_length=31, examples=["free"])


class OwnLimits(Document):
    """What one tenant may, where it is not what its plan allows."""

    max_outstanding: Cap = Field(description="tasks that have not ended; null: as its plan says", examples=[5000])
    max_running: Cap = Field(description="tasks that run at a time; null: as its plan says", examples=[20])


class Administration:
    """Checks the administrator's key, and tells the other gateways."""

    def __init__(self, key: str | None, principals: Principals, publisher: Publisher) -> None:
        self._key = key
        self._principals = principals
        self._publisher = publisher

    async def check(self, request: Request) -> None:
        """Raises `Problem`: 404 where there is no admin API, 401 where the key is another."""
        if self._key is None:
            raise problems.NOT_FOUND.problem("The admin API is not enabled here.")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.strip().encode(), self._key.encode()):
            raise problems.UNAUTHENTICATED.problem(
                "The admin key is not valid.", headers={"WWW-Authenticate": 'Bearer realm="laneway-admin"'}
            )

    async def changed(self, tenant_id: UUID) -> None:
        """Forget the tenant here, and ring the bell; a gateway that misses it forgets within a minute."""
        contract = PrincipalsChanged(tenant_id=tenant_id)
        self._principals.hear(contract)
        try:
            await self._publisher.publish(CONTROL, "", contract, subject=tenant_id, stable_id=str(tenant_id))
        except BrokerUnavailable as error:
            _log.warning("principals.untold", tenant_id=str(tenant_id), error=repr(error))


def admin_router(administration: Administration) -> APIRouter:
    """Routes below `/v1/admin`, for those who have the key."""
    return APIRouter(
        prefix="/v1/admin", tags=["admin"], dependencies=[SECURED], route_class=checked(administration.check)
    )


def tenants_and_keys(administration: Administration, identities: Identities) -> APIRouter:
    """Making tenants, making and revoking keys."""
    router = admin_router(administration)

    @router.post(
        "/tenants",
        status_code=201,
        summary="Make a tenant",
        responses={201: {"model": documents.Tenant}, **problem_responses("not-found", "too-large", "invalid-request")},
    )
    async def add_tenant(tenant: NewTenant) -> Response:
        tenant_id = uuid_utils.compat.uuid7()
        if not await identities.add_tenant(tenant_id, tenant.name, tenant.plan):
            raise invalid_field("plan", f"there is no plan {tenant.plan!r}")
        return Json({"id": tenant_id, "name": tenant.name, "plan": tenant.plan}, 201)

    @router.post(
        "/tenants/{tenant_id}/keys",
        status_code=201,
        summary="Make an API key: it is shown this once",
        responses={201: {"model": documents.Key}, **problem_responses("not-found", "too-large", "invalid-request")},
    )
    async def add_key(tenant_id: UUID, key: Annotated[NewKey | None, Body()] = None) -> Response:
        made = ApiKey.mint()
        if not await identities.add_key(tenant_id, made, (key or NewKey()).name):
            raise problems.NOT_FOUND.problem("There is no such tenant.")
        await administration.changed(tenant_id)
        return Json({"key_id": made.key_id, "key": made.token, "tenant_id": tenant_id}, 201)

    @router.delete(
        "/keys/{key_id}",
        status_code=204,
        summary="Revoke an API key",
        responses=problem_responses("not-found", "invalid-request"),
    )
    async def revoke_key(key_id: Annotated[Text, Path(max_length=64)]) -> Response:
        tenant_id = await identities.revoke_key(key_id)
        if tenant_id is None:
            raise problems.NOT_FOUND.problem("There is no such key.")
        await administration.changed(tenant_id)
        return Response(status_code=204)

    return router


def limits(administration: Administration, identities: Identities) -> APIRouter:
    """What single tenants may."""
    router = admin_router(administration)

    @router.get(
        "/tenants/{tenant_id}/limits",
        summary="Show a tenant's own limits, and its plan's",
        responses={200: {"model": documents.TenantLimits}, **problem_responses("not-found", "invalid-request")},
    )
    async def get_limits(tenant_id: UUID) -> Response:
        return _limits(tenant_id, await identities.limits(tenant_id))

    @router.put(
        "/tenants/{tenant_id}/limits",
        summary="Set a tenant's own limits",
        responses={
            200: {"model": documents.TenantLimits},
            **problem_responses("not-found", "too-large", "invalid-request"),
        },
    )
    async def put_limits(tenant_id: UUID, asked: OwnLimits) -> Response:
        answer = _limits(tenant_id, await identities.put_limits(tenant_id, asked.max_outstanding, asked.max_running))
        await administration.changed(tenant_id)
        return answer

    return router


def _limits(tenant_id: UUID, found: Limits | None) -> Response:
    if found is None:
        raise problems.NOT_FOUND.problem("There is no such tenant.")
    return Json(
        {
            "tenant_id": tenant_id,
            "max_outstanding": found.max_outstanding,
            "max_running": found.max_running,
            "plan": {
                "name": found.plan,
                "max_outstanding": found.plan_max_outstanding,
                "max_running": found.plan_max_running,
            },
        }
    )


def users(administration: Administration, identities: Identities, tiers: tuple[str, ...]) -> APIRouter:
    """Tiers of single users."""
    router = admin_router(administration)

    @router.put(
        "/tenants/{tenant_id}/users/{user_id}",
        summary="Set a user's tier",
        responses={200: {"model": documents.User}, **problem_responses("not-found", "too-large", "invalid-request")},
    )
    async def put_user(tenant_id: UUID, user_id: Annotated[Text, Path(max_length=200)], user: UserTier) -> Response:
        if user.tier not in tiers:
            raise invalid_field("tier", f"there is no tier {user.tier!r}")
        if not await identities.put_user(tenant_id, user_id, user.tier):
            raise problems.NOT_FOUND.problem("There is no such tenant.")
        await administration.changed(tenant_id)
        return Json({"tenant_id": tenant_id, "user_id": user_id, "tier": user.tier})

    return router
