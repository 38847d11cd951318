"""Whether a batch may enter: all of it or nothing, in one round trip, each task with the level it would have had alone.

A batch takes as many from the tenant's rate as it has tasks. It may take more than there are, which would otherwise be
all it could never have: the tenant then waits until the rate has made up for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog

from common.admission import LEVEL, outstanding_key, rate_key, record_key
from common.batches import batch_key
from common.errors import CacheUnavailable
from common.pipelining import Argument, Pipelined, Script
from gateway.admission import KEYED_SECONDS, UNKEYED_SECONDS, Admission, Decision, Outcome, tenant_keys
from gateway.batch_tickets import BatchTicket
from gateway.outstanding import WHOLE, Outstanding
from gateway.principals import Principal

_log = structlog.get_logger(__name__)

# KEYS: bucket, batch record, the outstanding tasks of priorities 0 to 9, if they are whole, then the tasks' records.
# ARGV: requests per minute, most outstanding, request hash, time of submission, seconds to keep records, then of each
# task its priority, its id, its answer and the seconds until it is forgotten; last, whether the sets are to be whole.
# Answers {outcome, requests left, milliseconds until the bucket is full (empty: has one), time of submission, a digit
# for each task (1: was confirmed before), levels}.
_ADMIT = (
    WHOLE
    + LEVEL
    + """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local rpm, most, size = tonumber(ARGV[1]), tonumber(ARGV[2]), #KEYS - 13

local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = rpm
if bucket[1] then
  tokens = math.min(rpm, tonumber(bucket[1]) + math.max(0, now - tonumber(bucket[2])) * rpm / 60000)
end
if tokens < 1 then return {'rate_limited', 0, math.ceil((1 - tokens) * 60000 / rpm), '', '', {}} end
local left, full
local function take(n)
  tokens = tokens - n
  redis.call('HSET', KEYS[1], 'tokens', tokens, 'at', now)
  redis.call('EXPIRE', KEYS[1], math.max(120, math.ceil((rpm - tokens) * 60 / rpm)))
  left, full = math.max(0, math.floor(tokens)), math.ceil((rpm - tokens) * 60000 / rpm)
end

local record = redis.call('HMGET', KEYS[2], 'hash', 'at', 'accepted')
local at, accepted = ARGV[4], string.rep('0', size)
if record[1] then
  if record[1] ~= ARGV[3] then
    take(1)
    return {'conflict', left, full, '', '', {}}
  end
  at, accepted = record[2], record[3]
  if not string.find(accepted, '0', 1, true) then
    take(1)
    return {'repeated', left, full, at, accepted, {}}
  end
end

local counts, total = {}, 0
local function count()
  total = 0
  for p = 0, 9 do
    counts[p] = redis.call('ZCARD', KEYS[p + 3])
    total = total + counts[p]
  end
end
local fresh, new = {}, 0
for i = 1, size do
  if string.sub(accepted, i, i) == '0' then
    fresh[i] = not redis.call('ZSCORE', KEYS[ARGV[4 * i + 2] + 3], ARGV[4 * i + 3])
    if fresh[i] then new = new + 1 end
  end
end
count()
if total + new > most then
  for p = 0, 9 do redis.call('ZREMRANGEBYSCORE', KEYS[p + 3], '-inf', now) end
  count()
end
if total + new > most then
  take(1)
  return {'too_many', left, full, '', '', {}}
end

local levels, longest = {}, {}
for i = 1, size do
  if fresh[i] == nil then
    levels[i] = 0
  else
    local priority, rank = tonumber(ARGV[4 * i + 2]), 0
    for p = priority, 9 do rank = rank + counts[p] end
    levels[i] = level_of(rank)
    if fresh[i] then
      counts[priority] = counts[priority] + 1
      local seconds = tonumber(ARGV[4 * i + 5])
      redis.call('ZADD', KEYS[priority + 3], now + seconds * 1000, ARGV[4 * i + 3])
      longest[priority] = math.max(longest[priority] or 0, seconds)
    end
    redis.call('HSET', KEYS[i + 13], 'answer', ARGV[4 * i + 4])
    redis.call('EXPIRE', KEYS[i + 13], ARGV[5])
  end
end
for p, seconds in pairs(longest) do
  if redis.call('TTL', KEYS[p + 3]) < seconds then redis.call('EXPIRE', KEYS[p + 3], seconds) end
