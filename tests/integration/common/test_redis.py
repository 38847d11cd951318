from __future__ import annotations

import asyncio

import pytest

from common import redis
from common.errors import CacheUnavailable
from tests.stage import Stage

STEPS = 80


async def test_a_cancellation_is_never_lost_wherever_in_a_command_it_comes(stage: Stage) -> None:
    async def commands(client: redis.Client) -> None:
        while True:
            await client.get("nothing")

    async with redis.client(stage.servers.redis_state_url, timeout=5, connections=2) as client:
        for steps in range(STEPS):
            task = asyncio.create_task(commands(client))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=1)
            task.cancel()
            assert done, f"it went on after {steps} steps"


async def test_a_server_that_does_not_answer_is_an_error_in_time() -> None:
    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    held: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    async with server, asyncio.timeout(60):
        async with redis.client(url, timeout=0.2, connections=1) as client:
            with pytest.raises(CacheUnavailable), redis.reporting():
                await client.get("nothing")
        for writer in held:  # the server waits for them
            writer.close()
