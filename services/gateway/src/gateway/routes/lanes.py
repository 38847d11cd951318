"""`/v1/admin/lanes`: how long the lanes are, how old, and who serves them."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from gateway.documentation import problem_responses
from gateway.documents import LaneList
from gateway.lanes import Lanes
from gateway.routes.admin import Administration, admin_router
from gateway.routes.raw import Json


def showing_lanes(administration: Administration, lanes: Lanes) -> APIRouter:
    """All lanes."""
    router = admin_router(administration)

    @router.get(
        "/lanes", summary="Show the lanes", responses={200: {"model": LaneList}, **problem_responses("not-found")}
    )
    async def show() -> Response:
        """`work` is what to scale workers by. The numbers are some seconds old at most, as `as_of` says."""
        return Json({"items": await lanes.numbers()})

    return router
