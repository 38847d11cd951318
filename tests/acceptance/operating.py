"""What an operator does through the admin API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.acceptance.stack import Stack
from tests.stage import eventually

BY = {"by": "ada@example.com", "reason": "provider outage"}


async def pause(stack: Stack, scope: str, name: str | None = None, *, kill: bool = False) -> None:
    """Pause it."""
    async with stack.operator() as operator:
        answer = await operator.post("/v1/admin/pauses", json={"scope": scope, "name": name, "kill": kill, **BY})
    assert answer.status_code == 200, answer.text


async def resume(stack: Stack, scope: str, name: str | None = None) -> None:
    """Let it go on."""
    async with stack.operator() as operator:
        answer = await operator.post("/v1/admin/pauses/resume", json={"scope": scope, "name": name, **BY})
    assert answer.status_code == 204, answer.text


async def lane(stack: Stack, tier: str) -> dict[str, Any]:
    """What the admin API shows of a lane."""
    async with stack.operator() as operator:
        items = (await operator.get("/v1/admin/lanes")).json()["items"]
    shown: dict[str, Any] = next(item for item in items if item["tier"] == tier)
    return shown


@asynccontextmanager
async def held_back(stack: Stack, tier: str) -> AsyncIterator[None]:
    """Tasks of this tier, of which nothing runs, line up in their lane meanwhile: none of them begins."""

    async def left_alone() -> bool:  # the broker counts a consumer until what it was sent has ended
        return bool((await lane(stack, tier))["consumers"] == 0)

    await pause(stack, "tier", tier)
    try:
        await eventually(left_alone, 30)
        yield
    finally:
        await resume(stack, "tier", tier)
