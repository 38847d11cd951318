"""`/v1/admin/pauses`: stopping and resuming work. In force on every worker within a second, and kept in a log."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.responses import Response

from common.catalogue import Catalogue
from gateway import pause_documents, problems
from gateway.documentation import problem_responses
from gateway.failures import invalid_field
from gateway.pause_records import Pauses, Scope
from gateway.routes.admin import Administration, Document, admin_router
from gateway.routes.raw import Json
from gateway.schemas import Text


class Paused(Document):
    """What is to be paused or resumed, by whom, and why."""

    scope: Scope = Field(examples=["tier"])
    name: Text | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        examples=["free"],
        description="the tier, tenant id or agent; null for everything",
    )
    by: Text = Field(min_length=1, max_length=200, examples=["ada@example.com"], description="who wants it: logged")
    reason: Text = Field(min_length=1, max_length=500, examples=["provider outage"], description="why: logged")


class NewPause(Paused):
    """What is to be paused."""

    kill: bool = Field(default=False, description="stop and park what runs, too; else running work goes on")


def pausing(administration: Administration, pauses: Pauses, catalogue: Catalogue) -> APIRouter:
    """Pausing everything, a tier, a tenant or an agent, with or without what runs."""
    router = admin_router(administration)

    @router.get(
        "/pauses",
        summary="What is paused, and who paused and resumed what",
        responses={200: {"model": pause_documents.Pauses}, **problem_responses("invalid-request", "unavailable")},
    )
    async def current(log: Annotated[int, Query(ge=0, le=1000, description="entries of the log")] = 100) -> Response:
        return Json({"pauses": [_shown(row) for row in await pauses.current()], "log": await _log(pauses, log)})

    @router.post(
        "/pauses",
        summary="Pause; with `kill`, stop what runs too",
        responses={
            200: {"model": pause_documents.Pause},
            **problem_responses("not-found", "too-large", "invalid-request", "unavailable"),
        },
    )
    async def pause(new: NewPause) -> Response:
        name = await _checked(new, pauses, catalogue)
        return Json(_shown(await pauses.pause(new.scope, name, kill=new.kill, by=new.by, reason=new.reason)))

    @router.post(
        "/pauses/resume",
        status_code=204,
        summary="Resume: what waited goes on",
        responses=problem_responses("not-found", "too-large", "invalid-request", "unavailable"),
    )
    async def resume(paused: Paused) -> Response:
        # As it was paused, though it may be gone since: a tenant's id has one spelling there.
        name = (paused.name or "").lower() if paused.scope == "tenant" else paused.name or ""
        if not await pauses.resume(paused.scope, name, by=paused.by, reason=paused.reason):
            raise problems.NOT_FOUND.problem("That is not paused.")
        return Response(status_code=204)

    return router


async def _checked(paused: Paused, pauses: Pauses, catalogue: Catalogue) -> str:
    """The name, of something that exists. Raises `Problem`."""
    name = paused.name or ""
    if paused.scope == "everything":
        if name:
            raise invalid_field("name", "there is nothing to name where everything is paused: leave it out")
    elif not name:
        raise invalid_field("name", f"say which {paused.scope}")
    elif paused.scope == "tier" and name not in catalogue.tier_names:
        raise invalid_field("name", f"there is no tier {name!r}")
    elif paused.scope == "agent" and catalogue.agent(name) is None:
        raise invalid_field("name", f"there is no agent {name!r}")
    elif paused.scope == "tenant":
        name = await _tenant(name, pauses)
    return name


async def _tenant(name: str, pauses: Pauses) -> str:
    try:
        tenant_id = UUID(name)
    except ValueError:
        raise invalid_field("name", "a tenant is named by its id, a UUID") from None
    if not await pauses.tenant_exists(tenant_id):
        raise problems.NOT_FOUND.problem("There is no such tenant.")
    return str(tenant_id)


async def _log(pauses: Pauses, limit: int) -> list[dict[str, object]]:
    return [_shown(row) for row in await pauses.log(limit)] if limit else []


def _shown(row: dict[str, object]) -> dict[str, object]:
    row = {**row, "name": row["name"] or None}
    row["by"] = row.pop("set_by")
    return row
