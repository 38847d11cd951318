"""Tools in whole runs: the real SDKs ask for them as the simulator is told, and the results go back to the model."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx2
import orjson
import pytest

from agent_worker.providers.anthropic import AnthropicMessages
from agent_worker.providers.base import Provider
from agent_worker.providers.openai import client
from agent_worker.providers.openai_chat import OpenAIChat
from common.contracts import RunFinished
from common.contracts.events import StreamEvent
from tests.integration.agent_worker.world import FIRST, SECOND, World
from tests.unit.agent_worker.web import page, serving

DEADLINE = 60.0


@pytest.fixture
async def live(simulator: str) -> AsyncIterator[dict[str, Provider]]:
    timeout = httpx2.Timeout(30.0)
    providers: dict[str, Provider] = {
        "messages": AnthropicMessages("any", simulator, timeout, 4),
        "chat": OpenAIChat(client("any", f"{simulator}/v1", timeout, 4)),
    }
    yield providers
    for provider in providers.values():
        await provider.close()


@pytest.fixture(params=[FIRST, SECOND], ids=["anthropic", "openai"])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def calling(*calls: tuple[str, dict[str, Any]], steps: int = 1) -> str:
    """A prompt that makes the simulator call tools, and then say that it is done."""
    tools = " ".join(f"tool={name}:{orjson.dumps(arguments).decode()}" for name, arguments in calls)
    return f'[[sim {tools} steps={steps} text="done"]] go on'


async def ran(world: World, model: str, text: str, **changes: Any) -> RunFinished:
    task = world.task(text, **{"agent": "clerk", "model": model, **changes})
    await world.submit(task)
    return await world.heard.end(task.task_id, DEADLINE)


def results(end: RunFinished) -> list[tuple[str, bool]]:
    """What the tools answered, in order."""
    return [
        (block["content"], block["is_error"])
        for message in end.messages
        for block in message.content
        if block["type"] == "tool_result"
    ]


def events(world: World, end: RunFinished) -> list[StreamEvent]:
    """The whole log."""
    return [e for p in world.heard.progress(end.task_id) for e in p.events] + list(end.events)


async def upload(world: World, tenant: UUID, conversation: UUID, name: str, *passages: str, **more: Any) -> None:
    """As the gateway does."""
    verdict = await world.owner.fetchval(
        "SELECT runtime.add_document($1, $2, $3, $4, $5, $6, $7, 50, 5000000, 500000000)",
        uuid4(),
        tenant,
        conversation,
        name,
        more.get("language", "english"),
        hashlib.sha256(name.encode()).digest(),
        list(passages),
    )
    assert verdict == "added"


async def test_what_does_not_fit_goes_back_to_the_model(world: World, live: dict[str, Provider], model: str) -> None:
    await world.worker(live=live)
    end = await ran(
        world,
        model,
        calling(
            ("calculator", {"expression": "6*7"}),
            ("calculator", {"formula": "6*7"}),
            ("calculator", {"expression": "6*"}),
            ("report_progress", {"message": "far", "percentage": 1000}),
            ("fetch_url", {"url": "http://169.254.169.254/latest/meta-data/"}),
            ("search_documents", {"query": "anything"}),
        ),
    )
    assert (end.status, end.output) == ("completed", "done")
    found = results(end)
    assert found[0] == ("42", False)
    assert [is_error for _, is_error in found[1:]] == [True] * 5
    assert "argument 'expression': Field required; argument 'formula': Extra inputs are not permitted" in found[1][0]
    assert found[2][0].startswith("not an arithmetic expression")
    assert "percentage" in found[3][0]
    assert "169.254.169.254:80 is not on the public web" in found[4][0]
    assert found[5][0] == "this task is in no conversation, so there are no documents"


async def test_a_page_is_fetched_and_a_flood_is_cut(world: World, live: dict[str, Provider], model: str) -> None:
    await world.worker(live=live)
    answers = {
        "/page": page("<html><body><h1>Lanes</h1><script>no()</script><p>There are three.</p>", "text/html"),
        "/flood": page("x" * 2_000_000, "text/plain"),
    }
    async with serving(answers) as web:
        here = f"http://127.0.0.1:{web.port}"
        end = await ran(
            world, model, calling(("fetch_url", {"url": f"{here}/page"}), ("fetch_url", {"url": f"{here}/flood"}))
        )
    assert end.status == "completed"
    found = results(end)
    assert found[0] == (f"{here}/page (text/html)\n\nLanes\n\nThere are three.", False)
    assert found[1][0].endswith("more characters were cut off]")
    assert len(found[1][0]) < 32_100
    told = [event.data["content"] for event in events(world, end) if event.type == "tool_end"]
    assert told == [content for content, _ in found]


async def test_the_agent_tells_how_far_it_is(world: World, live: dict[str, Provider], model: str) -> None:
    await world.worker(live=live)
    task = world.task(
        calling(("report_progress", {"message": "Reading the\u0000 report", "percentage": 40.04})),
        agent="clerk",
        model=model,
    )
    await world.submit(task)
    end = await world.heard.end(task.task_id, DEADLINE)
    assert results(end) == [("The user was told.", False)]
    log = [event for event in events(world, end) if event.type in ("tool_start", "status", "tool_end")]
    assert [event.type for event in log] == ["tool_start", "status", "tool_end", "status"]
    told = {"message": "Reading the\ufffd report", "percentage": 40.0}
    assert log[1].data == {"status": "running", "progress": told}

    progress = (await world.run_row(task))["progress"]
    assert progress.pop("at")
    assert progress == told
    # Who lost the run changes nothing any more.
    await world.owner.execute("SELECT runtime.report_progress($1, 99, $2)", task.task_id, {"message": "late"})
    await world.owner.execute("SELECT runtime.report_progress($1, 1, $2)", task.task_id, {"message": "late"})
    assert (await world.run_row(task))["progress"]["message"] == told["message"]


async def test_documents_of_the_conversation_are_searched_and_no_others(
    world: World, live: dict[str, Provider], model: str
) -> None:
    tenant, conversation = world.stage.new_tenant(), uuid4()
    await upload(world, tenant, conversation, "handbook", "Everybody has 25 days of leave.\n\n", "Doors close at six.")
    await upload(world, tenant, conversation, "urlaub", "Im Sommer sind die Häuser geschlossen.", language="german")
    await upload(world, tenant, uuid4(), "elsewhere", "The leave of another conversation.")
    await upload(world, world.stage.new_tenant(), conversation, "foreign", "The leave of another tenant.")
    await world.worker(live=live)
    end = await ran(
        world,
        model,
        calling(
            ("search_documents", {"query": "How many leaves does everyone have? days"}),
            ("search_documents", {"query": "leaving doors & | ! ' (", "limit": 1}),
            ("search_documents", {"query": "Haus"}),
            ("search_documents", {"query": "elephants"}),
            ("search_documents", {"query": "the"}),
            ("search_documents", {"query": "x" * 501}),
        ),
        tenant_id=tenant,
        conversation_id=conversation,
    )
    assert (end.status, end.output) == ("completed", "done")
    found = results(end)
    assert found[0] == ("[handbook, passage 1 of 2]\nEverybody has 25 days of leave.", False)
    assert found[1][0].startswith("[handbook, passage ")
    assert found[1][0].count("[handbook") == 1
    assert found[2] == ("[urlaub, passage 1 of 1]\nIm Sommer sind die Häuser geschlossen.", False)
    nothing = "No passage has any of these words. The documents are: handbook, urlaub."
    assert found[3:5] == [(nothing, False)] * 2
    assert found[5][1]
    assert not any("another" in content for content, _ in found)


async def test_a_conversation_without_documents_says_so(world: World, live: dict[str, Provider]) -> None:
    await world.worker(live=live)
    end = await ran(world, FIRST, calling(("search_documents", {"query": "leave"})), conversation_id=uuid4())
    assert results(end) == [("the user has given no documents to this conversation", True)]


async def test_passages_with_all_words_come_first(world: World, live: dict[str, Provider]) -> None:
    tenant, conversation = world.stage.new_tenant(), uuid4()
    await upload(world, tenant, conversation, "one", "red red red red", "a red car", "blue car", "nothing of it")
    await world.worker(live=live)
    text = calling(("search_documents", {"query": "red cars"}))
    end = await ran(world, FIRST, text, tenant_id=tenant, conversation_id=conversation)
    ((content, _),) = results(end)
    assert content.startswith("[one, passage 2 of 4]\na red car\n\n")
    assert content.count("[one, passage") == 3


async def test_a_model_that_calls_a_tool_for_ever_is_asked_to_wrap_up(
    world: World, live: dict[str, Provider], model: str
) -> None:
    await world.worker(live=live)
    end = await ran(world, model, calling(("calculator", {"expression": "1+1"}), steps=1000))
    assert (end.status, end.output, end.steps) == ("completed", "done", 4)
    assert results(end) == [("2", False)] * 3
    wrapped = [event.data for event in events(world, end) if "wrapping_up" in event.data]
    assert [data["wrapping_up"] for data in wrapped] == ["max_steps"]


async def test_more_calls_at_once_than_are_run_are_told_so(world: World, live: dict[str, Provider], model: str) -> None:
    await world.worker(live=live)
    end = await ran(world, model, calling(*(("calculator", {"expression": f"{n}*2"}) for n in range(20))))
    found = results(end)
    assert found[:16] == [(str(2 * n), False) for n in range(16)]
    assert [is_error for _, is_error in found[16:]] == [True] * 4
    assert end.status == "completed"
