"""A client's gateway goes, killed or stopped, and it goes on at another: nothing is missing, nothing comes twice."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from tests.acceptance.reading import Reading, follow
from tests.acceptance.stack import Stack, running
from tests.acceptance.tasks import settled, submit
from tests.stage import eventually

pytestmark = [pytest.mark.timeout(180)]


@pytest.mark.parametrize("how", ["kill", "terminate"])
async def test_a_stream_goes_on_at_another_gateway(stack: Stack, tmp_path: Path, how: str) -> None:
    reading = Reading()
    with running(stack.stage, tmp_path, ("gateway",)) as second:
        async with (
            stack.client("pro") as elsewhere,
            httpx2.AsyncClient(base_url=second.url, headers=elsewhere.headers, timeout=30) as client,
        ):
            task = await submit(client, "Tell [[sim tokens=80 tps=20]]")
            following = asyncio.create_task(follow(client, task["id"], reading))

            async def begun() -> bool:
                return sum(event.type == "token" for event in reading.events) >= 5

            await eventually(begun, 60)
            await asyncio.to_thread(getattr(second, how), "gateway")
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
            seen = len(reading.events)
            assert not reading.done, "the run outlives the gateway"
            await follow(elsewhere, task["id"], reading)
            whole = await follow(elsewhere, task["id"], Reading())
            finished = await settled(elsewhere, task["id"])
    assert (finished["status"], finished["attempts"]) == ("completed", 1)
    assert len(reading.events) > seen
    assert [event.id for event in reading.events] == [event.id for event in whole.events]
    assert reading.text == finished["output"]
