"""Tells of budgets that are spent to a part or whole: each warning, which the database has once, is published until the
broker has it.

An event that nobody has bound a queue for is no loss: the warnings stay where they were decided, and the API shows
them.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from billing import metrics, warning_records
from common.contracts import BudgetWarned
from common.errors import LaneFull, Unavailable, Unroutable
from common.messaging.publisher import Publisher
from common.messaging.topology import EVENTS
from common.postgres import Pool, acquire, transaction

_log = structlog.get_logger(__name__)
_INTERVAL_SECONDS = 1.0
_BURNING_SECONDS = 30.0
_BATCH = 100


async def tell_forever(pool: Pool, timeout: float, publisher: Publisher) -> None:
    """Tell what there is to tell, and count who would use up a month too early, until cancelled."""
    clock = asyncio.get_running_loop().time
    counted = -_BURNING_SECONDS
    while True:
        try:
            while await tell(pool, timeout, publisher) == _BATCH:
                pass
            if clock() - counted > _BURNING_SECONDS:
                counted = clock()
                await count_burning(pool, timeout)
        except Unavailable as error:
            _log.warning("warnings.postponed", error=repr(error))
        await asyncio.sleep(_INTERVAL_SECONDS)


async def tell(pool: Pool, timeout: float, publisher: Publisher) -> int:
    """Publish some warnings; how many were found. Raises `Unavailable` where a server does not answer."""
    async with transaction(pool, timeout) as connection:
        found = await warning_records.untold(connection, _BATCH)
        told = [warning for warning in found if await _published(warning, publisher)]
        await warning_records.note_told(connection, [warning.warning_id for warning in told])
    for warning in told:
        metrics.BUDGET_WARNINGS.labels(warning.scope, warning.threshold).inc()
        _log.warning("budget.warned", **_names(warning))
    return len(found)


async def _published(warning: BudgetWarned, publisher: Publisher) -> bool:
    try:
        await publisher.publish(
            EVENTS, warning.kind, warning, subject=warning.tenant_id, stable_id=str(warning.warning_id)
        )
    except LaneFull:
        return False
    except Unroutable:
        _log.debug("budget.nobody_listens", warning_id=str(warning.warning_id))
    return True


def _names(warning: BudgetWarned) -> dict[str, Any]:
    return warning.model_dump(mode="json", exclude={"kind", "version", "warned_at"})


async def count_burning(pool: Pool, timeout: float) -> None:
    """Count the tenants whose month would be used up before it ends."""
    async with acquire(pool, timeout) as connection:
        burning = await warning_records.burning(connection)
    metrics.BURNING.set(len(burning))
    for row in burning:
        _log.warning("budget.burning", tenant_id=str(row["tenant_id"]), used_up_at=row["used_up_at"].isoformat())
