"""Storms of faults that pass, and answers that take too long, through both real SDKs: every task ends well, and each
call that was made is held for and recorded once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from agent_worker.providers.base import Provider
from agent_worker.resilience.circuit import Rules
from agent_worker.resilience.deadlines import Deadlines, Timed
from common.contracts import RunFinished, TaskSubmitted
from tests.integration.agent_worker.test_worker_providers import connected
from tests.integration.agent_worker.test_worker_resilience import calls, events, held_for
from tests.integration.agent_worker.world import FIRST, SECOND, World

# Alone it says nothing however long one waits, so neither is a race with what is slow.
HURRIED = Deadlines(first_token=0.3, total=60)
NEVER_OPEN = Rules(minimum=10_000)


@pytest.fixture
async def live(simulator: str) -> AsyncIterator[dict[str, Provider]]:
    made = {api: connected(api, simulator, silence=60) for api in ("messages", "chat")}
    yield made
    for provider in made.values():
        await provider.close()


async def breaks(control: httpx2.AsyncClient, model: str, times: int | None = None, **reply: Any) -> None:
    """So many calls of the model meet with this; without a number all of them."""
    rule = {"match": {"model": model}, "reply": reply, **({} if times is None else {"times": times})}
    (await control.post("/control/rules", json=rule)).raise_for_status()


async def ended(world: World, tasks: list[TaskSubmitted]) -> list[RunFinished]:
    for task in tasks:
        await world.submit(task)
    return list(await asyncio.gather(*(world.heard.end(task.task_id, deadline=60) for task in tasks)))


async def accounted(world: World, control: httpx2.AsyncClient, tasks: list[TaskSubmitted]) -> None:
    """Each attempt has one hold and one record, and the provider counts as many calls."""
    made = 0
    for task in tasks:
        attempts = [record.attempt_id for record in world.heard.usage(task.task_id)]
        assert set(attempts) == await world.holds(task)
        assert len(attempts) == len(set(attempts))
        made += len(attempts)
    assert sum((await calls(control)).values()) == made


STORMS: list[dict[str, Any]] = [
    {"fault": "429", "retry_after": 0.01},
    {"fault": "529"},
    {"fault": "500"},
    {"fault": "cut", "fault_after": 3, "tokens": 20},
    {"fault": "malformed", "fault_after": 3, "tokens": 20},
    {"fault": "error_event", "fault_after": 3, "tokens": 20},
]


@pytest.mark.parametrize("model", [FIRST, SECOND], ids=["messages", "chat"])
@pytest.mark.parametrize("storm", STORMS, ids=[str(storm["fault"]) for storm in STORMS])
async def test_a_storm_that_passes_fails_nobody(
    world: World, control: httpx2.AsyncClient, live: dict[str, Provider], model: str, storm: dict[str, Any]
) -> None:
    await control.delete("/control/audit")
    await breaks(control, model, times=3, **storm)  # however they fall, one run can bear them
    await world.worker(live=live, slots=4, rules=NEVER_OPEN)
    tasks = [world.task('[[sim text="well again"]] hi', model=model) for _ in range(4)]
    ends = await ended(world, tasks)
    assert {(end.status, end.output) for end in ends} == {("completed", "well again")}
    await accounted(world, control, tasks)
    for end in ends:
        log = events(world, end)
        resets = [number for number, event in enumerate(log) if event.type == "reset"]
        said = [event.data["text"] for event in log[resets[-1] if resets else 0 :] if event.type == "token"]
        assert "".join(said) == "well again"  # of what was broken off nothing stands


@pytest.mark.parametrize("model", [FIRST, SECOND], ids=["messages", "chat"])
async def test_a_model_that_does_not_begin_is_asked_again(
    world: World, control: httpx2.AsyncClient, live: dict[str, Provider], model: str
) -> None:
    await breaks(control, model, times=1, fault="stall", tokens=20)
    hurried = {api: Timed(provider, HURRIED) for api, provider in live.items()}
    await world.worker(live=hurried)
    (end,) = await ended(world, [world.task('[[sim text="late"]] hi', model=model)])
    assert (end.status, end.output, end.fallbacks) == ("completed", "late", ())
    first, *_ = world.heard.usage(end.task_id)
    assert first.estimated  # it was read, as far as anybody knows


@pytest.mark.parametrize("fault", [{"fault": "stall", "fault_after": 5}, {"tps": 10}], ids=["silent", "slow"])
async def test_an_answer_that_does_not_end_is_left_for_another_models(
    world: World, control: httpx2.AsyncClient, live: dict[str, Provider], fault: dict[str, Any]
) -> None:
    await breaks(control, FIRST, tokens=5000, **fault)
    live["messages"] = Timed(live["messages"], Deadlines(first_token=60, total=1.0))
    await world.worker(live=live)
    (end,) = await ended(world, [world.task("hi", model=FIRST)])
    assert (end.status, end.output, end.model) == ("completed", "This is a simulated answer to: hi", SECOND)
    assert [fallback.reason for fallback in end.fallbacks] == ["provider_timeout"]
    assert await held_for(world, end.task_id) == {FIRST: 2, SECOND: 1}
    cut = [record for record in world.heard.usage(end.task_id) if record.model == FIRST]
    assert all(record.estimated and record.usage.output_tokens for record in cut)  # what was received is paid for
