"""The composition root: what the process is made of, opened and closed in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from billing import handlers
from billing.budget_warnings import tell_forever
from billing.drain import Drain
from billing.settings import BillingSettings
from billing.sweeper import sweep_forever
from common import postgres
from common.health import Check, serving_health
from common.lifecycle import stop
from common.messaging.connection import Broker
from common.messaging.consumer import BatchConsumer, depth
from common.messaging.publisher import publisher
from common.messaging.topology import BILLING, BILLING_QUEUE, LONGEST_RETRY_SECONDS


@asynccontextmanager
async def billing(settings: BillingSettings) -> AsyncIterator[list[asyncio.Task[None]]]:
    """The running service; yields the tasks that are to run for as long as it does."""
    timeout = settings.postgres.timeout
    async with (
        postgres.pool(settings.postgres, BILLING, role="laneway_billing") as pool,
        Broker(settings.rabbit, BILLING) as broker,
        publisher(settings.rabbit, BILLING) as sender,
    ):
        settle = partial(handlers.settle_usage, pool=pool, timeout=timeout)
        consumer = BatchConsumer(BILLING_QUEUE, settle, decode=handlers.read)

        drain = Drain(
            pool,
            timeout,
            interval=settings.sweep.interval,
            longest_retry=LONGEST_RETRY_SECONDS,
            depth=partial(depth, broker, BILLING_QUEUE),
            lag=lambda: consumer.lag if broker.ready else None,
        )

        async def broker_ready() -> bool:
            return broker.ready

        tasks = [
            asyncio.create_task(consumer.run(broker), name="consumer"),
            asyncio.create_task(sweep_forever(pool, timeout, settings.sweep, drain), name="sweeper"),
            asyncio.create_task(tell_forever(pool, timeout, sender), name="warnings"),
        ]
        checks: dict[str, Check] = {"rabbitmq": broker_ready, "postgresql": partial(postgres.answers, pool, timeout)}
        try:
            async with serving_health(settings.health, checks):
                yield tasks
        finally:
            await stop(*tasks)
