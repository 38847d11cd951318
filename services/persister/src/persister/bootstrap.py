"""The composition root: what the process is made of, opened and closed in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from common import postgres, redis
from common.health import Advisory, Check, serving_health
from common.lifecycle import stop
from common.messaging.connection import Broker
from common.messaging.consumer import BatchConsumer
from common.messaging.publisher import publisher
from common.messaging.settlement import Disposition
from common.messaging.topology import DEAD_EVENTS_QUEUE, DEAD_TASKS_QUEUE, PERSISTER, PERSISTER_QUEUE
from common.pipelining import Pipelined
from persister import dead_letters, handlers
from persister.burial import bury_forever
from persister.erasing import erase_forever
from persister.partitions import keep_partitions
from persister.settings import PersisterSettings
from persister.sweeping import sweep_forever
from persister.waker import Waker

_REDIS_CONNECTIONS = 2


@asynccontextmanager
async def persister(settings: PersisterSettings) -> AsyncIterator[list[asyncio.Task[None]]]:
    """The running service; yields the tasks that are to run for as long as it does."""
    timeout = settings.postgres.timeout
    state_url, redis_timeout = settings.redis.state_url.get_secret_value(), settings.redis.timeout
    async with (
        postgres.pool(settings.postgres, PERSISTER, role="laneway_persister") as pool,
        redis.client(state_url, timeout=redis_timeout, connections=_REDIS_CONNECTIONS) as state,
        publisher(settings.rabbit, PERSISTER) as publish,
        Broker(settings.rabbit, PERSISTER) as broker,
    ):
        pipelined = Pipelined(state, redis_timeout)
        record = partial(handlers.record, pool=pool, timeout=timeout, redis=pipelined)
        file = partial(handlers.file_dead_letters, pool=pool, timeout=timeout)
        file_tasks = partial(file, bury=True)

        waker = Waker(settings.postgres, publish, pipelined)

        async def broker_ready() -> bool:
            return broker.ready and publish.ready

        async def redis_answers() -> bool:
            return bool(await state.ping())

        work = {
            PERSISTER_QUEUE: BatchConsumer(PERSISTER_QUEUE, record, decode=handlers.read).run(broker),
            DEAD_TASKS_QUEUE: BatchConsumer(
                DEAD_TASKS_QUEUE, file_tasks, decode=dead_letters.read, hopeless=Disposition.RETRY
            ).run(broker),
            DEAD_EVENTS_QUEUE: BatchConsumer(
                DEAD_EVENTS_QUEUE, file, decode=dead_letters.read, hopeless=Disposition.RETRY
            ).run(broker),
            "burial": bury_forever(pool, timeout),
            "waker": waker.run(),
            "partitions": keep_partitions(pool, timeout),
            "sweeping": sweep_forever(pool, timeout, pipelined),
            "erasing": erase_forever(pool, timeout, pipelined),
        }
        tasks = [asyncio.create_task(coroutine, name=name) for name, coroutine in work.items()]
        checks: dict[str, Check] = {
            "rabbitmq": broker_ready,
            "postgresql": partial(postgres.answers, pool, timeout),
            "redis": Advisory(redis_answers),
        }
        try:
            async with serving_health(settings.health, checks):
                yield tasks
        finally:
            await stop(*tasks)
