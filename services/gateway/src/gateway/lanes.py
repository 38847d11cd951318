"""The lanes as a whole: a snapshot that many requests share, a task's place in it, and the numbers to scale by.

A snapshot costs as much as the lanes are long, so it is taken no more often than that it keeps the database busy for a
twentieth of the time, and for no request but the first that finds it old.
"""

from __future__ import annotations

import asyncio
import math
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import structlog

from common.errors import BrokerUnavailable, StoreUnavailable
from common.messaging.consumer import Depth
from common.messaging.topology import lane
from gateway.lane_records import LaneRecords, PausedTiers, Queue, Runs, Slots
from gateway.metrics import Metrics

_log = structlog.get_logger(__name__)
_FRESH_SECONDS = 1.0
_TIMES_ITS_COST = 20
_HUNDREDTHS = 100
_WATCH_SECONDS = 5.0
# A watcher that has died is replaced after this.
_WATCHING_SECONDS = 15.0


@dataclass(frozen=True)
class Snapshot:
    """The lanes at one moment."""

    at: datetime
    queues: tuple[Queue, ...] = ()
    runs: tuple[Runs, ...] = ()
    slots: tuple[Slots, ...] = ()
    paused: PausedTiers = field(default_factory=PausedTiers)

    def position(self, tier: str, level: int, submitted_at: datetime) -> int:
        """About how many tasks of the lane come before this one: of higher levels, and of its own the older ones."""
        ahead = 0
        for queue in self.queues:
            if queue.tier == tier and queue.level > level:
                ahead += queue.queued
            elif queue.tier == tier and queue.level == level:
                ahead += _older(queue, submitted_at)
        return ahead

    def rate(self, tier: str) -> float | None:
        """Tasks of the lane that begin in a second, as of the last minute; None where none did."""
        runs = next((runs for runs in self.runs if runs.tier == tier), Runs(tier))
        if not runs.starts or runs.starting_since is None:
            return None
        return runs.starts / max(1.0, (self.at - runs.starting_since).total_seconds())

    def estimate(self, tier: str, level: int, submitted_at: datetime) -> dict[str, Any]:
        """`position`, and `estimated_start` where there is a rate to reckon with."""
        position, rate = self.position(tier, level, submitted_at), self.rate(tier)
        start = None if rate is None else datetime.now(UTC) + timedelta(seconds=(position + 1) / rate)
        return {"position": position, "estimated_start": start}


UNKNOWN: dict[str, Any] = {"position": None, "estimated_start": None}


def _older(queue: Queue, submitted_at: datetime) -> int:
    before = bisect_left(queue.submitted, submitted_at)
    return 0 if before == 0 else min(queue.queued, math.ceil((before - 1) * queue.queued / _HUNDREDTHS))


