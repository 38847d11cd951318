"""Runs with tools of MCP servers that their tenant has registered: real ones, and each failure goes to the model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from agent_worker.providers.base import TextDelta, ToolCall
from common.contracts import RunFinished, TaskSubmitted
from tests.integration.agent_worker.test_worker_tool_use import events, results
from tests.integration.agent_worker.world import Played, World
from tests.stage import eventually
from tests.unit.agent_worker.mcp_serving import over_http

DEADLINE = 60.0


@pytest.fixture
async def address(unused_tcp_port: int, tmp_path: Path) -> AsyncIterator[str]:
    async with over_http(unused_tcp_port, tmp_path) as url:
        yield url


async def register(world: World, tenant: UUID, url: str, name: str = "post", **terms: Any) -> None:
    """As the gateway does."""
    verdict = await world.owner.fetchval(
        "SELECT runtime.put_mcp_server($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 10)",
        tenant,
        name,
        url,
        terms.get("agents", ["default"]),
        terms.get("tools"),
        terms.get("timeout_seconds", 30.0),
        terms.get("ask", False),
        terms.get("trust_annotations", False),
        *terms.get("auth", (None, None)),
    )
    assert verdict == "added"


def calling(*calls: tuple[str, dict[str, Any]]) -> Played:
    """A model that asks for these tools, and then says that it is done."""
    asked = tuple(ToolCall(f"c{n}", name, arguments) for n, (name, arguments) in enumerate(calls))
    return Played(asked, (TextDelta("done"),))


async def ended(world: World, task: TaskSubmitted) -> RunFinished:
    await world.submit(task)
    end = await world.heard.end(task.task_id, DEADLINE)
    assert (end.status, end.output) == ("completed", "done"), end.error
    return end


def missing(world: World, end: RunFinished) -> Sequence[dict[str, str]]:
    told = [event.data["tools_missing"] for event in events(world, end) if "tools_missing" in event.data]
    return told[0] if told else ()


async def test_a_run_calls_its_tenants_tools_once_and_says_who_asks(world: World, address: str) -> None:
    provider = calling(("my_post__add", {"a": 40, "b": 2}), ("my_post__who", {}), ("calculator", {"expression": "6*7"}))
    await world.worker(provider)
    task = world.task()
    await register(world, task.tenant_id, address, auth=("Authorization", "Bearer s3cret"))
    end = await ended(world, task)
    assert results(end) == [("42", False), ("Bearer s3cret None", False), ("42", False)]
    assert {"my_post__add", "calculator"} <= {spec.name for spec in provider.requests[0].tools}
    noted = "SELECT count(*) FROM runtime.intents WHERE task_id = $1"
    assert await world.owner.fetchval(noted, task.task_id) == 2, "what is not known to read only is made once at most"
    assert "s3cret" not in end.model_copy(update={"messages": (), "events": ()}).model_dump_json()

    stranger = await ended(world, world.task())
    assert results(stranger)[0] == ("there is no tool named 'my_post__add'", True)


async def test_servers_that_are_dead_or_slow_fail_no_run(world: World, address: str) -> None:
    await world.worker(calling(("my_post__slow", {}), ("my_post__broken", {}), ("my_dead__add", {"a": 1, "b": 1})))
    task = world.task()
    await register(world, task.tenant_id, address, timeout_seconds=2.0)
    await register(world, task.tenant_id, "http://127.0.0.1:9/mcp", "dead")
    await register(world, task.tenant_id, "http://169.254.169.254/mcp", "metadata")
    end = await ended(world, task)
    assert [is_error for _, is_error in results(end)] == [True, True, True]
    reasons = {one["server"]: one["reason"] for one in missing(world, end)}
    assert "could not be reached" in reasons["my_dead"]
    assert "not on the public web" in reasons["my_metadata"]


async def test_a_call_that_is_to_be_approved_waits_for_a_person(world: World, address: str) -> None:
    await world.worker(calling(("my_post__send", {"to": "ann"})))
    task = world.task()
    await register(world, task.tenant_id, address, ask=True, trust_annotations=True)
    await world.submit(task)

    async def parked() -> bool:
        return (await world.run_row(task)).get("status") == "parked"

    await eventually(parked, DEADLINE)
    begun = "SELECT count(*) FROM runtime.intents WHERE task_id = $1"
    assert await world.owner.fetchval(begun, task.task_id) == 0
    parked_for = await world.owner.fetchval("SELECT reason FROM runtime.parked WHERE task_id = $1", task.task_id)
    assert parked_for == "approval"


async def test_what_is_deleted_is_gone_from_runs_that_begin_later(
    world: World, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_worker.mcp.servers._REGISTERED_SECONDS", 0.0)
    await world.worker(calling(("my_post__add", {"a": 1, "b": 1})))
    task = world.task()
    await register(world, task.tenant_id, address)
    assert results(await ended(world, task)) == [("2", False)]
    await world.owner.execute("DELETE FROM runtime.mcp_servers WHERE tenant_id = $1", task.tenant_id)
    later = world.task().model_copy(update={"tenant_id": task.tenant_id})
    assert results(await ended(world, later)) == [("there is no tool named 'my_post__add'", True)]
