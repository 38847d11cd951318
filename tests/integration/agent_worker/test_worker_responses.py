"""OpenAI's Responses in whole runs: tools, usage, schemas, and what becomes of a run when it fails."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from agent_worker.providers.base import Provider
from agent_worker.resilience.deadlines import Timed
from common.answer_schema import AnswerForm
from common.contracts.runs import Fallback
from tests.integration.agent_worker.test_worker_answers import SCHEMA
from tests.integration.agent_worker.test_worker_providers import connected
from tests.integration.agent_worker.test_worker_resilience import FAULTS, SHORT, breaks, held_for
from tests.integration.agent_worker.test_worker_tool_use import events, results
from tests.integration.agent_worker.world import FIRST, THIRD, World
from tests.stage import eventually

DEADLINE = 60.0
_SCRIPT = '[[sim tool=calculator:{"expression":"6*7"} tool=calculator:{"expression":"6*"} cached=40 text="It is 42."]]'


@pytest.fixture
async def live(simulator: str) -> AsyncIterator[dict[str, Provider]]:
    made = {api: connected(api, simulator, silence=60) for api in ("messages", "responses")}
    yield made
    for provider in made.values():
        await provider.close()


async def test_tools_and_usage(world: World, control: httpx2.AsyncClient, live: dict[str, Provider]) -> None:
    await world.worker(live=live)
    task = world.task(f"What is 6 times 7? {_SCRIPT}", agent="clerk", model=THIRD)
    await world.submit(task)
    end = await world.heard.end(task.task_id, DEADLINE)
    assert (end.status, end.output, end.steps, end.model) == ("completed", "It is 42.", 2, THIRD)
    (made, wrong) = results(end)
    assert (made, wrong[1]) == (("42", False), True)
    said = "".join(event.data["text"] for event in events(world, end) if event.type == "token")
    assert said.endswith("It is 42.")

    async def recorded() -> bool:
        return len(world.heard.usage(task.task_id)) == 2

    await eventually(recorded, DEADLINE)
    audited = (await control.get("/control/audit", params={"limit": 1000})).json()["calls"]
    served = {call["request_id"]: call for call in audited if call["model"] == THIRD}
    for record in world.heard.usage(task.task_id):
        call = served[record.provider_request_id]
        assert not record.estimated
        assert record.usage.cache_read_tokens == 40
        for kind in ("input_tokens", "cache_read_tokens", "output_tokens"):
            assert getattr(record.usage, kind) == call[kind], kind
    assert end.usage.cache_read_tokens == 80
    assert await held_for(world, task.task_id) == {THIRD: 2}


async def test_an_answer_that_is_to_match(world: World, control: httpx2.AsyncClient, live: dict[str, Provider]) -> None:
    await world.worker(live=live)
    task = world.task("Where?", model=THIRD, response_schema=SCHEMA)
    await world.submit(task)
    end = await world.heard.end(task.task_id, DEADLINE)
    assert (end.status, end.structured) == ("completed", True)
    assert AnswerForm(SCHEMA).problem(end.output or "") is None


@pytest.mark.parametrize(("reply", "reason", "tries"), FAULTS, ids=[str(reply["fault"]) for reply, _, _ in FAULTS])
async def test_another_provider_answers(
    world: World,
    control: httpx2.AsyncClient,
    live: dict[str, Provider],
    reply: dict[str, Any],
    reason: str,
    tries: int,
) -> None:
    await breaks(control, THIRD, **reply)
    if reply["fault"] == "stall":  # it says nothing however long one waits, so this is no race
        live["responses"] = Timed(live["responses"], SHORT)
    await world.worker(live=live)
    task = world.task('[[sim text="from the other"]] hi', model=THIRD)
    await world.submit(task)
    end = await world.heard.end(task.task_id, DEADLINE)
    assert (end.status, end.output, end.model) == ("completed", "from the other", FIRST)
    assert end.fallbacks == (Fallback(step=1, from_model=THIRD, to_model=FIRST, reason=reason),)
    assert await held_for(world, task.task_id) == {THIRD: tries, FIRST: 1}
