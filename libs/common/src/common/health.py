"""`/health/live`, `/health/ready`, `/health` and `/metrics`, for every service in the same words.

Live means that this process works: its event loop is not seconds late again and again. It never depends on another
server. Ready means that what it needs answers; what it
can do without for a while is shown beside that, as degraded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvicorn
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from common.listening import QuietServer, listen
from common.loop_lag import LoopLag, measuring_lag
from common.settings import Health

Check = Callable[[], Awaitable[bool]]
_CHECK_SECONDS = 2.0
# By then answers miss their deadlines, and leases end while their runs go on.
_MOST_LAG_SECONDS = 2.0
_WORDS = ("ok", "degraded", "unavailable")


@dataclass(frozen=True)
class Advisory:
    """A check of what the service can do without: it serves on, with less, and says so."""

    check: Check

    async def __call__(self) -> bool:
        """As the check itself."""
        return await self.check()


async def report(checks: Mapping[str, Check]) -> tuple[str, dict[str, str]]:
    """Run all checks side by side, each within its deadline: each one's word, and the worst of them."""
    results = await asyncio.gather(*(_checked(check) for check in checks.values()))
    words = {name: _word(checks[name], well) for name, well in zip(checks, results, strict=True)}
    return max(words.values(), key=_WORDS.index, default="ok"), words


def _word(check: Check, well: bool) -> str:
    if well:
        return "ok"
    return "degraded" if isinstance(check, Advisory) else "unavailable"


async def _checked(check: Check) -> bool:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            return await check()
    except Exception:  # noqa: BLE001 - a check that fails in any way says: not ready
        return False


def health_routes(checks: Mapping[str, Check], lag: LoopLag, registry: CollectorRegistry = REGISTRY) -> list[Route]:
    """The routes, for an application of one's own; with a registry of its own, that one is shown."""

    async def live(_: Request) -> Response:
        late = lag.seconds > _MOST_LAG_SECONDS
        status = "unavailable" if late else "ok"
        document = {"status": status, "event_loop_lag_seconds": round(lag.seconds, 3)}
        return JSONResponse(document, status_code=503 if late else 200)

    async def ready(_: Request) -> Response:
        status, words = await report(checks)
        return JSONResponse({"status": status, "checks": words}, status_code=503 if status == "unavailable" else 200)

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
    """Serve the routes on a port of their own while the context lasts. Raises `Unavailable` where it is taken."""
    listener = listen(health.host, health.port)
    async with measuring_lag(REGISTRY) as lag:
        config = uvicorn.Config(
            Starlette(routes=health_routes(checks, lag)),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        server = QuietServer(config)
        task = asyncio.create_task(server.serve([listener]), name="health")
        try:
            yield
        finally:
            server.should_exit = True
            await asyncio.wait({task}, timeout=3)
