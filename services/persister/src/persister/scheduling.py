"""Publishes what schedules are due for: one task for each tick, whatever happens in between.

A tick's task is published and confirmed first; then the tick and the task are recorded, and the schedule goes on, in
one transaction. Who dies between the two leaves the tick open: whoever looks next publishes the same task again, by the
same id, of which only one is ever run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import asyncpg
import structlog

from common.admission import NEUTRAL_LEVEL, release
from common.cadence import CadenceError, cadence
from common.contracts import TaskSubmitted
from common.contracts.identifiers import scheduled_task_id
from common.errors import BrokerUnavailable, CacheUnavailable, DecodeError, LaneFull, PoisonError
from common.messaging.publisher import Publisher
from common.messaging.topology import TASKS
from common.pipelining import Pipelined
from common.scheduling import LANE_FULL, given_up, task_of_tick
from persister import metrics, places, repository, rows, schedule_repository
from persister.schedule_repository import Advance, TickRow
from persister.ticking import Turn, turn

if TYPE_CHECKING:
    from common.postgres import Connection

_log = structlog.get_logger(__name__)
_RETRY_SECONDS = 5.0
_NOT_LOOKED_AT = "late"


@dataclass(frozen=True)
class Settled:
    """What came of a look at a schedule."""

    schedule: asyncpg.Record
    step: Advance
    ticks: tuple[TickRow, ...] = ()
    task: TaskSubmitted | None = None
    """What was published."""


async def fire_due(
    connection: Connection, publisher: Publisher, redis: Pipelined, limit: int, watched: timedelta
) -> int:
    """Look at so many schedules at most, after having been there for so long; how many were due."""
    due = await schedule_repository.due(connection, limit)
    if to_try := await _announced(connection, due):
        settled = await asyncio.gather(*(_settle(schedule, publisher, redis, watched) for schedule in to_try))
        await _record(connection, settled)
    return len(due)


async def _announced(connection: Connection, due: Sequence[asyncpg.Record]) -> list[asyncpg.Record]:
    """Those to be tried: a change of a schedule ends what its lane refused, unless it is being tried again."""
    refused = [one for one in due if one["waiting"] == LANE_FULL]
    announced = await schedule_repository.announce(connection, refused) if refused else set()
    return [one for one in due if one["waiting"] != LANE_FULL or one["schedule_id"] in announced]


async def _settle(schedule: asyncpg.Record, publisher: Publisher, redis: Pipelined, watched: timedelta) -> Settled:
    try:
        return await _look_at(schedule, publisher, redis, watched)
    except Exception:  # noqa: BLE001 - whatever is wrong with one, the others go on; it is tried again, and says so
        _log.exception("schedule.failed", schedule_id=str(schedule["schedule_id"]))
        metrics.WAKER_FAILURES.inc()
        return Settled(schedule, _wait(schedule, schedule["next_at"], "internal_error"))


async def _look_at(schedule: asyncpg.Record, publisher: Publisher, redis: Pipelined, watched: timedelta) -> Settled:
    try:
        cadence_of = cadence(schedule["cron"], schedule["time_zone"])
    except CadenceError as error:
        # Checked when it was made: this machine knows other zones. It stands still, and says why.
        _log.error("schedule.unusable", schedule_id=str(schedule["schedule_id"]), error=repr(error))
        tick = schedule["next_at"]
        return Settled(schedule, _step(schedule, None), (_tick(schedule, "skipped", tick, tick, str(error)),))
    tried = schedule["waiting"] is not None
    now = schedule["now"]
    plan = turn(cadence_of, schedule["next_at"], now, schedule["missed"], watched=watched, tried=tried)
    missed: tuple[TickRow, ...] = ()
    if plan.missed is not None:
        missed = (_tick(schedule, "missed", *plan.missed, schedule["waiting"] or _NOT_LOOKED_AT),)
    if plan.tick is None:
        return Settled(schedule, _step(schedule, plan.next_at), missed)
    return await _fire(schedule, plan, plan.tick, missed, publisher, redis)


async def _fire(
    schedule: asyncpg.Record,
    plan: Turn,
    tick: datetime,
    missed: tuple[TickRow, ...],
    publisher: Publisher,
    redis: Pipelined,
) -> Settled:
    try:
        task = await _enter(schedule, tick, publisher, redis)
    except _Skipped as skipped:
        row = _tick(schedule, "skipped", tick, tick, skipped.reason)
        return Settled(schedule, _step(schedule, plan.next_at), (*missed, row))
    except BrokerUnavailable as error:
        _log.warning("schedule.waits", schedule_id=str(schedule["schedule_id"]), error=repr(error))
        return Settled(schedule, _wait(schedule, tick, _reason(schedule, tick, error)), missed)
    fired = _tick(schedule, "fired", tick, tick, task_id=True)
    return Settled(schedule, _step(schedule, plan.next_at), (*missed, fired), task)


def _reason(schedule: asyncpg.Record, tick: datetime, error: BrokerUnavailable) -> str:
    """A lane that refuses it now may have taken it before, when nobody said what became of it."""
    before = schedule["waiting"] if tick == schedule["next_at"] else None
    return LANE_FULL if isinstance(error, LaneFull) and before in (None, LANE_FULL) else "broker_unavailable"


class _Skipped(Exception):
    """This tick has no task, and never will."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def _enter(schedule: asyncpg.Record, tick: datetime, publisher: Publisher, redis: Pipelined) -> TaskSubmitted:
    """Publish the tick's task. Raises `_Skipped`, and `BrokerUnavailable` where it is to be tried again."""
    if schedule["refusal"] is not None:
        raise _Skipped(schedule["refusal"])
    if not publisher.ready:
        raise BrokerUnavailable("RabbitMQ is not connected")
    try:
        template = TaskSubmitted.decode(schedule["message"])
    except DecodeError as error:
        raise _Skipped(f"unusable: {error.reason}") from error
    task = task_of_tick(
        template,
        schedule["schedule_id"],
        tick,
        tier=schedule["tier"],
        level=await _level(schedule, tick, template.priority, redis),
        at=_first_tried(schedule, tick),
    )
    if task.deadline_at is not None and task.deadline_at <= schedule["now"]:
        await _leave(task, redis)
        raise _Skipped("deadline_passed")
    try:
        await publisher.publish(
            TASKS, task.tier, task, subject=task.task_id, stable_id=str(task.task_id), priority=task.level
        )
    except BrokerUnavailable:
        await _leave(task, redis)  # it takes one again with the next try, if there is one
        raise
    except PoisonError as error:
        raise _Skipped(f"unusable: {error}") from error
    return task


