"""What admission keeps in Redis of a tenant's tasks, and what a task gives back when it ends.

A tenant's outstanding tasks are members of ten sorted sets, one for each priority, with the time at which they stop
counting as score: what is never given back is forgotten then, so a leak heals itself. The gateway adds, the worker
that finishes a task (or the gateway that cancels one before it ran) removes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from uuid import UUID

from common.messaging.topology import HIGHEST_LEVEL
from common.pipelining import Pipelined

PRIORITIES = range(10)
OUTSTANDING_SECONDS = 6 * 3600
NEUTRAL_LEVEL = 15
"""Of a task that is let in while Redis is away."""

LEVEL = """
local function level_of(rank)
  local level = 30
  while rank > 0 and level > 0 do
    rank = math.floor(rank / 1.45)
    level = level - 1
  end
  return level
end
"""
"""The function `level_of`, below, as scripts have it."""


def level_of(rank: int) -> int:
    """The broker's priority for a task with so many of its tenant's before it, as the script computes it.

    Each level takes 1.45 times as many of a tenant's tasks as the one above: 30 of them reach to 100,000 outstanding.
    """
    level = HIGHEST_LEVEL
    while rank > 0 and level > 0:
        rank = math.floor(rank / 1.45)
        level -= 1
    return level


def rate_key(tenant_id: UUID) -> str:
    """The tenant's bucket of requests."""
    return f"{{{tenant_id}}}:rate"


def outstanding_key(tenant_id: UUID, priority: int) -> str:
    """The tenant's outstanding tasks of one priority."""
    return f"{{{tenant_id}}}:outstanding:{priority}"


def whole_key(tenant_id: UUID) -> str:
    """There while the sets have all outstanding tasks; missing where they are to be counted anew from the record."""
    return f"{{{tenant_id}}}:outstanding:whole"


def counting_key(tenant_id: UUID) -> str:
    """Lost with the sets: a count that finds another value in it than at its begin has lost its first pages."""
    return f"{{{tenant_id}}}:outstanding:counting"


def record_key(tenant_id: UUID, task_id: UUID) -> str:
    """What was answered when the task was submitted: for retries, and for reads before the durable record."""
    return f"{{{tenant_id}}}:task:{task_id}"


async def release(redis: Pipelined, tenant_id: UUID, task_id: UUID, priority: int) -> None:
    """The task has ended: it no longer counts. Doing it again changes nothing. Raises `CacheUnavailable`."""
    await release_each(redis, tenant_id, (task_id,), priority)


async def release_each(redis: Pipelined, tenant_id: UUID, task_ids: Iterable[UUID], priority: int) -> None:
    """As `release`, of many tasks with this priority. Raises `CacheUnavailable`."""
    await redis.execute("ZREM", outstanding_key(tenant_id, priority), *map(str, task_ids))
