"""An agent that sends letters, each of which a person is to approve, and the people who do."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import httpx2

from agent_worker.providers.base import TextDelta, ToolCall
from agent_worker.tools.base import Tool, Toolbox
from common.catalogue import Approvals
from common.contracts import TaskSubmitted
from tests.integration.agent_worker.world import Played, Said, Worker, World
from tests.integration.gateway.conftest import Running, Tenant
from tests.stage import eventually

LETTER: Said = (TextDelta("I write. "), ToolCall("c1", "send", {"to": "ann", "copies": 1}))
THANKS: Said = (TextDelta("Done."),)


@dataclass
class Post:
    """What was really sent; held back where it is told to."""

    sent: list[str] = field(default_factory=list)
    stamped: list[str] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.go.set()

    async def send(self, to: str, copies: int = 1) -> str:
        """Send a letter."""
        self.sent.append(f"{to}:{copies}")
        await self.go.wait()
        return f"sent to {to}"

    async def stamp(self, sheet: str) -> str:
        """Stamp a sheet."""
        self.stamped.append(sheet)
        return f"stamped {sheet}"

    def toolbox(self, **terms: Any) -> Toolbox:
        """Of the agent; every letter is approved, and nothing else."""
        tools = (
            Tool.of(self.send, side_effect=True, timeout=60),
            Tool.of(self.stamp, side_effect=True),
            Tool.of(postcode),
        )
        approvals = Approvals(**{"tools": ("send",), **terms})
        return Toolbox({tool.spec.name: tool for tool in tools}, approvals)


async def postcode(city: str) -> str:
    """A city's postcode."""
    return {"Bern": "3000"}.get(city, "unknown")


@dataclass
class Office:
    """One task, its tenant, and who sees to it."""

    world: World
    gateway: Running
    tenant: Tenant
    task: TaskSubmitted
    provider: Played
    post: Post
    worker: Worker

    async def decide(self, decision: str, call_id: str = "c1", **more: Any) -> httpx2.Response:
        """As a person does."""
        return await self.post_json({"call_id": call_id, "decision": decision, **more})

    async def post_json(self, body: Any, tenant: Tenant | None = None) -> httpx2.Response:
        """Any body, from any tenant."""
        headers = (tenant or self.tenant).headers
        return await self.gateway.client.post(f"/v1/tasks/{self.task.task_id}/approvals", json=body, headers=headers)

    async def shown(self) -> dict[str, Any]:
        """The task, as its tenant reads it."""
        answer = await self.gateway.client.get(f"/v1/tasks/{self.task.task_id}", headers=self.tenant.headers)
        shown: dict[str, Any] = answer.json()
        return shown

    async def approvals(self) -> list[dict[str, Any]]:
        """What the task has asked for."""
        path = f"/v1/tasks/{self.task.task_id}/approvals"
        answer = await self.gateway.client.get(path, headers=self.tenant.headers)
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    async def waiting(self) -> dict[str, Any]:
        """The task, once it waits for people."""

        async def look() -> dict[str, Any] | None:
            task = await self.shown()
            return task if (task.get("parked") or {}).get("calls") else None

        return await eventually(look, 30) or {}

    def told_the_model(self) -> list[dict[str, Any]]:
        """The tool results of the newest model call."""
        return [
            block
            for turn in self.provider.requests[-1].turns
            for block in turn.content
            if block["type"] == "tool_result"
        ]


async def opened(
    world: World,
    gateway: Running,
    *answers: Said,
    post: Post | None = None,
    terms: dict[str, Any] | None = None,
    **changes: Any,
) -> Office:
    """An office with its first task submitted."""
    tenant, letters = await gateway.tenant(), post or Post()
    provider = Played(*(answers or (LETTER, THANKS)))
    worker = await world.worker(provider, boxes={"supervised": letters.toolbox(**(terms or {}))})
    task = world.task(agent="supervised", tenant_id=tenant.id, **changes)
    await world.submit(task)
    return Office(world, gateway, tenant, task, provider, letters, worker)
