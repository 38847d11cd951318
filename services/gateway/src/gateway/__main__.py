"""`python -m gateway`: serve until told to stop, then leave in good order."""

from __future__ import annotations

import asyncio

import structlog

from common.lifecycle import run, until_stopped
from common.messaging.topology import GATEWAY
from common.settings import load
from gateway.bootstrap import bootstrap
from gateway.server import Server
from gateway.settings import Settings

_log = structlog.get_logger(__name__)


async def _main(settings: Settings, stopping: asyncio.Event) -> None:
    async with bootstrap(settings) as gateway:
        if settings.simulated:
            _log.warning("providers.simulated", meaning="answers come from a simulator, and are marked so")
        server = Server(gateway.app, settings.http)
        serving = asyncio.create_task(server.serve_forever(), name="http")
        try:
            await until_stopped(stopping, serving, *gateway.background)
            # Red first, so that no balancer sends more; then streams, whose clients go on elsewhere; then the rest.
            gateway.draining.set()
            await asyncio.sleep(settings.http.drain_seconds)
            gateway.hub.close()
        finally:
            await server.close(serving)


def main() -> int:
    """Run the service; exit code 2 where a setting is missing or contradictory."""
    settings = load(Settings)
    return run(GATEWAY, settings.telemetry, lambda stopping: _main(settings, stopping))


if __name__ == "__main__":
    raise SystemExit(main())
