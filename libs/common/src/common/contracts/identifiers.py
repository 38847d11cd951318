"""Keys that are made before the effect they guard, and are the same each time they are made."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import NAMESPACE_URL, UUID, uuid5

import uuid_utils.compat

_TASKS = uuid5(NAMESPACE_URL, "laneway:task")
_BATCHES = uuid5(NAMESPACE_URL, "laneway:batch")
_DOCUMENTS = uuid5(NAMESPACE_URL, "laneway:document")
_ATTEMPTS = uuid5(NAMESPACE_URL, "laneway:attempt")


def task_id(tenant_id: UUID, idempotency_key: str | None) -> UUID:
    """The same request twice is the same task, even where nothing else remembers it; without a key, a new UUIDv7."""
    if idempotency_key is None:
        return uuid_utils.compat.uuid7()
    return uuid5(_TASKS, f"{tenant_id}:{idempotency_key}")


def batch_id(tenant_id: UUID, idempotency_key: str | None) -> UUID:
    """As `task_id`. The same key names one task and one batch, which have nothing to do with each other."""
    if idempotency_key is None:
        return uuid_utils.compat.uuid7()
    return uuid5(_BATCHES, f"{tenant_id}:{idempotency_key}")


def batched_task_id(batch: UUID, index: int) -> UUID:
    """The task at a place of a batch: who knows the batch and its size knows all its tasks, recorded or not."""
    return uuid5(batch, str(index))


def document_id(tenant_id: UUID, conversation_id: UUID, idempotency_key: str | None) -> UUID:
    """As `task_id`, within one conversation."""
    if idempotency_key is None:
        return uuid_utils.compat.uuid7()
    return uuid5(_DOCUMENTS, f"{tenant_id}:{conversation_id}:{idempotency_key}")


def attempt_id(task: UUID, step: int, call: int) -> UUID:
    """One model call: one hold, one usage record, one ledger posting. `call` counts the calls within the step."""
    return uuid5(_ATTEMPTS, f"{task}:{step}:{call}")


def scheduled_task_id(schedule: UUID, tick: datetime) -> UUID:
    """The one task of a schedule's tick, however often and by whomever it is published."""
    return uuid5(schedule, tick.astimezone(UTC).isoformat())
