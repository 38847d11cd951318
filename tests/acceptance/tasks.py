"""What a tenant's app does with tasks, and what a test looks up of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import httpx2

from common.contracts.runs import TERMINAL
from tests.acceptance.stack import Stack
from tests.stage import eventually


async def submit(client: httpx2.AsyncClient, text: str, key: str | None = None, **fields: Any) -> dict[str, Any]:
    """Submit a task that must be accepted."""
    headers = {"Idempotency-Key": key} if key else {}
    response = await client.post("/v1/tasks", json={"input": text, **fields}, headers=headers)
    assert response.status_code in (200, 202), response.text
    task: dict[str, Any] = response.json()
    return task


async def submit_many(client: httpx2.AsyncClient, texts: Iterable[str], **fields: Any) -> list[str]:
    """Submit a batch that must be accepted whole; the ids of its tasks, in their order."""
    response = await client.post("/v1/batches", json={"tasks": [{"input": text, **fields} for text in texts]})
    assert response.status_code == 202, response.text
    return [task["id"] for task in response.json()["tasks"]]


async def cancel_many(client: httpx2.AsyncClient, **which: Any) -> dict[str, Any]:
    """Cancel all tasks of the tenant that fit."""
    response = await client.post("/v1/tasks/cancel", json=which)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def shown(client: httpx2.AsyncClient, task_id: str, status: str, deadline: float = 30) -> dict[str, Any]:
    """The task, once it is shown with this status."""

    async def look() -> dict[str, Any] | None:
        task: dict[str, Any] = (await client.get(f"/v1/tasks/{task_id}")).json()
        return task if task["status"] == status else None

    return await eventually(look, deadline) or {}


async def ended(client: httpx2.AsyncClient, task_id: str, deadline: float = 30) -> dict[str, Any]:
    """The task, once it has come to an end."""

    async def look() -> dict[str, Any] | None:
        response = await client.get(f"/v1/tasks/{task_id}")
        task: dict[str, Any] = response.json()
        return task if response.status_code == 200 and task["status"] in TERMINAL else None

    return await eventually(look, deadline) or {}


async def settled(client: httpx2.AsyncClient, task_id: str, deadline: float = 30) -> dict[str, Any]:
    """The task, once it has ended and all its calls are priced."""

    async def look() -> dict[str, Any] | None:
        task: dict[str, Any] = (await client.get(f"/v1/tasks/{task_id}")).json()
        return task if task.get("cost_usd") is not None and task["status"] in TERMINAL else None

    return await eventually(look, deadline) or {}


async def usage_rows(stack: Stack, task_id: str) -> list[Any]:
    """The ledger's side: one row for each model call that was accounted for."""
    return await stack.rows("SELECT * FROM billing.usage WHERE task_id = $1 ORDER BY step, call", UUID(task_id))


async def ledger_sum(stack: Stack, task_id: str, account: str) -> Any:
    """What was posted for a task on accounts whose name begins so."""
    rows = await stack.rows(
        "SELECT coalesce(sum(l.amount), 0) AS total FROM billing.ledger l JOIN billing.usage u USING (attempt_id)"
        " WHERE u.task_id = $1 AND l.account LIKE $2 || '%'",
        UUID(task_id),
        account,
    )
    return rows[0]["total"]