end
take(math.max(1, new))
redis.call('HSET', KEYS[2], 'hash', ARGV[3], 'at', at, 'size', size, 'accepted', accepted)
redis.call('EXPIRE', KEYS[2], ARGV[5])
return {record[1] and 'unconfirmed' or 'admitted', left, full, at, accepted, levels}
"""
)

# KEYS: bucket, batch record, then of each task that is taken back its record and the outstanding tasks of its priority.
# ARGV: a digit for each task of the batch (1: it was confirmed, 2: long ago, ?: nobody knows), then of each that
# is taken back its place and its id.
# What another request has seen confirmed meanwhile stays; where nothing was, nor may have been, the key is free again.
_SETTLE = """
local before, after = redis.call('HGET', KEYS[2], 'accepted'), {}
for i = 1, #ARGV[1] do
  local told = string.sub(ARGV[1], i, i)
  local confirmed = told == '1' or told == '2' or (before and string.sub(before, i, i) == '1')
  after[i] = confirmed and '1' or '0'
end
local whole = table.concat(after)
if before and not string.find(whole .. ARGV[1], '[1?]') then redis.call('DEL', KEYS[2])
elseif before then redis.call('HSET', KEYS[2], 'accepted', whole) end
local returned = 0
for k = 2, #ARGV, 2 do
  local place = tonumber(ARGV[k])
  if after[place] == '0' or string.sub(ARGV[1], place, place) == '2' then
    redis.call('DEL', KEYS[k + 1])
    redis.call('ZREM', KEYS[k + 2], ARGV[k + 1])
    returned = returned + 1
  end
end
if returned > 0 and redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HINCRBYFLOAT', KEYS[1], 'tokens', returned) end
return returned
"""


@dataclass(frozen=True, slots=True)
class BatchDecision:
    """What admission says of a batch."""

    decision: Decision
    levels: tuple[int, ...]
    accepted: frozenset[int]
    """The places of tasks that an earlier request has seen confirmed."""
    submitted_at: datetime | None
    """When the same batch came first."""


class BatchAdmission:
    """Admits batches, and takes back what was not confirmed."""

    def __init__(self, redis: Pipelined, outstanding: Outstanding, single: Admission) -> None:
        self._redis = redis
        self._outstanding = outstanding
        self._single = single
        self._admit = Script(_ADMIT)
        self._settle = Script(_SETTLE)

    async def admit(self, principal: Principal, batch: BatchTicket) -> BatchDecision:
        """Decide. Never raises: without Redis the decision is this process's own."""
        tenant, size = batch.tenant_id, len(batch.tasks)
        rate, *outstanding = tenant_keys(tenant)
        records = [record_key(tenant, task.task_id) for task in batch.tasks]
        arguments: list[Argument] = [
            principal.requests_per_minute,
            principal.max_outstanding,
            batch.request_hash,
            batch.at.isoformat(),
            KEYED_SECONDS if batch.key is not None else UNKEYED_SECONDS,
        ]
        for task in (ticket.candidate for ticket in batch.tasks):
            arguments += [task.priority, str(task.task_id), task.answer, task.outstanding_seconds]
        keys = [rate, batch_key(tenant, batch.id), *outstanding, *records]
        try:
            answer = await self._outstanding.ask(self._admit, principal, keys, arguments)
        except CacheUnavailable as error:
            _log.info("admission.local", error=repr(error))
            alone = self._single.alone(principal, size)
            return BatchDecision(alone, (alone.level,) * size, frozenset(), None)
        return _decision(answer, principal)

    async def settle(
        self, batch: BatchTicket, accepted: frozenset[int], returned: frozenset[int], unknown: frozenset[int]
    ) -> None:
        """Note what was accepted, and take back what was not, or long ago. Best effort: what stays behind expires.

        What is `unknown` is taken back too, but the batch is remembered, as it may exist.
        """
        tenant = batch.tenant_id
        keys = [rate_key(tenant), batch_key(tenant, batch.id)]
        arguments: list[Argument] = [
            "".join(
                "?" if n in unknown else str((n in accepted) + (n in accepted & returned))
                for n in range(len(batch.tasks))
            )
        ]
        for place in sorted(returned):
            task = batch.tasks[place].candidate
            keys += [record_key(tenant, task.task_id), outstanding_key(tenant, task.priority)]
            arguments += [place + 1, str(task.task_id)]
        try:
            await self._redis.run(self._settle, keys, arguments)
        except CacheUnavailable as error:
            _log.warning("admission.batch_unsettled", batch_id=str(batch.id), error=repr(error))


def _decision(answer: list[Any], principal: Principal) -> BatchDecision:
    outcome, left, full, at, accepted, levels = answer
    decision = Decision(Outcome(outcome.decode()), 0, principal.requests_per_minute, left, full)
    return BatchDecision(
        decision,
        tuple(levels),
        frozenset(place for place, digit in enumerate(accepted.decode()) if digit == "1"),
        datetime.fromisoformat(at.decode()) if at else None,
    )
