"""`python -m billing`."""

from __future__ import annotations

import asyncio

from billing.bootstrap import billing
from billing.settings import BillingSettings
from common.lifecycle import run, until_stopped
from common.messaging.topology import BILLING
from common.settings import load


def main() -> int:
    """Run the service until it is told to stop."""
    settings = load(BillingSettings)

    async def serve(stopping: asyncio.Event) -> None:
        async with billing(settings) as tasks:
            await until_stopped(stopping, *tasks)

    return run(BILLING, settings.telemetry, serve)


if __name__ == "__main__":
    raise SystemExit(main())
