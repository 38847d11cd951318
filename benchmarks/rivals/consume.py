"""Consume and acknowledge, and nothing else: `python -m benchmarks.rivals.consume URL QUEUE COUNT`.

Prints messages per second, from the first to the last.
"""

from __future__ import annotations

import asyncio
import sys
from time import perf_counter

import aio_pika
import uvloop

BATCH = 500
PREFETCH = 2000


async def consume(url: str, queue_name: str, count: int) -> float:
    """Acknowledges in batches of the size that the persister has, with the same prefetch."""
    done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    began, seen = 0.0, 0

    async def receive(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        nonlocal began, seen
        began = began or perf_counter()
        seen += 1
        if seen % BATCH == 0 or seen == count:
            await message.ack(multiple=True)
        if seen == count:
            done.set_result(perf_counter() - began)

    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        queue = await channel.declare_queue(queue_name, passive=True)
        await queue.consume(receive)
        async with asyncio.timeout(120):
            return count / await done


if __name__ == "__main__":
    address, name, expected = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(runner.run(consume(address, name, int(expected))))
