"""A place among its tenant's outstanding tasks for a task that no gateway lets in."""

from __future__ import annotations

from uuid import UUID

from common.admission import LEVEL, OUTSTANDING_SECONDS, PRIORITIES, outstanding_key
from common.pipelining import Pipelined, Script

# KEYS: the outstanding tasks of priorities 0 to 9. ARGV: task, priority, most outstanding, seconds until it is
# forgotten. Answers its level, or -1 where there are too many. Who has a place keeps it: a task that is
# published again is the same one.
_TAKE = Script(
    LEVEL
    + """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local own = KEYS[tonumber(ARGV[2]) + 1]
local has = redis.call('ZSCORE', own, ARGV[1])
local total, rank = 0, 0
for p = 0, 9 do
  local gone = redis.call('ZRANGE', KEYS[p + 1], '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)
  if #gone > 0 then redis.call('ZREM', KEYS[p + 1], unpack(gone)) end
  local n = redis.call('ZCARD', KEYS[p + 1])
  total = total + n
  if p >= tonumber(ARGV[2]) then rank = rank + n end
end
if has then return level_of(rank - 1) end
if total >= tonumber(ARGV[3]) then return -1 end
redis.call('ZADD', own, now + ARGV[4] * 1000, ARGV[1])
if redis.call('TTL', own) < tonumber(ARGV[4]) then redis.call('EXPIRE', own, ARGV[4]) end
return level_of(rank)
"""
)


async def take(redis: Pipelined, tenant_id: UUID, task_id: UUID, priority: int, most: int) -> int | None:
    """The task's level, or None where its tenant has as many tasks as it may. Raises `CacheUnavailable`."""
    keys = [outstanding_key(tenant_id, one) for one in PRIORITIES]
    level: int = await redis.run(_TAKE, keys, [str(task_id), priority, most, OUTSTANDING_SECONDS])
    return None if level < 0 else level
