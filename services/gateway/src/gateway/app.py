"""The application: its routes in order, and the word on every error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastapi import APIRouter, FastAPI

from common.health import Check, health_routes
from common.loop_lag import LoopLag
from gateway.failures import install
from gateway.metrics import Metrics

_DESCRIPTION = """
Submit AI-agent tasks, follow them as they run, and read what they cost.

Errors are `application/problem+json` (RFC 9457) with a stable `type`. Money is a decimal string in US dollars. Times
are RFC 3339. An event stream ends with `done`; one that breaks off is resumed with `Last-Event-ID`.
"""
_SIMULATED = "\n**Answers here are simulated**: no model is called. Responses say so in `x-laneway-simulated`.\n"


def application(
    routers: Sequence[APIRouter], checks: Mapping[str, Check], lag: LoopLag, metrics: Metrics, *, simulated: bool
) -> FastAPI:
    """The ASGI application."""
    app = FastAPI(
        title="Laneway",
        version="1",
        description=_DESCRIPTION + (_SIMULATED if simulated else ""),
        redoc_url=None,
        openapi_url="/openapi.json",
    )
    for router in routers:
        app.include_router(router)
    app.router.routes.extend(health_routes(checks, lag, metrics.registry))
    install(app)
    return app
