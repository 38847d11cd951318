"""A tenant brings tools of its own: registered over HTTP, called by a worker's runs, approved by a person."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.acceptance.reading import Reading, follow
from tests.acceptance.stack import Stack, running
from tests.acceptance.tasks import settled, shown, submit
from tests.servers import Servers
from tests.stage import staged
from tests.unit.agent_worker.mcp_serving import over_http

pytestmark = [pytest.mark.timeout(300)]
_OWN_NETWORKS = {"LANEWAY_MCP_NETWORKS": "127.0.0.0/8"}
_SETTINGS = dict.fromkeys(("gateway", "agent-worker-1", "agent-worker-2"), _OWN_NETWORKS)


@pytest.fixture(scope="module")
def permissive(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose operator lets tenants' servers be on this machine."""
    logs = tmp_path_factory.mktemp("permissive")
    with staged(servers) as stage, running(stage, logs, settings=_SETTINGS) as stack:
        yield stack


@pytest.fixture
async def address(unused_tcp_port: int, tmp_path: Path) -> AsyncIterator[str]:
    async with over_http(unused_tcp_port, tmp_path) as url:
        yield url


async def register(client: httpx2.AsyncClient, url: str, **fields: Any) -> None:
    """Before the tenant's first task: what is registered later counts ten seconds later."""
    made = await client.put("/v1/mcp-servers/post", json={"url": url, "agents": ["default"], **fields})
    assert made.status_code == 201, made.text


async def test_a_run_calls_a_tool_of_its_tenants(permissive: Stack, address: str) -> None:
    async with permissive.client("pro") as client:
        await register(client, address, auth={"value": "Bearer s3cret"})
        script = '[[sim tool=my_post__add:{"a":40,"b":2} tool=my_post__who:{} text="It is 42."]]'
        task = await submit(client, f"Add them. {script}")
        reading = await follow(client, task["id"], Reading())
        finished = await settled(client, task["id"])
    assert (finished["status"], finished["output"]) == ("completed", "It is 42.")
    results = {event.data["name"]: event.data["content"] for event in reading.events if event.type == "tool_end"}
    assert results == {"my_post__add": "42", "my_post__who": "Bearer s3cret None"}


async def test_a_person_approves_what_a_tenants_tool_would_do(permissive: Stack, address: str) -> None:
    async with permissive.client("free") as client:
        await register(client, address, ask=True, trust_annotations=True)
        script = '[[sim tool=my_post__send:{"to":"ann"} text="It is sent."]]'
        task = await submit(client, f"Write to Ann. {script}")
        await shown(client, task["id"], "parked", 60)
        approvals = f"/v1/tasks/{task['id']}/approvals"
        (call,) = (await client.get(approvals)).json()["items"]
        assert (call["tool"], call["arguments"]) == ("my_post__send", {"to": "ann"})
        body = {"call_id": call["call_id"], "decision": "approve"}
        assert (await client.post(approvals, json=body)).status_code == 200
        reading = await follow(client, task["id"], Reading())
        finished = await settled(client, task["id"], 60)
    assert (finished["status"], finished["output"]) == ("completed", "It is sent.")
    assert [event.data["content"] for event in reading.events if event.type == "tool_end"] == ["sent to ann"]


async def test_a_server_that_is_away_costs_its_tools_alone(permissive: Stack) -> None:
    async with permissive.client("enterprise") as client:
        await register(client, "http://127.0.0.1:9/mcp")
        task = await submit(client, 'Add. [[sim tool=my_post__add:{"a":1,"b":2} text="I cannot."]]')
        reading = await follow(client, task["id"], Reading())
        finished = await settled(client, task["id"])
    assert (finished["status"], finished["output"]) == ("completed", "I cannot.")
    (missing,) = [event.data["tools_missing"] for event in reading.events if "tools_missing" in event.data]
    assert missing[0]["server"] == "my_post"
    (result,) = [event.data for event in reading.events if event.type == "tool_end"]
    assert result["is_error"]