class Lanes:
    """Takes snapshots, and remembers the last one."""

    def __init__(self, records: LaneRecords, depth: Callable[[str], Awaitable[Depth]], tiers: Sequence[str]) -> None:
        """`depth` asks the broker about a queue."""
        self._records = records
        self._depth = depth
        self._tiers = tuple(tiers)
        self._snapshot: Snapshot | None = None
        self._old_at = 0.0
        self._taking: asyncio.Task[Snapshot] | None = None

    async def snapshot(self) -> Snapshot:
        """The lanes as they are, or were a moment ago. Raises `StoreUnavailable`."""
        if self._snapshot is not None and asyncio.get_running_loop().time() < self._old_at:
            return self._snapshot
        if self._taking is None or self._taking.done():
            self._taking = asyncio.create_task(self._take(), name="lanes.snapshot")
            self._taking.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._taking)

    async def _take(self) -> Snapshot:
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            queues, runs, slots, paused = await self._records.read()
        finally:
            # A database that could not answer is not asked the sooner.
            self._old_at = clock() + max(_FRESH_SECONDS, _TIMES_ITS_COST * (clock() - began))
        self._snapshot = Snapshot(datetime.now(UTC), tuple(queues), tuple(runs), tuple(slots), paused)
        return self._snapshot

    async def estimate(self, tier: str, level: int | None, submitted_at: datetime | None) -> dict[str, Any]:
        """What can be told of a queued task's turn; unknown where it cannot be told at once."""
        if level is None or submitted_at is None:
            return UNKNOWN
        try:
            snapshot = await self.snapshot()
        except StoreUnavailable:
            return UNKNOWN
        # What was seen before the task came says nothing of its place.
        return snapshot.estimate(tier, level, submitted_at) if snapshot.at > submitted_at else UNKNOWN

    async def numbers(self) -> list[dict[str, Any]]:
        """Each lane's numbers, best tier first, and those of lanes that are in no catalogue and have work all the same.

        Raises `StoreUnavailable`.
        """
        snapshot = await self.snapshot()
        begun = {runs.tier for runs in snapshot.runs if runs.running or runs.parked}
        tiers = [*self._tiers, *sorted({queue.tier for queue in snapshot.queues}.union(begun).difference(self._tiers))]
        return [_numbers(tier, snapshot, await self._told(tier)) for tier in tiers]

    async def _told(self, tier: str) -> Depth | None:
        try:
            return await self._depth(lane(tier))
        except BrokerUnavailable as error:
            _log.info("lane.depth_unknown", tier=tier, error=repr(error))
            return None


def _numbers(tier: str, snapshot: Snapshot, told: Depth | None) -> dict[str, Any]:
    queues = [queue for queue in snapshot.queues if queue.tier == tier]
    runs = next((runs for runs in snapshot.runs if runs.tier == tier), Runs(tier))
    slots = next((slots for slots in snapshot.slots if slots.tier == tier), Slots(tier))
    queued = sum(queue.queued for queue in queues)
    begun = [queue.submitted[0] for queue in queues] + ([runs.oldest] if runs.oldest else [])
    ready, consumers = (told.ready, told.consumers) if told is not None else (None, None)
    paused = tier in snapshot.paused
    # What waits for a time or an event is nothing to do yet, and may be so for weeks. What was woken is a run, never
    # queued: that its message is in the lane again is seen in `ready` alone, which is no part of this.
    work = queued + runs.running + runs.parked_ready
    return {
        "lane": lane(tier),
        "tier": tier,
        "queued": queued,
        "running": runs.running,
        "parked": runs.parked,
        "parked_ready": runs.parked_ready,
        "work": work,
        "oldest_seconds": round((snapshot.at - min(begun)).total_seconds(), 1) if begun else 0.0,
        "starts_per_second": round(snapshot.rate(tier) or 0.0, 3),
        "workers": slots.workers,
        "slots": slots.slots,
        "slots_free": slots.slots_free,
        "ready": ready,
        "consumers": consumers,
        "paused": paused,
        "unserved": bool(work or ready) and not _served(consumers, slots.workers, paused=paused),
        "as_of": snapshot.at,
    }


def _served(consumers: int | None, workers: int, *, paused: bool) -> bool:
    """Whether anybody is there for a lane.

    The broker knows best. Where it cannot be asked the workers' own reports have to do; where the lane is paused they
    speak for those who leave it alone as they are told to.
    """
    return bool(consumers) or (workers > 0 and (paused or consumers is None))


async def watch_forever(lanes: Lanes, records: LaneRecords, metrics: Metrics) -> None:
    """Show the lanes in the metrics while it falls to this process, until cancelled: one gateway does it for all."""
    process = uuid4()
    while True:
        try:
            mine = await records.watch(process, _WATCHING_SECONDS)
            metrics.show_lanes(await lanes.numbers() if mine else [])
        except StoreUnavailable as error:
            metrics.show_lanes([])
            _log.info("lanes.unwatched", error=repr(error))
        await asyncio.sleep(_WATCH_SECONDS)
