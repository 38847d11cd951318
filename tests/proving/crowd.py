"""Tenants with caps that are too tight for what they ask for, and all that they ask for."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx2

from common.contracts.runs import TERMINAL
from tests.acceptance.stack import TIERS, Stack
from tests.stage import eventually

_PLAN = """
INSERT INTO identity.plans (name, tier, requests_per_minute, max_outstanding, run_cap_usd, user_day_cap_usd,
                            tenant_day_cap_usd, tenant_month_cap_usd, markup_percent, free_allowance_usd,
                            monthly_fee_usd)
VALUES ($1, $2, 600000, 100000, $3::text::numeric, $4::text::numeric, $5::text::numeric, $6::text::numeric,
        $7::text::numeric, 0.001, 49)
"""
# A call holds about 0.003 USD, and comes to a tenth of that. By turns: the run's cap stops, the user's, the tenant's by
# day, by month; one is above all that is asked for; and the last one is below the first call's hold.
_CAPS = (
    ("0.006", "1", "1", "1", "0"),
    ("1", "0.008", "1", "1", "12.5"),
    ("1", "1", "0.012", "1", "0"),
    ("1", "1", "1", "0.012", "33.3333"),
    ("1", "1", "1", "1", "10"),
    ("1", "1", "0.0001", "1", "0"),
)
_FALLING = "claude-haiku-4-5"
_SAID = "Fall back"
_KINDS = (
    "Plain {n} [[sim tokens=20 tps=60]]",
    'Tool {n} [[sim tool=calculator:{{"expression":"6*7"}} tokens=15 tps=40]]',
    "Cut {n} [[sim tokens=30 tps=60 fault=cut fault_after=8 fault_times=1]]",
    f"{_SAID} {{n}} [[sim tokens=10 tps=40]]",
    "Cancel {n} [[sim tokens=100 tps=5]]",
    "Cached {n} [[sim tokens=12 tps=40 cached=200 cache_write=150]]",
    "Dear {n} [[sim tokens=40 cached=9000 cache_write=9000]]",
    "Think {n} [[sim tokens=30 tps=60 reasoning=12]]",
    "Refused {n} [[sim tokens=10 fault=429 fault_times=1 retry_after=0.1]]",
)  # fmt: skip
_CANCELLED = 4
BROKEN = (httpx2.HTTPError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What a server that is being restarted answers."""
_RUNS = "SELECT count(*) AS n FROM runtime.runs WHERE task_id = ANY ($1) AND status = ANY ($2)"


@dataclass(frozen=True)
class Asked:
    """What a tenant asks for: the number of its kind, and its text."""

    kind: int
    text: str
    user: str


class Crowd:
    """The tenants; `tasks` are those that were accepted."""

    def __init__(self, stack: Stack, tenants: int, each: int, seed: int) -> None:
        self._stack = stack
        self._names = [f"proof-{number}" for number in range(tenants)]
        self._each = each
        self._random = random.Random(seed)
        self.tasks: list[UUID] = []

    async def gather(self) -> None:
        """Make the tenants and their plans, and one model that fails for those who say so."""
        for number, name in enumerate(self._names):
            caps = _CAPS[number % len(_CAPS)]
            await self._stack.rows(_PLAN, name, TIERS[number % len(TIERS)], *caps)
            await asyncio.to_thread(self._stack.new_tenant, name)
        async with httpx2.AsyncClient(base_url=self._stack.simulator, timeout=30) as simulator:
            rule = {"match": {"model": _FALLING, "contains": _SAID}, "reply": {"fault": "529"}}
            (await simulator.post("/control/rules", json=rule)).raise_for_status()

    async def ask(self) -> None:
        """Submit everything, all tenants at once, and cancel what is to be cancelled once it runs."""
        async with asyncio.TaskGroup() as group:
            for name in self._names:
                group.create_task(self._ask_as(name))

    async def until_over(self, deadline: float) -> None:
        """Wait for the end of every task."""

        async def over() -> bool:
            [found] = await self._stack.rows(_RUNS, self.tasks, list(TERMINAL))
            return bool(found["n"] == len(self.tasks))

        await until(over, deadline)

    async def _ask_as(self, name: str) -> None:
        asked = [self._asked(number) for number in range(self._each)]
        async with self._stack.client(name) as client, asyncio.TaskGroup() as group:
            for one in asked:
                task = await _submitted(client, one)
                self.tasks.append(UUID(task))
                if one.kind == _CANCELLED:
                    group.create_task(self._cancel(client, task))

    def _asked(self, number: int) -> Asked:
        kind = number % len(_KINDS)
        user = f"user-{self._random.randrange(2)}"
        return Asked(kind, _KINDS[kind].format(n=self._random.randrange(10**9)), user)

    async def _cancel(self, client: httpx2.AsyncClient, task: str) -> None:
        """In mid-stream, or wherever it is by then."""

        async def runs() -> bool:
            [found] = await self._stack.rows("SELECT count(*) AS n FROM billing.holds WHERE task_id = $1", UUID(task))
            if not found["n"]:
                [found] = await self._stack.rows(_RUNS, [UUID(task)], list(TERMINAL))
            return bool(found["n"])

        await until(runs)
        await asyncio.sleep(self._random.uniform(0.2, 2))

        async def cancelled() -> bool:
            answer = await client.post(f"/v1/tasks/{task}/cancel")
            return answer.status_code in (200, 202, 409)

        await until(cancelled)


async def _submitted(client: httpx2.AsyncClient, asked: Asked) -> str:
    """The task's id. Asked again with its key until it is accepted: it is the same task, however often."""
    key = str(uuid4())
    body: dict[str, Any] = {
        "input": asked.text,
        "user_id": asked.user,
        "max_output_tokens": 100,
        "metadata": {"k": "v"},
    }
    found: list[str] = []

    async def accepted() -> bool:
        answer = await client.post("/v1/tasks", json=body, headers={"Idempotency-Key": key})
        if answer.status_code in (200, 202):
            found.append(answer.json()["id"])
        else:
            assert answer.status_code in (429, 503), answer.text
            await asyncio.sleep(0.2)
        return bool(found)

    await until(accepted)
    return found[0]


async def until(condition: Callable[[], Awaitable[bool]], deadline: float = 300) -> None:
    """As `eventually`, on servers that are being broken."""

    async def tried() -> bool:
        try:
            return bool(await condition())
        except BROKEN:
            await asyncio.sleep(0.2)
            return False

    await eventually(tried, deadline)
