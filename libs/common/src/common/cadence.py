"""When a schedule ticks: a cron expression in a time zone. Pure.

Five fields, read as Debian's cron reads them, changes of the clock included. A schedule at fixed times (neither its
minute nor its hour begins with `*`) ticks once for each of them: where the clock is put forward over one, right after
the gap; where the hour comes twice, the first time. One that repeats by the minute or hour follows the time that really
passes: nothing in a gap, and both of two equal hours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from common.errors import LanewayError

LONGEST_EXPRESSION = 200
_FIELDS = 5
_EXAMPLE = "minute, hour, day of month, month and day of week, as in 0 9 * * 1-5"
_MOMENT = timedelta(microseconds=1)
# How far to look back for the last tick: rarely further than the first, and never over more ticks than it takes.
_LOOKS_BACK = (timedelta(hours=1), timedelta(days=1), timedelta(days=32), timedelta(days=366))


class CadenceError(LanewayError):
    """A field of a schedule that says no time."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field} {reason}")
        self.field = field
        self.reason = reason


@dataclass(frozen=True)
class Cadence:
    """The ticks of an expression in a zone, as moments in UTC."""

    cron: str
    zone: ZoneInfo

    def after(self, moment: datetime) -> datetime | None:
        """The first tick later than this; None where there is none in the next fifty years."""
        return next(self._ticks(moment), None)

    def latest(self, first: datetime, until: datetime) -> datetime:
        """The last tick not later than `until`; `first` is one of them."""
        for back in _LOOKS_BACK:
            begin = max(first, until - back)
            *_, last = (None, *self._until(begin - _MOMENT, until))
            if last is not None:
                return last
        *_, last = (first, *self._until(first, until))
        return last

    def _until(self, moment: datetime, until: datetime) -> Iterator[datetime]:
        for tick in self._ticks(moment):
            if tick > until:
                return
            yield tick

    def _ticks(self, moment: datetime) -> Iterator[datetime]:
        for local in CronSim(self.cron, moment.astimezone(self.zone)):
            tick = local.astimezone(UTC)
            # By the wall clock the next time of a repeated hour may be one that was ticked an hour ago.
            if tick > moment:
                yield tick
                moment = tick


@lru_cache(maxsize=1024)
def cadence(cron: str, time_zone: str) -> Cadence:
    """The ticks of an expression in a zone. Raises `CadenceError` with what is wrong with which of the two."""
    if time_zone not in _zones():
        raise CadenceError(
            "time_zone", f"there is no time zone {time_zone!r}: name one of IANA's, as Europe/Vienna or UTC"
        )
    _check(cron)
    return Cadence(cron, ZoneInfo(time_zone))


def _check(cron: str) -> None:
    fields = len(cron.split())
    if fields != _FIELDS:
        more = ": no schedule ticks more often than each minute" if fields == _FIELDS + 1 else ""
        raise CadenceError("cron", f"has {fields} fields{more}; write {_FIELDS}: {_EXAMPLE}")
    if len(cron) > LONGEST_EXPRESSION:
        raise CadenceError("cron", f"has more than {LONGEST_EXPRESSION} characters")
    try:
        CronSim(cron, datetime(2000, 1, 1, tzinfo=UTC))
    except CronSimError as error:
        which = str(error).removeprefix("Bad ").replace("-", " ")
        raise CadenceError("cron", f"the {which} is not one that ever comes; write {_EXAMPLE}") from error


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())
