"""What nothing else comes back to: holds whose usage record never came, and usage whose price had not come.

Such a hold is first in doubt, then given up: the platform, not the tenant, pays. In doubt it still counts against its
tenant, and a record that comes late still settles it. Where its worker died in the call, and the next one found what of
the answer had been received, it is not given up but settled by that, as an estimate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from asyncpg import Record
from pydantic import ValidationError

from billing import correction_records, handlers, metrics, repository
from billing.correcting import Correction
from billing.drain import Drain
from billing.rerating import put_right
from billing.settings import Sweep
from common.contracts import UsageRecorded
from common.contracts.usage import Usage
from common.errors import Unavailable
from common.postgres import Connection, Pool, transaction

_log = structlog.get_logger(__name__)

ONE_AT_A_TIME = "SELECT pg_try_advisory_xact_lock(7316002)"

# A worker publishes the record of a call before its run goes on: a run that has ended, or was taken over by a later
# fence, has no more records to send. A record that is still queued is waited for in doubt.
DOUBT = """
WITH stale AS (
  SELECT h.attempt_id FROM billing.holds h JOIN runtime.runs r USING (task_id)
  WHERE h.state = 'open' AND h.opened_at < clock_timestamp() - $1::interval
    AND (h.fence < r.fence OR r.status NOT IN ('running', 'parked'))
  ORDER BY h.attempt_id LIMIT $2
  FOR NO KEY UPDATE OF h SKIP LOCKED
)
UPDATE billing.holds h SET state = 'in_doubt', doubted_at = clock_timestamp()
FROM stale WHERE h.attempt_id = stale.attempt_id AND h.state = 'open'
RETURNING h.attempt_id, h.task_id, h.tenant_id, h.amount
"""

LOCK_DOUBTFUL = """
SELECT attempt_id, tenant_id, task_id, user_id, provider, model, step, call, fence, opened_at, amount, received,
       input_estimate
FROM billing.holds
WHERE state = 'in_doubt' AND doubted_at < clock_timestamp() - $1::interval
ORDER BY attempt_id LIMIT $2
FOR NO KEY UPDATE SKIP LOCKED
"""

NOTE_POLICY = "UPDATE billing.holds SET policy = $2 WHERE attempt_id = ANY ($1::uuid[]) AND doubted_at IS NOT NULL"

COUNT = """
SELECT count(*) FILTER (WHERE state = 'open') AS open, count(*) FILTER (WHERE state = 'in_doubt') AS in_doubt,
       coalesce(extract(epoch FROM clock_timestamp() - min(doubted_at) FILTER (WHERE state = 'in_doubt')), 0)::float8
         AS oldest
FROM billing.holds WHERE state IN ('open', 'in_doubt')
"""
COUNT_UNPRICED = "SELECT count(*) FROM (SELECT FROM billing.usage WHERE price_id IS NULL LIMIT 10000) AS first_ones"


async def sweep_forever(pool: Pool, timeout: float, sweep: Sweep, drain: Drain) -> None:
    """Sweep now and then, until cancelled."""
    while True:
        await asyncio.sleep(sweep.interval)
        try:
            await sweep_once(pool, timeout, sweep, void=await drain.known())
        except Unavailable as error:
            _log.warning("sweep.postponed", error=repr(error))


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep has moved."""

    doubted: Sequence[Record] = ()
    voided: Sequence[Record] = ()
    salvaged: handlers.Outcome | None = None
    priced: Sequence[Correction] = ()


async def sweep_once(pool: Pool, timeout: float, sweep: Sweep, *, void: bool) -> None:
    """Move what is due; without `void` nothing is given up, because its record may only be on its way."""
    async with transaction(pool, timeout) as connection:
        swept = await _sweep(connection, sweep, void=void)
        unresolved = await connection.fetchrow(COUNT)
        unpriced = await connection.fetchval(COUNT_UNPRICED)
    assert unresolved is not None  # noqa: S101 - an aggregate has one row
    for state in ("open", "in_doubt"):
        metrics.UNRESOLVED.labels(state).set(unresolved[state])
    metrics.OLDEST_DOUBT.set(unresolved["oldest"])
    metrics.UNPRICED_NOW.set(unpriced)
    _report(swept)


