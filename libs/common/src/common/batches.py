"""What Redis has of a batch: its record, until the tasks are recorded, and a bell for those who follow it."""

from __future__ import annotations

from uuid import UUID

from common.pipelining import Pipelined


def batch_key(tenant_id: UUID, batch_id: UUID) -> str:
    """What was answered when the batch was submitted."""
    return f"{{{tenant_id}}}:batch:{batch_id}"


def channel(tenant_id: UUID, batch_id: UUID) -> str:
    """Where its followers hear that something happened to one of its tasks."""
    return f"{{{tenant_id}}}:batch-events:{batch_id}"


async def ring(redis: Pipelined, tenant_id: UUID, batch_id: UUID) -> None:
    """Something that PostgreSQL knows has changed: an announcement without events. Raises `CacheUnavailable`."""
    await redis.execute("PUBLISH", channel(tenant_id, batch_id), "[]")
