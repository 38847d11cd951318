"""Wakes what is parked, fires schedules, and ends what has waited beyond its deadline: one process at a time, whatever
their number.

Who holds an advisory lock of PostgreSQL does it, over the very connection that holds it: a waker that has lost the lock
can decide nothing more. It listens on that connection for runs that end or park, and looks again when the next start,
tick or deadline is due, and each second, since a lease that runs out tells nobody.

A run is made ready first, then its message is published, confirmed, and that is noted. Whatever is lost in between is
published once more, and of two messages only one is ever run.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg
import structlog

from common import postgres
from common.contracts import TaskSubmitted
from common.errors import DecodeError, PoisonError, Unavailable
from common.messaging.publisher import Publisher
from common.messaging.topology import PERSISTER, RESUME_LEVEL, TASKS
from common.pipelining import Pipelined
from common.settings import Postgres
from persister import metrics, repository
from persister.expiry import expire_overdue
from persister.scheduling import fire_due
from persister.ticking import Watch

if TYPE_CHECKING:
    from common.postgres import Connection

_log = structlog.get_logger(__name__)
_CHANNEL = "laneway_parking"
_SUCCESSION_SECONDS = 0.5
_AFTER_FAILURE_SECONDS = 2.0
_LONGEST_PAUSE_SECONDS = 1.0
_SHORTEST_PAUSE_SECONDS = 0.05
# What is heard within it is looked at together.
_GATHERING_SECONDS = 0.02
_MEASURE_SECONDS = 5.0
_BATCH = 100
# Of one tenant, when many of its tasks have the same start: woken work goes before all that is new in its lane.
_WINDOW = 100


@dataclass(frozen=True)
class Waker:
    """What the waking takes; `run` is the background task of every persister."""

    settings: Postgres
    publisher: Publisher
    redis: Pipelined

    async def run(self) -> None:
        """Lead, or stand by to, until cancelled."""
        while True:
            try:
                await self._lead()
            except Unavailable as error:
                _log.warning("waker.interrupted", error=repr(error))
                metrics.WAKER_INTERRUPTIONS.inc()
            except Exception:  # noqa: BLE001 - whoever leads next may do better; nobody's other work stops for it
                _log.exception("waker.failed")
                metrics.WAKER_FAILURES.inc()
                await asyncio.sleep(_AFTER_FAILURE_SECONDS)
            finally:
                metrics.PARKED.clear()
                metrics.OLDEST_READY.set(0)
            await asyncio.sleep(_SUCCESSION_SECONDS)

    async def _lead(self) -> None:
        """Wake for as long as the connection lives. Raises `StoreUnavailable` when it does not."""
        alone = self.settings.model_copy(update={"pool_size": 1})
        async with (
            postgres.pool(alone, f"{PERSISTER}/waker") as pool,
            postgres.acquire(pool, self.settings.timeout) as connection,
        ):
            await repository.be_found_out(connection)
            while not await repository.lead(connection):  # noqa: ASYNC110 - another process leads
                await asyncio.sleep(_SUCCESSION_SECONDS)
            _log.info("waker.leads")
            heard = asyncio.Event()
            await connection.add_listener(_CHANNEL, lambda *_: heard.set())
            try:
                await self._wake_on(connection, heard)
            finally:
                with contextlib.suppress(asyncpg.InterfaceError):
                    connection.terminate()  # the lock goes with it, at once

    async def _wake_on(self, connection: Connection, heard: asyncio.Event) -> None:
        clock = asyncio.get_running_loop().time
        measured = 0.0
        watch = Watch(clock)
        while True:
            heard.clear()
            more = await self._look(connection)
            # After the rest: a broker that is slow to confirm keeps only schedules waiting.
            fired = await fire_due(connection, self.publisher, self.redis, _BATCH, watch.look())
            if clock() - measured > _MEASURE_SECONDS:
                measured = clock()
                await _measure(connection)
            if not more and fired < _BATCH:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause(await repository.seconds_until_due(connection))):
                        await heard.wait()
                        await asyncio.sleep(_GATHERING_SECONDS)

    async def _look(self, connection: Connection) -> bool:
        """Do what there is to do; whether there may be more."""
        expired = await expire_overdue(connection, self.redis, _BATCH)
        woken = await repository.wake(connection, _WINDOW)
        metrics.WOKEN.inc(woken)
        ready = await repository.ready(connection, _BATCH)
        if not ready:
            return expired == _BATCH
        published = await self._publish(ready)
        if published:
            await repository.note_published(connection, published)
        return expired == _BATCH or len(published) >= _BATCH

    async def _publish(self, ready: Sequence[asyncpg.Record]) -> list[asyncpg.Record]:
        """Those of them that are in their lanes now; the others stay for the next look."""
        if not self.publisher.ready:
            return []  # deadlines are not to wait for the broker
        done = await asyncio.gather(*(self._publish_one(row) for row in ready))
        return [row for row, confirmed in zip(ready, done, strict=True) if confirmed]

    async def _publish_one(self, row: asyncpg.Record) -> bool:
        try:
            task = TaskSubmitted.decode(row["message"])
            await self.publisher.publish(
                TASKS, row["tier"], task, subject=task.task_id, stable_id=str(task.task_id), priority=RESUME_LEVEL
            )
        except (Unavailable, DecodeError, PoisonError) as error:
            _log.warning("waker.not_published", task_id=str(row["task_id"]), error=repr(error))
            return False
        except Exception:  # noqa: BLE001 - whatever is wrong with one, the others are woken; it is tried again
            _log.exception("waker.not_published", task_id=str(row["task_id"]))
            metrics.WAKER_FAILURES.inc()
            return False
        return True


def pause(until_due: float | None) -> float:
    """Seconds to the next look. What is due already and was not woken waits for others to be taken from their lane."""
    if until_due is None:
        return _LONGEST_PAUSE_SECONDS
    return min(_LONGEST_PAUSE_SECONDS, max(_SHORTEST_PAUSE_SECONDS, until_due))


async def _measure(connection: Connection) -> None:
    metrics.PARKED.clear()
    for reason, count in (await repository.parked(connection)).items():
        metrics.PARKED.labels(reason).set(count)
    metrics.OLDEST_READY.set(await repository.oldest_ready_seconds(connection))