async def _sweep(connection: Connection, sweep: Sweep, *, void: bool) -> Swept:
    if not await connection.fetchval(ONE_AT_A_TIME):
        return Swept()
    priced = await put_right(connection, await correction_records.unpriced_with_a_price(connection, sweep.size))
    doubted = await connection.fetch(DOUBT, timedelta(seconds=sweep.grace), sweep.size)
    voided, salvaged = await _give_up(connection, sweep) if void else ((), None)
    return Swept(doubted, voided, salvaged, priced)


async def _give_up(connection: Connection, sweep: Sweep) -> tuple[Sequence[Record], handlers.Outcome | None]:
    doubtful = await connection.fetch(LOCK_DOUBTFUL, timedelta(seconds=sweep.doubt), sweep.size)
    records = [record for hold in doubtful if (record := _salvaged(hold))]
    found = {record.attempt_id for record in records}
    voided = [hold for hold in doubtful if hold["attempt_id"] not in found]
    await connection.execute(NOTE_POLICY, list(found), "received")
    await connection.execute(NOTE_POLICY, [hold["attempt_id"] for hold in voided], "platform_pays")
    # For all their tenants at once: one after the other, settled ones and then voided ones, is not everyone's order.
    await connection.execute(repository.QUEUE, [hold["attempt_id"] for hold in doubtful])
    salvaged = await handlers.settle(connection, records) if records else None
    await repository.void(connection, [hold["attempt_id"] for hold in voided])
    return voided, salvaged


def _salvaged(hold: Record) -> UsageRecorded | None:
    """The record of what was received; None where that is nothing, or says nothing that can be read."""
    if hold["received"] is None:
        return None
    try:
        return salvage(dict(hold))
    except (KeyError, TypeError, ValidationError) as error:
        # One hold, of a worker that writes it in another way, must not keep all others in doubt.
        _log.error("hold.unreadable_remains", error=repr(error), **_names(hold))
        return None


def salvage(hold: Mapping[str, Any]) -> UsageRecorded:
    """The record that a call's worker would have published, by what was found to have been received of it. Pure."""
    found = hold["received"]
    named = ("attempt_id", "tenant_id", "task_id", "user_id", "provider", "model", "step", "call", "fence")
    return UsageRecorded(
        **{name: hold[name] for name in named},
        agent=found["agent"],
        metadata=found["metadata"],
        usage=Usage(input_tokens=hold["input_estimate"] or 0, output_tokens=found["output_tokens"]),
        estimated=True,
        recorded_at=hold["opened_at"],
    )


def _report(swept: Swept) -> None:
    metrics.DOUBTED.inc(len(swept.doubted))
    for hold in swept.doubted:
        _log.info("hold.doubted", **_names(hold))
    for hold in swept.voided:
        metrics.DOUBTS_RESOLVED.labels("platform_pays").inc()
        metrics.VOIDED_USD.inc(float(hold["amount"]))
        _log.warning("hold.voided", **_names(hold))
    if swept.salvaged is not None:
        handlers.report(swept.salvaged, doubts_as="received")
    for one in swept.priced:
        _report_priced(one)


def _names(hold: Record) -> dict[str, str]:
    return {name: str(hold[name]) for name in ("attempt_id", "task_id", "tenant_id", "amount")}


def _report_priced(one: Correction) -> None:
    metrics.PRICED_LATER.inc()
    metrics.VARIANCE.inc(float(one.settlement.variance))
    _log.warning(
        "usage.priced_later",
        attempt_id=str(one.filed.attempt_id),
        tenant_id=str(one.filed.tenant_id),
        cost=str(one.settlement.cost),
    )
