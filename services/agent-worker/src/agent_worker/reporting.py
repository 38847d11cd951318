"""A worker says what slots it has and which are taken, so that operators and scalers can add the workers up.

The lanes' consumers tell only that somebody is there. A worker that is killed says nothing any more, and is not counted
once it has been silent for a few seconds.
"""

from __future__ import annotations

import asyncio

import structlog

from agent_worker.lanes import Slots
from agent_worker.report_records import WorkerReports
from common.errors import StoreUnavailable
from common.lanes import REPORT_SECONDS

_log = structlog.get_logger(__name__)


async def report_forever(reports: WorkerReports, worker: str, slots: Slots) -> None:
    """Report every few seconds, until cancelled."""
    while True:
        try:
            await reports.report(worker, slots.total, lanes_of(slots))
        except StoreUnavailable as error:
            _log.info("worker.unreported", error=repr(error))
        await asyncio.sleep(REPORT_SECONDS)


async def retire(reports: WorkerReports, worker: str) -> None:
    """Take the report back: this worker begins nothing any more."""
    try:
        await reports.retire(worker)
    except StoreUnavailable as error:
        _log.info("worker.not_retired", error=repr(error))


def lanes_of(slots: Slots) -> dict[str, int]:
    """By tier: how many of its tasks could begin here now."""
    return {tier: slots.room(tier) for tier in slots.guaranteed}
