"""Making and changing schedules: all that a tick needs is decided here, and whether it may be is asked again then."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
import uuid_utils.compat
from asyncpg import Record

from common.admission import NEUTRAL_LEVEL
from common.catalogue import Catalogue
from common.contracts.base import now
from common.errors import StoreUnavailable
from common.scheduling import LANE_FULL, given_up
from gateway import problems
from gateway.principals import Principal
from gateway.problems import Problem
from gateway.schedule_records import Definition, Schedules
from gateway.schedule_schemas import MOST_SCHEDULES, Asked, check_schedule, of_task
from gateway.submission import Submissions
from gateway.tasks import Tasks
from gateway.tickets import ticket_for

_log = structlog.get_logger(__name__)

_FIELDS = ("cron", "time_zone", "task", "missed", "name", "enabled")
_RHYTHM = ("cron", "time_zone", "enabled")
_ATTEMPTS = 3


class Scheduling:
    """Takes schedules in."""

    def __init__(self, catalogue: Catalogue, submissions: Submissions, schedules: Schedules, tasks: Tasks) -> None:
        self._catalogue = catalogue
        self._submissions = submissions
        self._schedules = schedules
        self._tasks = tasks

    async def add(self, principal: Principal, document: dict[str, Any]) -> Record:
        """Make a schedule. Raises `Problem`."""
        asked = check_schedule(document, self._catalogue)
        made = await self._definition(principal, asked, now())
        row = await self._schedules.add(principal.tenant_id, uuid_utils.compat.uuid7(), made)
        if row is None:
            raise problems.INVALID.problem(
                f"A tenant has at most {MOST_SCHEDULES} schedules: delete one that is not needed any more."
            )
        return row

    async def change(self, principal: Principal, schedule_id: UUID, document: dict[str, Any]) -> Record | None:
        """Change the fields that the document has; None where there is no such schedule. Raises `Problem`."""
        for _ in range(_ATTEMPTS):
            was = await self._schedules.find(principal.tenant_id, schedule_id)
            if was is None:
                return None
            asked = check_schedule({name: was[name] for name in _FIELDS} | document, self._catalogue)
            made = await self._definition(principal, asked, await self._settled_until(was))
            afresh = any(getattr(made, name) != was[name] for name in _RHYTHM)
            changed = await self._schedules.change(was, made, afresh=afresh)
            if changed is not None:
                if afresh:
                    await self._give_up(changed.before)
                return changed.now
        raise problems.unavailable("Others change this schedule at the same time, and nothing was changed: ask again.")

    async def delete(self, principal: Principal, schedule_id: UUID) -> bool:
        """False where there is none. What it has submitted goes on."""
        was = await self._schedules.delete(principal.tenant_id, schedule_id)
        if was is not None:
            await self._give_up(was)
        return was is not None

    async def _definition(self, principal: Principal, asked: Asked, after: datetime) -> Definition:
        try:
            tier = await self._submissions.entitled(principal, asked.task)
        except Problem as problem:
            raise of_task(problem) from problem
        timing = asked.timing
        names = self._catalogue.tier_names
        return Definition(
            name=timing.name,
            cron=timing.cron,
            time_zone=timing.time_zone,
            missed=timing.missed,
            enabled=timing.enabled,
            task=asked.task_as_given,
            # What a submission would publish at this moment: a tick has its own id, time, tier and level. Who asks the
            # same again by the clock does not want the answer of the last time.
            message=ticket_for(principal.tenant_id, asked.task, tier, None, principal.allowed_models, no_store=True)
            .message(NEUTRAL_LEVEL)
            .encode(),
            user_id=asked.task.user_id,
            tier=asked.task.tier,
            allowed_to=names[: names.index(tier) + 1],
            next_at=asked.cadence.after(after) if timing.enabled else None,
        )

    async def _settled_until(self, was: Record) -> datetime:
        """From when on a tick is a new one: none comes twice, though another clock may have seen the last one."""
        ticks = await self._schedules.ticks(was["tenant_id"], [was["schedule_id"]], 1)
        return max(now(), *(tick["until"] for tick in ticks)) if ticks else now()

    async def _give_up(self, was: Record) -> None:
        """End what its lane has refused, and nobody will try again. Best effort.

        What its lane may have, as nobody said, goes on like all that a schedule has submitted.
        """
        if was["waiting"] != LANE_FULL:
            return
        tier = was["tier"] or self._catalogue.tier_names[-1]
        end = given_up(was["schedule_id"], was["next_at"], was["tenant_id"], tier, LANE_FULL)
        try:
            await self._tasks.refuse(was["tenant_id"], end)
        except StoreUnavailable as error:
            _log.warning("schedule.not_refused", task_id=str(end.task_id), error=repr(error))
