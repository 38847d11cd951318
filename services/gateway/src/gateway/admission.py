"""Whether a task may enter, decided in one round trip to Redis; without Redis, by this process alone.

The script keeps, for each tenant, a bucket of requests, its outstanding tasks by priority, and what was answered to
each submission. Its cost does not grow with the number of tasks outstanding: it counts, it never lists.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from time import monotonic
from typing import Any
from uuid import UUID

import structlog

from common.admission import (
    LEVEL,
    NEUTRAL_LEVEL,
    OUTSTANDING_SECONDS,
    PRIORITIES,
    outstanding_key,
    rate_key,
    record_key,
    whole_key,
)
from common.errors import CacheUnavailable
from common.pipelining import Pipelined, Script
from gateway.outstanding import WHOLE, Outstanding
from gateway.principals import Principal

_log = structlog.get_logger(__name__)

KEYED_SECONDS = 86_400
UNKEYED_SECONDS = 3_600
_LOCAL_BUCKETS = 10_000

# KEYS: bucket, record, the outstanding tasks of priorities 0 to 9, and whether they are whole.
# ARGV: requests per minute, most outstanding, priority, task, request hash, owner, answer, seconds to keep the
# record, seconds until an outstanding task is forgotten, whether the outstanding tasks are to be whole.
# Answers {outcome, level, requests left, milliseconds until the bucket is full (empty: has one), answer}.
_ADMIT = (
    WHOLE
    + LEVEL
    + """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local rpm, priority = tonumber(ARGV[1]), tonumber(ARGV[3])

local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = rpm
if bucket[1] then
  tokens = math.min(rpm, tonumber(bucket[1]) + math.max(0, now - tonumber(bucket[2])) * rpm / 60000)
end
if tokens < 1 then return {'rate_limited', 0, 0, math.ceil((1 - tokens) * 60000 / rpm), ''} end
tokens = tokens - 1
redis.call('HSET', KEYS[1], 'tokens', tokens, 'at', now)
redis.call('EXPIRE', KEYS[1], 120)
local left, full = math.floor(tokens), math.ceil((rpm - tokens) * 60000 / rpm)

local record = redis.call('HMGET', KEYS[2], 'hash', 'state', 'answer')
if record[1] then
  if record[1] ~= ARGV[5] then return {'conflict', 0, left, full, ''} end
  if record[2] == 'accepted' then return {'repeated', 0, left, full, record[3]} end
end

local function purge(p)
  local gone = redis.call('ZRANGE', KEYS[p + 3], '-inf', now, 'BYSCORE', 'LIMIT', 0, 20)
  if #gone > 0 then redis.call('ZREM', KEYS[p + 3], unpack(gone)) end
end
local function count()
  local total, rank = 0, 0
  for p = 0, 9 do
    local n = redis.call('ZCARD', KEYS[p + 3])
    total = total + n
    if p >= priority then rank = rank + n end
  end
  return total, rank
end
purge(priority)
purge(now % 10)
local total, rank = count()
if total >= tonumber(ARGV[2]) then
  for p = 0, 9 do purge(p) end
  total, rank = count()
end
local level = level_of(rank)
if record[1] then return {'unconfirmed', level, left, full, record[3]} end
if total >= tonumber(ARGV[2]) and not redis.call('ZSCORE', KEYS[priority + 3], ARGV[4]) then
  return {'too_many', 0, left, full, ''}
end

redis.call('ZADD', KEYS[priority + 3], now + ARGV[9] * 1000, ARGV[4])
if redis.call('TTL', KEYS[priority + 3]) < tonumber(ARGV[9]) then redis.call('EXPIRE', KEYS[priority + 3], ARGV[9]) end
redis.call('HSET', KEYS[2], 'hash', ARGV[5], 'state', 'pending', 'owner', ARGV[6], 'answer', ARGV[7])
redis.call('EXPIRE', KEYS[2], ARGV[8])
return {'admitted', level, left, full, ''}
"""
)

# KEYS: bucket, record, the outstanding tasks of the priority. ARGV: owner, task.
# Only who admitted it may undo it, and only while nobody else has seen the same task confirmed.
_UNDO = """
local record = redis.call('HMGET', KEYS[2], 'owner', 'state')
if record[1] ~= ARGV[1] or record[2] ~= 'pending' then return 0 end
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[2])
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HINCRBYFLOAT', KEYS[1], 'tokens', 1) end
return 1
"""

# KEYS: record. ARGV: request hash, answer, seconds to keep it.
_ACCEPT = """
redis.call('HSET', KEYS[1], 'hash', ARGV[1], 'state', 'accepted', 'answer', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""


class Outcome(StrEnum):
    """How a submission was decided."""

    ADMITTED = "admitted"
    UNCONFIRMED = "unconfirmed"
    """The same request was admitted before and not confirmed yet: publish it again, which changes nothing."""
    REPEATED = "repeated"
    CONFLICT = "conflict"
    RATE_LIMITED = "rate_limited"
    TOO_MANY = "too_many"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A task that asks to be let in."""

    task_id: UUID
    priority: int
    keyed: bool
    request_hash: str
    owner: str
    answer: bytes
    outstanding_seconds: int = OUTSTANDING_SECONDS
    """After which it is forgotten, if nobody says that it has ended."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What admission says, and what the client is told of its limit."""

    outcome: Outcome
    level: int
    limit: int
    remaining: int
    reset_ms: int
    answer: bytes = b""
    recorded: bool = True
    """False where Redis did not take part: nothing is to be undone, and nothing was compared."""

    def headers(self) -> dict[str, str]:
        """The limit, what is left of it, and the seconds until it is whole again."""
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_seconds),
        }

    @property
    def reset_seconds(self) -> int:
        """Rounded up, at least 1."""
        return max(1, math.ceil(self.reset_ms / 1000))


