"""`/health/live`, `/health/ready`, `/health` and `/metrics`, for every service in the same words.

Live means that this process works; it never depends on another server. Ready means that what it needs answers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import uvicorn
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from common.settings import Health

Check = Callable[[], Awaitable[bool]]
_CHECK_SECONDS = 2.0


async def report(checks: Mapping[str, Check]) -> tuple[bool, dict[str, str]]:
    """Run all checks side by side, each within its deadline: whether all are well, and each one's word."""
    results = await asyncio.gather(*(_checked(check) for check in checks.values()))
    words = {name: "ok" if well else "unavailable" for name, well in zip(checks, results, strict=True)}
    return all(results), words


async def _checked(check: Check) -> bool:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            return await check()
    except Exception:  # noqa: BLE001 - a check that fails in any way says: not ready
        return False


def health_routes(checks: Mapping[str, Check], registry: CollectorRegistry = REGISTRY) -> list[Route]:
    """The routes, for an application of one's own; with a registry of its own, that one is shown."""

    async def live(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        well, words = await report(checks)
        return JSONResponse(
            {"status": "ok" if well else "unavailable", "checks": words}, status_code=200 if well else 503
        )

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=content_type)

    return [
        Route("/health/live", live),
        Route("/health/ready", ready),
        Route("/health", ready),
        Route("/metrics", metrics),
    ]


@asynccontextmanager
async def serving_health(health: Health, checks: Mapping[str, Check]) -> AsyncIterator[None]:
    """Serve the routes on a port of their own while the context lasts."""
    config = uvicorn.Config(
        Starlette(routes=health_routes(checks)),
        host=health.host,
        port=health.port,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(), name="health")
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.wait({task}, timeout=3)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the service's own lifecycle hears the signals."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield
