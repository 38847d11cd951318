"""A process whose event loop is late again and again is no longer live, and one that stood still once is."""

from __future__ import annotations

import asyncio
import time

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.testclient import TestClient

from common.health import health_routes
from common.loop_lag import LOOK_SECONDS, LoopLag, measuring_lag
from tests.stage import eventually


@given(st.lists(st.floats(0, 100), max_size=10))
def test_the_lag_is_what_the_last_three_looks_have_in_common(late: list[float]) -> None:
    lag = LoopLag()
    for seconds in late:
        lag.note(seconds)
    assert lag.seconds == min([0.0, 0.0, 0.0, *late][-3:])


def test_a_look_that_came_too_early_is_not_late() -> None:
    lag = LoopLag()
    for _ in range(3):
        lag.note(-0.001)
    assert lag.seconds == 0


def test_it_is_not_live_while_its_loop_is_late() -> None:
    lag = LoopLag()
    client = TestClient(Starlette(routes=health_routes({}, lag)))
    assert (client.get("/health/live").status_code, client.get("/health/live").json()["status"]) == (200, "ok")
    lag.note(60)
    lag.note(60)
    assert client.get("/health/live").status_code == 200, "a machine that stood still twice is no reason to restart"
    lag.note(3.25)
    late = client.get("/health/live")
    assert (late.status_code, late.json()) == (503, {"status": "unavailable", "event_loop_lag_seconds": 3.25})
    lag.note(0.01)
    assert client.get("/health/live").status_code == 200


async def test_a_loop_that_is_held_up_is_measured_and_shown() -> None:
    registry = CollectorRegistry()
    async with measuring_lag(registry) as lag:

        async def measured() -> bool:
            time.sleep(LOOK_SECONDS + 0.2)  # noqa: ASYNC251 - as a tool that computes in the loop would
            return lag.seconds >= 0.1

        await eventually(measured, 60)
        assert (registry.get_sample_value("laneway_event_loop_lag_seconds") or 0) >= 0.1
    assert registry.get_sample_value("laneway_event_loop_lag_seconds") is None
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "loop-lag"]
