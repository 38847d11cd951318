"""A FastAPI endpoint of nothing but the confirmed publish: `python -m benchmarks.rivals.submit URL LANE PORT`."""

from __future__ import annotations

import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

HOST = "127.0.0.1"


class Task(BaseModel):
    """As little as one can ask for."""

    input: str


def application(url: str, lane: str) -> FastAPI:
    """The endpoint, and a health check for whoever waits for it."""
    channels: list[aio_pika.abc.AbstractChannel] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with await aio_pika.connect_robust(url) as connection:
            channels.append(await connection.channel(publisher_confirms=True))
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/health/ready")
    async def ready() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/tasks", status_code=202)
    async def submit(task: Task) -> dict[str, Any]:
        message = aio_pika.Message(
            task.model_dump_json().encode(),
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=str(uuid.uuid4()),
        )
        exchange = await channels[0].get_exchange("tasks", ensure=False)
        await exchange.publish(message, lane, mandatory=True, timeout=5)
        return {"id": message.message_id, "status": "queued"}

    return app


if __name__ == "__main__":
    broker, routing_key, port = sys.argv[1:]
    # The loop and the parser that the gateway has.
    uvicorn.run(
        application(broker, routing_key), host=HOST, port=int(port), loop="uvloop", http="httptools", access_log=False
    )
