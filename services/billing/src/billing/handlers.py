"""From usage records to settled holds: what the service does with the messages it takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import structlog

from billing import metrics, repository
from billing.bill import Bill, bill
from common.contracts import UsageRecorded
from common.errors import DecodeError
from common.messaging.settlement import RabbitDelivery
from common.postgres import Connection, Pool, acquire

_log = structlog.get_logger(__name__)


def read(delivery: RabbitDelivery) -> UsageRecorded:
    """The usage record inside. Raises `DecodeError`."""
    contract = delivery.decode()
    if not isinstance(contract, UsageRecorded):
        raise DecodeError(f"billing has no use for a {contract.kind}")
    return contract


async def settle_usage(records: Sequence[UsageRecorded], pool: Pool, timeout: float) -> None:
    """Settle a batch; counted and logged once it is durable. Raises `StoreContended` where it is to be tried again.

    What settles it is one statement, and so one transaction. Records that contradict what was filed are kept by
    another: were it not to come to that, they would be delivered again.
    """
    started = time.perf_counter()
    async with acquire(pool, timeout) as connection:
        outcome = await settle(connection, records)
    metrics.BATCH_RECORDS.observe(len(records))
    metrics.BATCH_SECONDS.observe(time.perf_counter() - started)
    report(outcome)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of records."""

    filed: Sequence[Bill]
    repeated: int
    conflicting: Sequence[UsageRecorded]


async def settle(connection: Connection, records: Sequence[UsageRecorded]) -> Outcome:
    """Settle records; `report` it once that is durable."""
    # Of an attempt that is in the batch twice the first counts, as it would in two batches.
    firsts = {record.attempt_id: record for record in reversed(records)}
    holds = await repository.holds_of(connection, list(firsts.values()))
    listed = await repository.listed_prices(connection, [r for r in firsts.values() if r.attempt_id not in holds])
    bills = [bill(r, holds.get(r.attempt_id), listed.get(r.attempt_id)) for r in firsts.values()]
    new = await repository.settle(connection, bills)
    filed = [one for one in bills if one.record.attempt_id in new]
    repeated = [r for r in records if r.attempt_id not in new or firsts[r.attempt_id] is not r]
    conflicting = await repository.conflicting(connection, repeated)
    await repository.file_conflicts(connection, conflicting)
    return Outcome(filed, len(records) - len(filed), conflicting)


def report(outcome: Outcome, *, doubts_as: Literal["own_record", "received"] = "own_record") -> None:
    """Count and log it; `doubts_as` is by what those of its holds were resolved that had been in doubt."""
    metrics.DUPLICATES.inc(outcome.repeated)
    for record in outcome.conflicting:
        metrics.CONFLICTS.inc()
        _log.error("usage.conflict", **_names(record))
    for one in outcome.filed:
        _report_bill(one)
        if one.held and one.settlement and one.hold and one.hold.state == "in_doubt":
            metrics.DOUBTS_RESOLVED.labels(doubts_as).inc()


def _report_bill(one: Bill) -> None:
    if one.settlement is None:
        metrics.UNPRICED.inc()
        _log.error("usage.unpriced", provider=one.record.provider, model=one.record.model, **_names(one.record))
        return
    if one.held:
        metrics.SETTLED.inc()
    else:
        metrics.UNHELD.inc()
        _log.error("usage.unheld", cost=str(one.settlement.cost), **_names(one.record))
    if one.owed > one.settlement.charge:
        metrics.OVER_HOLD.inc()
        _log.error("usage.over_hold", owed=str(one.owed), charge=str(one.settlement.charge), **_names(one.record))
    if one.settlement.variance:
        metrics.VARIANCE.inc(float(one.settlement.variance))
        _log.warning("usage.variance", variance=str(one.settlement.variance), **_names(one.record))


def _names(record: UsageRecorded) -> dict[str, str]:
    return {
        "attempt_id": str(record.attempt_id),
        "task_id": str(record.task_id),
        "tenant_id": str(record.tenant_id),
    }