class Admission:
    """Admits, and takes back."""

    def __init__(self, redis: Pipelined, outstanding: Outstanding, replicas: int) -> None:
        self._redis = redis
        self._outstanding = outstanding
        self._admit = Script(_ADMIT)
        self._undo = Script(_UNDO)
        self._accept = Script(_ACCEPT)
        self._local = _LocalRates(replicas)

    async def admit(self, principal: Principal, candidate: Candidate) -> Decision:
        """Decide. Never raises: without Redis the decision is this process's own."""
        tenant = principal.tenant_id
        rate, *outstanding = tenant_keys(tenant)
        keys = [rate, record_key(tenant, candidate.task_id), *outstanding]
        try:
            answer = await self._outstanding.ask(
                self._admit,
                principal,
                keys,
                [
                    principal.requests_per_minute,
                    principal.max_outstanding,
                    candidate.priority,
                    str(candidate.task_id),
                    candidate.request_hash,
                    candidate.owner,
                    candidate.answer,
                    KEYED_SECONDS if candidate.keyed else UNKEYED_SECONDS,
                    candidate.outstanding_seconds,
                ],
            )
        except CacheUnavailable as error:
            _log.info("admission.local", error=repr(error))
            return self.alone(principal, 1)
        return _decision(answer, principal)

    def alone(self, principal: Principal, tasks: int) -> Decision:
        """The decision on so many tasks at once without Redis."""
        self._outstanding.miss(principal.tenant_id)
        return self._local.take(principal, tasks)

    async def undo(self, principal: Principal, candidate: Candidate) -> None:
        """Take an admission back, whose publish was not confirmed. Best effort: what stays behind expires."""
        tenant = principal.tenant_id
        keys = [
            rate_key(tenant),
            record_key(tenant, candidate.task_id),
            outstanding_key(tenant, candidate.priority),
        ]
        try:
            await self._redis.run(self._undo, keys, [candidate.owner, str(candidate.task_id)])
        except CacheUnavailable as error:
            _log.warning("admission.not_undone", task_id=str(candidate.task_id), error=repr(error))

    async def accept(self, principal: Principal, candidate: Candidate, answer: bytes) -> None:
        """Remember that a keyed task was confirmed: from now on a retry is answered without publishing."""
        key = record_key(principal.tenant_id, candidate.task_id)
        try:
            await self._redis.run(self._accept, [key], [candidate.request_hash, answer, KEYED_SECONDS])
        except CacheUnavailable as error:
            _log.info("admission.not_recorded", task_id=str(candidate.task_id), error=repr(error))


@lru_cache(maxsize=4096)
def tenant_keys(tenant: UUID) -> tuple[str, ...]:
    """The bucket's key, those of the outstanding tasks, and of whether they are whole: the same for every request."""
    return (rate_key(tenant), *(outstanding_key(tenant, priority) for priority in PRIORITIES), whole_key(tenant))


def _decision(answer: list[Any], principal: Principal) -> Decision:
    outcome, level, left, reset, body = answer
    return Decision(Outcome(outcome.decode()), level, principal.requests_per_minute, left, reset, body)


class _LocalRates:
    """Buckets of this process, each with its share of the tenant's rate."""

    def __init__(self, replicas: int) -> None:
        self._replicas = replicas
        self._buckets: OrderedDict[UUID, tuple[float, float]] = OrderedDict()

    def take(self, principal: Principal, tasks: int = 1) -> Decision:
        """So many tasks from the tenant's bucket: of one that is not empty, though they be more than it holds."""
        rate = max(1.0, principal.requests_per_minute / self._replicas)
        now = monotonic()
        tokens, at = self._buckets.pop(principal.tenant_id, (rate, now))
        tokens = min(rate, tokens + (now - at) * rate / 60)
        allowed = tokens >= 1
        self._buckets[principal.tenant_id] = (tokens - tasks if allowed else tokens, now)
        while len(self._buckets) > _LOCAL_BUCKETS:
            self._buckets.popitem(last=False)
        if not allowed:
            wait = math.ceil((1 - tokens) * 60_000 / rate)
            return Decision(Outcome.RATE_LIMITED, 0, principal.requests_per_minute, 0, wait, recorded=False)
        full = math.ceil((rate - tokens + tasks) * 60_000 / rate)
        left = max(0, int(tokens - tasks))
        return Decision(Outcome.ADMITTED, NEUTRAL_LEVEL, principal.requests_per_minute, left, full, recorded=False)
