"""SQL on the lanes as a whole: how much waits, what runs, who is there. Nothing of it tells one tenant of another."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from common.lanes import SILENT_SECONDS
from gateway.database import Database

_QUEUES = "SELECT tier, level, queued, submitted FROM runtime.lane_queues()"
_RUNS = "SELECT tier, running, parked, parked_ready, oldest, starts, starting_since FROM runtime.lane_runs()"
_SLOTS = "SELECT tier, workers, slots, slots_free FROM runtime.lane_slots($1)"
_PAUSES = "SELECT scope, name FROM runtime.pauses WHERE scope IN ('everything', 'tier')"
_WATCH = "SELECT runtime.watch_lanes($1, $2)"


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits in a lane on one level: how many, and the hundredths of their times of submission."""

    tier: str
    level: int
    queued: int
    submitted: tuple[datetime, ...]


@dataclass(frozen=True, slots=True)
class Runs:
    """What was begun of a lane: what goes on, what is parked, and how many began in the last minute, since when.

    `oldest`: since when there is work on one that runs, or that was woken and waits for a worker.
    """

    tier: str
    running: int = 0
    parked: int = 0
    parked_ready: int = 0
    oldest: datetime | None = None
    starts: int = 0
    starting_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class Slots:
    """The workers that serve a lane, their slots, and how many tasks of this lane could begin now."""

    tier: str
    workers: int = 0
    slots: int = 0
    slots_free: int = 0


@dataclass(frozen=True, slots=True)
class PausedTiers:
    """The tiers that operators have stopped. The pause of a tenant or an agent leaves its lane open."""

    names: frozenset[str] = frozenset()
    everything: bool = False

    def __contains__(self, tier: str) -> bool:
        """Whether nothing of this tier is begun, whosever task it is."""
        return self.everything or tier in self.names


class LaneRecords:
    """Reads them. Every call raises `StoreUnavailable` where PostgreSQL is too slow."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self) -> tuple[list[Queue], list[Runs], list[Slots], PausedTiers]:
        """All of it, as of one moment or nearly so."""
        return await self._database.within(self._read())

    async def _read(self) -> tuple[list[Queue], list[Runs], list[Slots], PausedTiers]:
        async with self._database.statement() as connection:
            queues = [
                Queue(row["tier"], row["level"], row["queued"], tuple(row["submitted"]))
                for row in await connection.fetch(_QUEUES)
            ]
            runs = [Runs(**dict(row)) for row in await connection.fetch(_RUNS)]
            slots = [Slots(**dict(row)) for row in await connection.fetch(_SLOTS, timedelta(seconds=SILENT_SECONDS))]
            pauses = await connection.fetch(_PAUSES)
            names = frozenset(row["name"] for row in pauses if row["scope"] == "tier")
            return queues, runs, slots, PausedTiers(names, everything=len(names) < len(pauses))

    async def watch(self, process: UUID, seconds: float) -> bool:
        """Whether this process is, for so many seconds, the one that shows the numbers."""
        return await self._database.within(self._watch(process, seconds))

    async def _watch(self, process: UUID, seconds: float) -> bool:
        async with self._database.statement() as connection:
            return bool(await connection.fetchval(_WATCH, process, timedelta(seconds=seconds)))
