"""Answers that are to match a schema, through both real SDKs against the simulator."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from agent_worker.providers.base import Provider
from common.answer_schema import AnswerForm
from tests.integration.agent_worker.test_worker_providers import APIS, ask, asking, connected, text
from tests.integration.agent_worker.test_worker_resilience import events, held_for
from tests.integration.agent_worker.world import FIRST, SECOND, World

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "postcode": {"type": ["string", "null"], "minLength": 4}},
    "required": ["city"],
}


@pytest.fixture
async def live(simulator: str) -> AsyncIterator[dict[str, Provider]]:
    made = {api: connected(api, simulator, silence=60) for api in ("messages", "chat")}
    yield made
    for provider in made.values():
        await provider.close()


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("strict", [False, True])
async def test_each_provider_is_asked_natively(simulator: str, api: str, strict: bool) -> None:
    schema = SCHEMA if not strict else {**SCHEMA, "properties": {"city": {"type": "string"}}}
    provider = connected(api, simulator)
    pieces, meter = await ask(provider, replace(asking("hello"), response_schema=schema))
    assert AnswerForm(schema).problem(text(pieces)) is None
    assert "city" in json.loads(text(pieces))  # of the schema, which nothing but the request has told
    assert meter.final
    await provider.close()


@pytest.mark.parametrize("model", [FIRST, SECOND], ids=["messages", "chat"])
async def test_an_answer_that_matches(
    world: World, control: httpx2.AsyncClient, live: dict[str, Provider], model: str
) -> None:
    await world.worker(live=live)
    task = world.task("Where?", model=model, response_schema=SCHEMA)
    await world.submit(task)
    end = await world.heard.end(task.task_id, deadline=30)
    assert (end.status, end.structured, end.steps) == ("completed", True, 1)
    assert AnswerForm(SCHEMA).problem(end.output or "") is None


@pytest.mark.parametrize("model", [FIRST, SECOND], ids=["messages", "chat"])
async def test_an_answer_that_does_not_is_repaired_once_and_both_calls_are_paid(
    world: World, control: httpx2.AsyncClient, live: dict[str, Provider], model: str
) -> None:
    await world.worker(live=live)
    task = world.task('[[sim text="{\\"city\\": 4}"]] Where?', model=model, response_schema=SCHEMA)
    await world.submit(task)
    end = await world.heard.end(task.task_id, deadline=30)
    assert (end.status, end.structured, end.steps) == ("completed", True, 2)
    log = events(world, end)
    (repairing,) = (event.data["repairing"] for event in log if "repairing" in event.data)
    assert repairing == 'at /city: 4 is not of type "string"'
    last_reset = max(number for number, event in enumerate(log) if event.type == "reset")
    assert log[last_reset].data["reason"] == "response_does_not_match"
    assert "".join(event.data["text"] for event in log[last_reset:] if event.type == "token") == end.output
    assert await held_for(world, task.task_id) == {model: 2}
    usage = world.heard.usage(task.task_id)
    assert [record.step for record in usage] == [1, 2]
    assert {record.attempt_id for record in usage} == await world.holds(task)


async def test_one_that_never_does_fails_and_says_what_was_wrong(
    world: World, control: httpx2.AsyncClient, live: dict[str, Provider]
) -> None:
    rule = {"match": {"model": FIRST}, "reply": {"text": "I think it is Vienna."}}
    (await control.post("/control/rules", json=rule)).raise_for_status()
    await world.worker(live=live)
    task = world.task("Where?", model=FIRST, response_schema=SCHEMA)
    await world.submit(task)
    end = await world.heard.end(task.task_id, deadline=30)
    assert end.error is not None
    assert (end.status, end.error.type, end.output, end.structured) == (
        "failed",
        "response_does_not_match",
        None,
        False,
    )
    assert "it is not JSON alone" in end.error.message
    assert await held_for(world, task.task_id) == {FIRST: 2}
    assert [event.data.get("type") for event in end.events if event.type == "error"] == ["response_does_not_match"]


async def test_an_answer_that_was_cut_says_so(
    world: World, control: httpx2.AsyncClient, live: dict[str, Provider]
) -> None:
    await world.worker(live=live)
    task = world.task("Where?", model=FIRST, response_schema=SCHEMA, max_output_tokens=2)
    await world.submit(task)
    end = await world.heard.end(task.task_id, deadline=30)
    assert end.error is not None
    assert end.error.type == "response_does_not_match"
    assert "max_output_tokens" in end.error.message