async def _level(schedule: asyncpg.Record, tick: datetime, priority: int, redis: Pipelined) -> int:
    task_id = scheduled_task_id(schedule["schedule_id"], tick)
    try:
        level = await places.take(redis, schedule["tenant_id"], task_id, priority, schedule["max_outstanding"])
    except CacheUnavailable as error:
        _log.info("schedule.uncounted", task_id=str(task_id), error=repr(error))
        return NEUTRAL_LEVEL
    if level is None:
        raise _Skipped("too_many_outstanding")
    return level


async def _leave(task: TaskSubmitted, redis: Pipelined) -> None:
    try:
        await release(redis, task.tenant_id, task.task_id, task.priority)
    except CacheUnavailable as error:
        _log.info("schedule.place_kept", task_id=str(task.task_id), error=repr(error))  # it expires by itself


async def _record(connection: Connection, settled: Sequence[Settled]) -> None:
    async with connection.transaction():
        there = await schedule_repository.lock(connection, [one.step.schedule_id for one in settled])
        ticks = [tick for one in settled for tick in one.ticks if tick.schedule_id in there]
        await schedule_repository.record_ticks(connection, ticks)
        # Here and not only by way of the queue: who reads the tick finds its task.
        tasks = sorted((one.task for one in settled if one.task is not None), key=lambda task: task.task_id)
        await repository.record_tasks(connection, rows.tasks(tasks, []))
        await repository.record_messages(connection, [row for task in tasks for row in rows.given(task)])
        for one in settled:
            await _give_up(connection, one)
        await schedule_repository.advance(connection, [one.step for one in settled], _RETRY_SECONDS)
    for one in settled:
        for tick in one.ticks:
            metrics.TICKS.labels(tick.outcome).inc()
        if one.task is not None:
            metrics.TICK_LATENESS.observe((one.task.submitted_at - one.ticks[-1].tick_at).total_seconds())


async def _give_up(connection: Connection, one: Settled) -> None:
    """Of what was tried the record may have its copy: what will not be tried again ends, for its tick's reason."""
    schedule = one.schedule
    tried = schedule["next_at"]
    reason = next((tick.reason for tick in one.ticks if tick.tick_at == tried), None)
    if schedule["waiting"] is not None and reason is not None:
        end = given_up(schedule["schedule_id"], tried, schedule["tenant_id"], schedule["tier"], reason)
        await schedule_repository.refuse(connection, end)


def _step(schedule: asyncpg.Record, next_at: datetime | None) -> Advance:
    return Advance(schedule["schedule_id"], schedule["next_at"], next_at, None, None)


def _wait(schedule: asyncpg.Record, tick: datetime, reason: str) -> Advance:
    return Advance(schedule["schedule_id"], schedule["next_at"], tick, reason, _first_tried(schedule, tick))


def _first_tried(schedule: asyncpg.Record, tick: datetime) -> datetime:
    tried_at: datetime | None = schedule["tried_at"]
    now: datetime = schedule["now"]
    return tried_at if tried_at is not None and tick == schedule["next_at"] else now


def _tick(
    schedule: asyncpg.Record,
    outcome: str,
    first: datetime,
    last: datetime,
    reason: str | None = None,
    *,
    task_id: bool = False,
) -> TickRow:
    schedule_id = schedule["schedule_id"]
    task = scheduled_task_id(schedule_id, first) if task_id else None
    return TickRow(schedule_id, schedule["tenant_id"], first, last, outcome, reason, task)
