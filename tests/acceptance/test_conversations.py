"""A tenant's app talks: through every provider's API, while workers die and Redis forgets."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest
import redis.asyncio

from tests.acceptance.stack import Stack
from tests.acceptance.tasks import ended, ledger_sum, settled, submit
from tests.stage import eventually

pytestmark = [pytest.mark.timeout(300)]
_COMPUTE = '[[sim tool=calculator:{"expression":"6*7"} tokens=30]]'


async def _messages(client: httpx2.AsyncClient, conversation: str) -> list[dict[str, Any]]:
    page = (await client.get(f"/v1/conversations/{conversation}/messages", params={"limit": 100})).json()
    items: list[dict[str, Any]] = page["items"]
    return items


def _blocks(messages: list[dict[str, Any]], turn: int) -> list[str]:
    return [block["type"] for message in messages if message["turn"] == turn for block in message["content"]]


async def test_a_conversation_goes_from_one_providers_api_to_another(stack: Stack) -> None:
    conversation = str(uuid4())
    served_by = [
        {"agent": "default"},  # Anthropic Messages
        {"agent": "analyst"},  # Chat Completions
        {"agent": "analyst", "model": "gpt-5.4"},  # Responses
        {"agent": "default"},
        {"agent": "writer"},  # Anthropic Messages, with no tools
    ]
    read: list[int] = []
    async with stack.client() as client:
        for how in served_by:
            task = await submit(client, f"Compute {_COMPUTE}", conversation_id=conversation, **how)
            finished = await ended(client, task["id"])
            assert finished["status"] == "completed", finished
            read.append(finished["usage"]["input_tokens"] // finished["steps"])

        async def recorded() -> dict[str, Any]:
            """An end is told before it is recorded."""
            shown: dict[str, Any] = (await client.get(f"/v1/conversations/{conversation}")).json()
            return shown if (shown["turns"], shown["busy"]) == (5, False) else {}

        await eventually(recorded, 30)
        messages = await _messages(client, conversation)
        assert (await client.get(f"/v1/tasks/{task['id']}")).json()["conversation_id"] == conversation
    for turn in range(1, 5):
        assert _blocks(messages, turn) == ["text", "tool_call", "tool_result", "text"], turn
    assert _blocks(messages, 5) == ["text", "text"]
    assert read[:4] == sorted(read[:4]), "each was shown more than the one before"
    assert read[3] > read[0] + 3 * 30, "the answers of three turns at least"


async def test_a_conversation_survives_its_worker_and_redis(fragile_stack: Stack) -> None:
    stack, conversation = fragile_stack, str(uuid4())
    async with stack.client() as client:
        first = await submit(
            client,
            '[[sim tool=calculator:{"expression":"6*7"} tokens=40 tps=15]] first',
            conversation_id=conversation,
        )

        async def one_step_is_saved() -> bool:
            query = "SELECT count(*) AS n FROM runtime.steps WHERE task_id = $1"
            [row] = await stack.rows(query, UUID(first["id"]))
            return bool(row["n"])

        await eventually(one_step_is_saved, 30)
        waiting = [await submit(client, f"m{n}", conversation_id=conversation) for n in range(5)]
        victim = await stack.worker_of(first["id"])
        stack.kill(victim)
        async with redis.asyncio.from_url(stack.stage.servers.redis_state_url) as state:
            await state.flushall()
        tasks = [await settled(client, task["id"], 60) for task in (first, *waiting)]
        stack.start(victim)
        stack.until_ready()

        async def all_recorded() -> bool:
            return len([m for m in await _messages(client, conversation) if m["role"] == "user"]) == 6

        await eventually(all_recorded, 30)
        messages = await _messages(client, conversation)
    assert [task["status"] for task in tasks] == ["completed"] * 6
    assert tasks[0]["attempts"] == 2
    asked = [message["content"][0]["text"] for message in messages if message["role"] == "user"]
    assert "first" in asked[0]
    assert asked[1:] == [f"m{n}" for n in range(5)]
    read = [task["usage"]["input_tokens"] for task in tasks[1:]]
    assert read == sorted(read)
    assert len(set(read)) == 5, "each was shown what those before it said"
    for task in tasks:
        assert await ledger_sum(stack, task["id"], "") == 0


async def test_a_deleted_conversation_is_still_paid_for(stack: Stack) -> None:
    conversation, own = str(uuid4()), "/v1/conversations"
    async with stack.client() as client:
        done = await submit(client, f"secret {_COMPUTE}", conversation_id=conversation)
        cost = (await settled(client, done["id"]))["cost_usd"]
        running = await submit(client, "secret [[sim tokens=2000 tps=20]]", conversation_id=conversation)

        async def is_running() -> bool:
            return bool((await client.get(f"/v1/tasks/{running['id']}")).json()["status"] == "running")

        await eventually(is_running, 30)  # of two that come at once either may be first
        waiting = await submit(client, "secret", conversation_id=conversation)

        async def is_parked() -> bool:
            task = (await client.get(f"/v1/tasks/{waiting['id']}")).json()
            return bool(task["status"] == "parked" and task["parked"]["reason"] == "conversation_busy")

        await eventually(is_parked, 30)
        assert (await client.delete(f"{own}/{conversation}")).status_code == 202

        async def complete() -> bool:
            return bool((await client.delete(f"{own}/{conversation}")).json()["complete"])

        await eventually(complete, 30)
        statuses = [(await ended(client, task["id"]))["status"] for task in (done, running, waiting)]
        assert statuses == ["completed", "cancelled", "cancelled"]
        emptied = (await client.get(f"/v1/tasks/{done['id']}")).json()
        assert (emptied["output"], emptied["cost_usd"]) == (None, cost)
        async with asyncio.timeout(20):
            stream = await client.get(f"/v1/tasks/{done['id']}/events")
        assert "secret" not in stream.text
    identifiers = [UUID(task["id"]) for task in (done, running, waiting)]
    for table in ("history.messages", "history.events", "runtime.steps", "runtime.turns"):
        [row] = await stack.rows(f"SELECT count(*) AS n FROM {table} WHERE task_id = ANY ($1)", identifiers)
        assert row["n"] == 0, table
