"""What nothing else comes back to: holds whose usage record never came, and usage whose price had not come.

Such a hold is first in doubt, then given up: the platform, not the tenant, pays. In doubt it still counts against its
tenant, and a record that comes late still settles it.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import asyncpg
import structlog

from billing import correction_records, metrics, repository
from billing.correcting import Correction
from billing.drain import Drain
from billing.rerating import put_right
from billing.settings import Sweep
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
"""

LOCK_DOUBTFUL = """
SELECT attempt_id, tenant_id, task_id, amount FROM billing.holds
WHERE state = 'in_doubt' AND doubted_at < clock_timestamp() - $1::interval
ORDER BY attempt_id LIMIT $2
FOR NO KEY UPDATE SKIP LOCKED
"""

COUNT = """
SELECT count(*) FILTER (WHERE state = 'open') AS open, count(*) FILTER (WHERE state = 'in_doubt') AS in_doubt
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


async def sweep_once(pool: Pool, timeout: float, sweep: Sweep, *, void: bool) -> None:
    """Move what is due; without `void` nothing is given up, because its record may only be on its way."""
    async with transaction(pool, timeout) as connection:
        voided, priced = [], list[Correction]()
        if await connection.fetchval(ONE_AT_A_TIME):
            priced = await put_right(connection, await correction_records.unpriced_with_a_price(connection, sweep.size))
            await connection.execute(DOUBT, timedelta(seconds=sweep.grace), sweep.size)
            voided = await _void(connection, sweep) if void else []
        unresolved = await connection.fetchrow(COUNT)
        unpriced = await connection.fetchval(COUNT_UNPRICED)
    for state, count in (unresolved or {}).items():
        metrics.UNRESOLVED.labels(state).set(count)
    metrics.UNPRICED_NOW.set(unpriced)
    for hold in voided:
        _report(hold)
    for one in priced:
        _report_priced(one)


async def _void(connection: Connection, sweep: Sweep) -> list[asyncpg.Record]:
    doubtful = await connection.fetch(LOCK_DOUBTFUL, timedelta(seconds=sweep.doubt), sweep.size)
    await repository.resolve_holds(connection, {hold["attempt_id"]: None for hold in doubtful})
    return doubtful


def _report(hold: asyncpg.Record) -> None:
    metrics.VOIDED.inc()
    metrics.VOIDED_USD.inc(float(hold["amount"]))
    _log.warning(
        "hold.voided",
        attempt_id=str(hold["attempt_id"]),
        task_id=str(hold["task_id"]),
        tenant_id=str(hold["tenant_id"]),
        amount=str(hold["amount"]),
    )


def _report_priced(one: Correction) -> None:
    metrics.PRICED_LATER.inc()
    metrics.VARIANCE.inc(float(one.settlement.variance))
    _log.warning(
        "usage.priced_later",
        attempt_id=str(one.filed.attempt_id),
        tenant_id=str(one.filed.tenant_id),
        cost=str(one.settlement.cost),
    )
