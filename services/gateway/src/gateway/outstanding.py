"""A tenant's outstanding tasks, counted anew from PostgreSQL where Redis has lost them.

A key beside the sets says that they are whole. It goes with them when Redis is emptied, and once a day, so that what
went wrong in any other way is put right. Admission looks for it in the round trip that it makes anyway; where it is
missing the first request has them counted, page by page, and those that come meanwhile wait with it for a second at
most: the count of a tenant with very many goes on without them. Until it is done, and without PostgreSQL, they are
admitted by what Redis has. What was submitted a moment ago and is not recorded yet is missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

import structlog

from common.admission import PRIORITIES, counting_key, outstanding_key, release_each, whole_key
from common.errors import CacheUnavailable, Unavailable
from common.pipelining import Argument, Pipelined, Script
from gateway.background import Background
from gateway.outstanding_records import NEWEST, OpenTask, OpenTasks, Place
from gateway.principals import Principal

_log = structlog.get_logger(__name__)
# A part of what a submission may take.
_WAIT_SECONDS = 1.0
# A page is read, added, and looked up once more within it, however many there are.
_PAGE_SECONDS = 1.0
_PAGE = 1_000
# After a failure nobody else waits for the same.
_REST_SECONDS = 2.0
_WHOLE_SECONDS = 86_400
_MOST_MISSED = 10_000
# Beyond what the plan allows: it may have allowed more when they were submitted.
_BEYOND = 1_000

WHOLE = """
if ARGV[#ARGV] == '2' or ARGV[#ARGV] == '1' and redis.call('EXISTS', KEYS[13]) == 0 then return {'incomplete'} end
"""
"""How an admission script begins. KEYS[13]: the tenant's `whole_key`. The last of ARGV: '1' where it is asked for, '2'
where it is known to be wrong."""

# KEYS: the outstanding tasks of priorities 0 to 9.
# ARGV: of each task its priority, its id, and the seconds until it is forgotten.
_ADD = Script(
    """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local longest = {}
for i = 1, #ARGV, 3 do
  local key, seconds = KEYS[ARGV[i] + 1], math.ceil(ARGV[i + 2])
  redis.call('ZADD', key, 'GT', now + seconds * 1000, ARGV[i + 1])
  longest[key] = math.max(longest[key] or 0, seconds)
end
for key, seconds in pairs(longest) do
  if redis.call('TTL', key) < seconds then redis.call('EXPIRE', key, seconds) end
end
return 1
"""
)

# KEYS: the tenant's `counting_key`. ARGV: a new value, and for how long. Whoever counts at the same time has the same.
_BEGIN = Script(
    """
redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2])
return redis.call('GET', KEYS[1])
"""
)

# KEYS: the tenant's `counting_key` and `whole_key`. ARGV: the first one's value at the begin, and for how long.
_END = Script(
    """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], '1', 'EX', ARGV[2])
return 1
"""
)


@dataclass(frozen=True, slots=True)
class _Count:
    """A tenant's count that is under way, and until when its requests wait for it."""

    task: asyncio.Task[None]
    waited_for_until: float


class Outstanding:
    """Sees to it that what admission counts by is whole."""

    def __init__(self, records: OpenTasks, redis: Pipelined, background: Background) -> None:
        self._records = records
        self._redis = redis
        self._background = background
        self._counting: dict[UUID, _Count] = {}
        self._resting: dict[UUID, float] = {}
        """Tenants whose count has failed, until when it is not tried again: in that order."""
        self._missed: set[UUID] = set()

    def miss(self, tenant_id: UUID) -> None:
        """A task was admitted without Redis: the tenant is to be counted once Redis is back."""
        if len(self._missed) < _MOST_MISSED:
            self._missed.add(tenant_id)

    async def ask(
        self, script: Script, principal: Principal, keys: Sequence[str], arguments: Sequence[Argument]
    ) -> list[Argument]:
        """An admission script's answer, by whole sets if that can be. Raises `CacheUnavailable`."""
        answer = await self._redis.run(script, keys, [*arguments, self._wanted(principal.tenant_id)])
        if answer[0] == b"incomplete":
            await self._recounted(principal)
            answer = await self._redis.run(script, keys, [*arguments, "0"])
        found: list[Argument] = answer
        return found

    def _wanted(self, tenant_id: UUID) -> str:
        now = asyncio.get_running_loop().time()
        counting = self._counting.get(tenant_id)
        if self._rests(tenant_id, now) or (counting is not None and counting.waited_for_until <= now):
            return "0"
        return "2" if tenant_id in self._missed else "1"

    def _rests(self, tenant_id: UUID, now: float) -> bool:
        while self._resting and self._resting[first := next(iter(self._resting))] <= now:
            del self._resting[first]
        return tenant_id in self._resting

    async def _recounted(self, principal: Principal) -> None:
        """Wait until it is done, cannot be done now, or takes long. Whoever comes second waits with the first."""
        tenant, now = principal.tenant_id, asyncio.get_running_loop().time()
        counting = self._counting.get(tenant)
        if counting is None:
            task = self._background.start(self._count(tenant, principal.max_outstanding), "admission.recount")
            if task is None:
                return
            counting = self._counting[tenant] = _Count(task, now + _WAIT_SECONDS)
            task.add_done_callback(lambda _: self._counting.pop(tenant, None))
        await asyncio.wait({counting.task}, timeout=max(0.0, counting.waited_for_until - now))

    async def _count(self, tenant: UUID, most: int) -> None:
        missed = tenant in self._missed
        self._missed.discard(tenant)
        try:
            added = await self._fill(tenant, most)
        except (Unavailable, TimeoutError) as error:
            if missed:
                self.miss(tenant)
            self._resting.pop(tenant, None)
            self._resting[tenant] = asyncio.get_running_loop().time() + _REST_SECONDS
            _log.warning("admission.not_recounted", tenant_id=str(tenant), error=repr(error))
        else:
            _log.info("admission.recounted", tenant_id=str(tenant), tasks=added)

    async def _fill(self, tenant: UUID, most: int) -> int:
        """Add them page by page, the newest first; they are whole once every page went through, and none was lost."""
        began = await self._redis.run(_BEGIN, [counting_key(tenant)], [str(uuid4()), _WHOLE_SECONDS])
        added = 0
        place: Place | None = NEWEST
        while place is not None and added < most + _BEYOND:
            async with asyncio.timeout(_PAGE_SECONDS):
                tasks, place = await self._records.page(tenant, place, _PAGE)
                await self._add(tenant, tasks)
            added += len(tasks)
        if not await self._redis.run(_END, [counting_key(tenant), whole_key(tenant)], [began, _WHOLE_SECONDS]):
            raise CacheUnavailable("Redis was emptied while it was counted")
        return added

    async def _add(self, tenant: UUID, tasks: Sequence[OpenTask]) -> None:
        if not tasks:
            return
        keys = [outstanding_key(tenant, priority) for priority in PRIORITIES]
        arguments = [part for one in tasks for part in (one.priority, str(one.id), str(one.seconds))]
        await self._redis.run(_ADD, keys, arguments)
        await self._take_out_ended(tenant, tasks)

    async def _take_out_ended(self, tenant: UUID, added: Sequence[OpenTask]) -> None:
        """What ended while it was counted: its release may have come before it was added."""
        ended = await self._records.ended(tenant, [one.id for one in added])
        for priority in PRIORITIES:
            gone = [one.id for one in added if one.priority == priority and one.id in ended]
            if gone:
                await release_each(self._redis, tenant, gone, priority)
