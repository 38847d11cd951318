"""`python -m persister`."""

from __future__ import annotations

import asyncio

from common.lifecycle import run, until_stopped
from common.messaging.topology import PERSISTER
from common.settings import load
from persister.bootstrap import persister
from persister.settings import PersisterSettings


def main() -> int:
    """Run the service until it is told to stop."""
    settings = load(PersisterSettings)

    async def serve(stopping: asyncio.Event) -> None:
        async with persister(settings) as tasks:
            await until_stopped(stopping, *tasks)

    return run(PERSISTER, settings.telemetry, serve)


if __name__ == "__main__":
    raise SystemExit(main())
