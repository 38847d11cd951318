"""A run whose workers die is run alone; if that process dies too it is ended, and what is known of it is said."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from uuid import UUID

import pytest

from tests.acceptance.stack import Stack
from tests.acceptance.tasks import ended, submit
from tests.stage import eventually

pytestmark = [pytest.mark.timeout(300)]
TWO_STEPS = 'Slow [[sim tool=calculator:{"expression":"6*7"} tokens=300 tps=20]]'


@pytest.fixture
def stack(own_stacks: tuple[Stack, Stack]) -> Stack:
    return own_stacks[0]


async def _holder(stack: Stack, task_id: str, attempts: int) -> str:
    """The worker that holds the run in this attempt, by name."""

    async def held() -> str | None:
        query = "SELECT worker FROM runtime.runs WHERE task_id = $1 AND attempts = $2 AND lease_until > now()"
        rows = await stack.rows(query, UUID(task_id), attempts)
        return rows[0]["worker"] if rows else None

    return await eventually(held, 90) or ""


async def _alone(stack: Stack, task_id: str) -> int:
    """The process that was given the run alone, once it has it."""

    async def given() -> int | None:
        name = await _holder(stack, task_id, 3)
        return int(name.removesuffix("/alone").rpartition("-")[2]) if name.endswith("/alone") else None

    return await eventually(given, 60) or 0


async def _kill_two_workers(stack: Stack, task_id: str) -> None:
    for attempt in (1, 2):
        await _holder(stack, task_id, attempt)
        victim = await stack.worker_of(task_id)
        stack.kill(victim)
        stack.start(victim)
    stack.until_ready()


async def test_a_run_that_kills_three_processes_is_given_up_with_what_is_known(stack: Stack) -> None:
    async with stack.client() as client:
        task = await submit(client, TWO_STEPS)
        await _kill_two_workers(stack, task["id"])
        child = await _alone(stack, task["id"])
        assert child not in {stack.pid(f"agent-worker-{n}") for n in (1, 2)}
        other = await submit(client, "Beside it [[sim tokens=5]]")
        assert (await ended(client, other["id"]))["status"] == "completed"

        async def one_step() -> bool:
            query = "SELECT FROM runtime.steps WHERE task_id = $1"
            return bool(await stack.rows(query, UUID(task["id"])))

        await eventually(one_step, 60)
        os.kill(child, signal.SIGKILL)
        finished = await ended(client, task["id"], 60)
    assert (finished["status"], finished["error"]["type"]) == ("failed", "killed_its_worker")
    message = finished["error"]["message"]
    assert message.startswith("3 workers died with this run, the last one while it ran nothing else")
    assert "SIGKILL" in message
    assert "step 1 was the last that was finished" in message
    for number in (1, 2):
        assert _runs(stack.pid(f"agent-worker-{number}")), "no other worker died of it"


async def test_a_run_that_is_not_at_fault_completes_alone(stack: Stack) -> None:
    async with stack.client() as client:
        task = await submit(client, TWO_STEPS)
        await _kill_two_workers(stack, task["id"])
        child = await _alone(stack, task["id"])
        finished = await ended(client, task["id"], 60)
    assert (finished["status"], finished["attempts"], finished["steps"]) == ("completed", 3, 2)

    async def gone() -> bool:
        return not _runs(child)

    await eventually(gone, 30)


async def test_a_cancel_reaches_a_run_that_runs_alone(stack: Stack) -> None:
    async with stack.client() as client:
        task = await submit(client, TWO_STEPS)
        await _kill_two_workers(stack, task["id"])
        await _alone(stack, task["id"])
        assert (await client.post(f"/v1/tasks/{task['id']}/cancel")).status_code == 200
        assert (await ended(client, task["id"], 30))["status"] == "cancelled"


async def test_a_worker_that_stops_gives_back_what_runs_alone(stack: Stack) -> None:
    async with stack.client() as client:
        task = await submit(client, "Slow [[sim tokens=300 tps=5]]")
        await _kill_two_workers(stack, task["id"])
        child = await _alone(stack, task["id"])
        parent = next(name for name in ("agent-worker-1", "agent-worker-2") if _parent_of(child) == stack.pid(name))
        stack.kill(parent)

        async def gone() -> bool:
            return not _runs(child)

        await eventually(gone, 60)  # it does not outlive who gave it the run
        stack.start(parent)
        stack.until_ready()
        assert (await client.post(f"/v1/tasks/{task['id']}/cancel")).status_code == 200
        assert (await ended(client, task["id"], 60))["status"] == "cancelled"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
