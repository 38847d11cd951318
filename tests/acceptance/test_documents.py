"""A tenant's app gives a conversation documents: an agent searches them, says how far it is, reaches nothing inside."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from tests.acceptance.reading import Reading, follow
from tests.acceptance.stack import Stack
from tests.acceptance.tasks import ended, submit
from tests.stage import eventually

pytestmark = [pytest.mark.timeout(300)]


def _tool(name: str, **arguments: Any) -> str:
    return f"tool={name}:{json.dumps(arguments)}"


async def test_an_agent_answers_from_what_it_was_given(stack: Stack) -> None:
    conversation = str(uuid4())
    own = f"/v1/conversations/{conversation}"
    async with stack.client() as client:
        document = {"name": "handbook.md", "content": "Everybody has 25 days of leave.\n\n" + "Nothing else. " * 200}
        uploaded = await client.post(f"{own}/documents", json=document)
        assert uploaded.status_code == 201, uploaded.text
        calls = [
            _tool("report_progress", message="Searching", percentage=20),
            _tool("search_documents", query="How many leaves?", limit=1),
            _tool("fetch_url", url="http://127.0.0.1:15672/api/overview"),
            _tool("calculator", expression="25-3"),
        ]
        text = f"How much leave do I have? [[sim {' '.join(calls)} tokens=40 tps=10]]"
        task = await submit(client, text, agent="researcher", conversation_id=conversation)

        async def tells() -> dict[str, Any]:
            shown: dict[str, Any] = (await client.get(f"/v1/tasks/{task['id']}")).json()
            return shown if shown.get("progress") else {}

        running = await eventually(tells, 60)
        assert (running["progress"]["message"], running["progress"]["percentage"]) == ("Searching", 20.0)
        finished = await ended(client, task["id"], 60)
        assert finished["status"] == "completed", finished
        assert finished["progress"] == running["progress"]

        reading = Reading()
        await follow(client, task["id"], reading)
        told = [event.data["progress"] for event in reading.events if "progress" in event.data]
        assert told == [{"message": "Searching", "percentage": 20.0}]
        results = {event.data["name"]: event.data for event in reading.events if event.type == "tool_end"}
        assert results["search_documents"]["content"].startswith("[handbook.md, passage 1 of ")
        assert "25 days of leave" in results["search_documents"]["content"]
        assert results["fetch_url"]["is_error"]
        assert "is not on the public web" in results["fetch_url"]["content"]
        assert results["calculator"]["content"] == "22"

        assert (await client.delete(own)).status_code == 202
        assert (await client.get(f"{own}/documents")).json() == {"items": []}
