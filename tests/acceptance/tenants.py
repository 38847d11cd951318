"""Tenants whose plans allow less than those that are seeded."""

from __future__ import annotations

import asyncio
from uuid import UUID

from tests.acceptance.stack import Stack

_PLAN = """
INSERT INTO identity.plans (name, tier, requests_per_minute, max_outstanding, run_cap_usd, user_day_cap_usd,
                            tenant_day_cap_usd, tenant_month_cap_usd, max_running)
SELECT $1, tier, 60000, $3, 5, 100, 1000, 20000, $4 FROM identity.plans WHERE name = $2
"""


async def new_tenant(
    stack: Stack, name: str, tier: str, *, max_outstanding: int = 20_000, max_running: int | None = None
) -> UUID:
    """A tenant with a plan of its own, both of that name: `stack.client(name)` is its app."""
    await stack.rows(_PLAN, name, tier, max_outstanding, max_running)
    await asyncio.to_thread(stack.new_tenant, name)
    return stack.tenants[name]
