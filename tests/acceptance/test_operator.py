"""What an operator pauses waits, what an operator kills stops, and all of it goes on afterwards, as the log tells."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import httpx2
import pytest

from tests.acceptance.operating import BY, pause, resume
from tests.acceptance.reading import Reading, follow
from tests.acceptance.stack import Stack
from tests.acceptance.tasks import ended, shown, submit
from tests.stage import eventually

pytestmark = [pytest.mark.timeout(300)]
SCOPES = ("tier", "tenant", "agent", "everything")
WORKERS = ("agent-worker-1", "agent-worker-2")


@pytest.fixture
def stack(own_stacks: tuple[Stack, Stack]) -> Stack:
    return own_stacks[0]


def _name(stack: Stack, scope: str) -> str | None:
    names = {"tier": "pro", "tenant": str(stack.tenants["pro"]), "agent": "analyst", "everything": None}
    return names[scope]


async def _log(stack: Stack) -> list[dict[str, Any]]:
    """The newest first."""
    async with stack.operator() as operator:
        answer: dict[str, Any] = (await operator.get("/v1/admin/pauses")).json()
    entries: list[dict[str, Any]] = answer["log"]
    return entries


@asynccontextmanager
async def _read(client: httpx2.AsyncClient, task_id: str) -> AsyncIterator[tuple[Reading, asyncio.Task[Reading]]]:
    """The stream of a task that has begun to speak, and who reads it to its end."""
    reading = Reading()
    following = asyncio.create_task(follow(client, task_id, reading, 120))

    async def speaks() -> bool:
        return any(event.type == "token" for event in reading.events)

    try:
        await eventually(speaks, 30)
        yield reading, following
    finally:
        following.cancel()


async def _submit(client: httpx2.AsyncClient, text: str) -> str:
    return str((await submit(client, text, agent="analyst"))["id"])


@pytest.mark.parametrize("scope", SCOPES)
async def test_of_what_is_paused_nothing_begins_and_what_runs_goes_on(stack: Stack, scope: str) -> None:
    async with stack.client("pro") as client:
        going_on = await _submit(client, "Goes on [[sim tokens=20 tps=15]]")
        async with _read(client, going_on) as (reading, following):
            await pause(stack, scope, _name(stack, scope))
            # From the answer on: what comes now never begins before it may.
            waiting = await _submit(client, "Waits [[sim tokens=2]]")
            await following
            assert (await ended(client, going_on))["status"] == "completed"
            assert len([event for event in reading.events if event.type == "start"]) == 1
            assert (await client.get(f"/v1/tasks/{waiting}")).json()["status"] in ("queued", "parked")
            await resume(stack, scope, _name(stack, scope))
        finished = await ended(client, waiting, 60)
    assert (finished["status"], finished["attempts"]) == ("completed", 1)
    resumed, paused = (await _log(stack))[:2]
    assert (resumed["action"], paused["action"]) == ("resume", "pause")
    assert datetime.fromisoformat(paused["at"]) < datetime.fromisoformat(resumed["at"])
    assert datetime.fromisoformat(finished["started_at"]) > datetime.fromisoformat(resumed["at"])


async def test_others_than_those_who_are_paused_are_served(stack: Stack) -> None:
    async with stack.client("pro") as paused, stack.client("free") as other:
        for scope in ("tier", "tenant"):
            await pause(stack, scope, _name(stack, scope))
            waiting = await _submit(paused, "Waits [[sim tokens=2]]")
            served = await _submit(other, "Served [[sim tokens=2]]")
            assert (await ended(other, served))["status"] == "completed"
            assert (await paused.get(f"/v1/tasks/{waiting}")).json()["started_at"] is None
            await resume(stack, scope, _name(stack, scope))
            assert (await ended(paused, waiting, 60))["status"] == "completed"


@pytest.mark.parametrize("scope", ["tenant", "everything"])
async def test_what_is_killed_stops_and_is_parked_and_its_stream_goes_on(stack: Stack, scope: str) -> None:
    async with stack.client("pro") as client:
        task = await _submit(client, "A long answer [[sim tokens=60 tps=15]]")
        async with _read(client, task) as (reading, following):
            await pause(stack, scope, _name(stack, scope), kill=True)
            waiting = await shown(client, task, "parked")
            assert waiting["parked"]["reason"] == "paused"
            spoken = reading.text
            assert len(spoken.split()) < 60, "it was not let run to its end"
            await resume(stack, scope, _name(stack, scope))
            await following
        finished = await ended(client, task)
    # It had its turn when it was stopped: that costs no attempt.
    assert (finished["status"], finished["attempts"]) == ("completed", 1)
    assert reading.text == finished["output"]
    types = [(event.id.fence, event.type, event.data.get("status")) for event in reading.events]
    told = next(place for place, event in enumerate(types) if event[2] == "parked")
    assert types[told + 1][1] == "reset"
    assert types[-1] == (2, "done", "completed")


async def test_a_kill_outlives_the_processes_that_carry_it_out(own_stacks: tuple[Stack, Stack]) -> None:
    stack, second = own_stacks
    async with stack.client("pro") as client, stack.client("enterprise") as other:
        stopped = await _submit(client, "Stopped [[sim tokens=30 tps=15]]")
        async with _read(client, stopped) as (reading, following):
            before = len(await _log(stack))
            await pause(stack, "everything")
            queued = [await _submit(app, "Queued [[sim tokens=2]]") for app in (client, other)]
            await pause(stack, "everything", kill=True)
            await shown(client, stopped, "parked")
            for worker in WORKERS:
                stack.kill(worker)
            for one in own_stacks:
                one.kill("persister")
            for name in (*WORKERS, "persister"):
                stack.start(name)
            second.start("persister")
            for one in own_stacks:
                one.until_ready()
            late = await _submit(other, "Late [[sim tokens=2]]")

            async def reported() -> bool:
                """Both workers are there, and have slots, and none for anybody."""
                async with stack.operator() as operator:
                    lanes = (await operator.get("/v1/admin/lanes")).json()["items"]
                return all(found["workers"] == 2 and found["slots_free"] == 0 for found in lanes)

            await eventually(reported, 30)
            async with stack.operator() as operator:
                [kept] = (await operator.get("/v1/admin/pauses")).json()["pauses"]
            assert (kept["scope"], kept["kill"]) == ("everything", True)
            assert (await client.get(f"/v1/tasks/{stopped}")).json()["status"] == "parked"
            await resume(stack, "everything")
            await following
        finished = await ended(client, stopped, 60)
        for task, reader in zip([*queued, late], (client, other, other), strict=True):
            run = await ended(reader, task, 60)
            assert (run["status"], run["attempts"]) == ("completed", 1)
            assert datetime.fromisoformat(run["started_at"]) > datetime.fromisoformat((await _log(stack))[0]["at"])
    assert finished["status"] == "completed"
    assert reading.text == finished["output"]
    written = (await _log(stack))[: len(await _log(stack)) - before]
    assert [entry["action"] for entry in written] == ["resume", "kill", "pause"]
    assert {(entry["scope"], entry["by"], entry["reason"]) for entry in written} == {("everything", *BY.values())}
    assert [entry["at"] for entry in written] == sorted((entry["at"] for entry in written), reverse=True)
