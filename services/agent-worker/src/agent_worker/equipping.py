"""The tools of a run that has just been acquired. Servers of tools may take longer to be asked than its lease is."""

from __future__ import annotations

import asyncio
from functools import partial
from time import monotonic
from uuid import UUID

from agent_worker.accounts import until_available
from agent_worker.mcp.servers import McpServers
from agent_worker.repository import Acquisition, RunRepository
from agent_worker.tools.base import Toolbox
from common.catalogue import Agent
from common.contracts import TaskSubmitted
from common.errors import StoreUnavailable
from common.lifecycle import stop


async def tools_of(
    task: TaskSubmitted,
    found: Acquisition,
    agent: Agent,
    own: Toolbox,
    mcp: McpServers,
    repository: RunRepository,
    renewal: float,
) -> Toolbox:
    """The agent's own with those of servers; its own alone where the run is another's meanwhile, or to be cancelled: it
    finds that out when it asks for its first call. Every `renewal` seconds the lease is renewed."""
    asking = asyncio.create_task(until_available(partial(mcp.toolbox, agent, own, task.tenant_id)), name="tools")
    try:
        while not (await asyncio.wait({asking}, timeout=renewal))[0]:
            if not await _goes_on(task.task_id, found, repository):
                return own
        return asking.result()
    finally:
        await stop(asking)


async def _goes_on(task_id: UUID, found: Acquisition, repository: RunRepository) -> bool:
    asked_at = monotonic()
    try:
        renewed = await repository.renew([(task_id, found.fence)])
    except StoreUnavailable:
        return True
    if task_id in renewed:
        found.lease.renewed(asked_at)
    return renewed.get(task_id) is False
