"""Taskiq on the same broker, for reference: quorum queue, acknowledged when the result is saved, results in Redis.

A worker is `taskiq worker benchmarks.rivals.taskiq_app:broker`; `python -m benchmarks.rivals.taskiq_app COUNT` submits
so many tasks, waits for their results, and prints tasks per second.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

import redis.asyncio
from taskiq import AsyncResultBackend, TaskiqResult
from taskiq.acks import AcknowledgeType
from taskiq_aio_pika import AioPikaBroker, Queue, QueueType

_CLIENTS = 64
_SECONDS = 240


class RedisResults(AsyncResultBackend[str]):
    """Results in Redis, as Taskiq's own package for it keeps them."""

    def __init__(self, url: str) -> None:
        self._redis = redis.asyncio.Redis.from_url(url)

    async def set_result(self, task_id: str, result: TaskiqResult[str]) -> None:
        await self._redis.set(task_id, result.model_dump_json())

    async def is_result_ready(self, task_id: str) -> bool:
        return bool(await self._redis.exists(task_id))

    async def get_result(self, task_id: str, with_logs: bool = False) -> TaskiqResult[str]:  # noqa: ARG002 - the protocol's
        return TaskiqResult[str].model_validate_json(await self._redis.get(task_id) or b"")

    async def shutdown(self) -> None:
        await self._redis.aclose()


broker = AioPikaBroker(
    os.environ["RIVAL_BROKER"], qos=200, task_queues=[Queue(name="taskiq-rival", type=QueueType.QUORUM)]
).with_result_backend(RedisResults(os.environ["RIVAL_RESULTS"]))


@broker.task("no-op", ack_type=AcknowledgeType.WHEN_SAVED.value)
async def no_op(text: str) -> str:
    """Does nothing."""
    return text


async def measure(count: int) -> float:
    """Tasks per second, from the first submission to the last result."""
    results = redis.asyncio.Redis.from_url(os.environ["RIVAL_RESULTS"])
    await broker.startup()
    await (await no_op.kiq("warm")).wait_result(timeout=60)
    await results.flushdb()
    left = iter(range(count))

    async def client() -> None:
        for _ in left:
            await no_op.kiq("Nothing.")

    began = time.perf_counter()
    async with asyncio.timeout(_SECONDS):
        await asyncio.gather(*(client() for _ in range(_CLIENTS)))
        while await results.dbsize() < count:  # noqa: ASYNC110 - what changes is in other processes
            await asyncio.sleep(0.05)
    rate = count / (time.perf_counter() - began)
    await broker.shutdown()
    await results.aclose()
    return rate


if __name__ == "__main__":
    print(asyncio.run(measure(int(sys.argv[1]))))
