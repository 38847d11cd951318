"""The bucket in Redis: `bucket.py` in Lua, one round trip for each question, by the server's clock.

Every question carries what the asking process believes, from which a bucket begins anew that Redis has lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent_worker.limiter.bucket import (
    CLAIM_SECONDS,
    GROWTH,
    LEAST_FACTOR,
    LONGEST_PAUSE,
    SHRINK_WINDOW,
    Ask,
    Bucket,
    Grant,
    Heard,
    Side,
)
from common.pipelining import Argument, Script

_KEPT_SECONDS = 86_400
NOTHING = Grant(False)
SERVER_CLOCK = "(function() local t = redis.call('TIME') return t[1] + t[2] / 1000000 end)()"

# KEYS: the bucket.
# ARGV: the operator's limit of requests and of tokens; what is believed of a bucket that is not there: learned limit
# and level of requests, of tokens, factor, seconds that the pause lasts; the verb; and the verb's own arguments:
#   draw requests tokens watermark
#   settle requests tokens watermark
#   refuse pause shrinks requests_left tokens_left watermark
#   learn requests_limit requests_left tokens_limit tokens_left
#   look
# Answers texts: granted, wait, requests, tokens; then the bucket, times as seconds from now. To `look` at a bucket
# that is not there: nothing.
_TEXT = """
local GROWTH, LEAST, LONGEST, WINDOW, CLAIM = {growth}, {least}, {longest}, {window}, {claim}
local now = {clock}
local verb = ARGV[9]
local function arg(n) return tonumber(ARGV[9 + n]) end

local kept = redis.call('HMGET', KEYS[1], 'at', 'learned_requests', 'requests', 'learned_tokens', 'tokens',
  'factor', 'paused_until', 'shrunk_until', 'claim', 'claim_until')
if not kept[1] and verb == 'look' then return {{}} end
local at, factor, paused_until, shrunk_until, claim, claim_until
local r, t = {{configured = tonumber(ARGV[1])}}, {{configured = tonumber(ARGV[2])}}
if kept[1] then
  for n = 1, 10 do kept[n] = tonumber(kept[n]) end
  at, r.learned, r.level, t.learned, t.level = kept[1], kept[2], kept[3], kept[4], kept[5]
  factor, paused_until, shrunk_until, claim, claim_until = kept[6], kept[7], kept[8], kept[9], kept[10]
else
  at, r.learned, r.level, t.learned, t.level = now, tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]),
    tonumber(ARGV[6])
  factor, paused_until, shrunk_until, claim, claim_until = tonumber(ARGV[7]), 0, 0, 1, 0
  if tonumber(ARGV[8]) > 0 then paused_until = now + tonumber(ARGV[8]) end
end

local function limit(side)
  if side.configured > 0 and side.learned > 0 then return math.min(side.configured, side.learned) end
  return math.max(side.configured, side.learned)
end
local function fill(side, elapsed, before, after)
  local capacity = limit(side) * after
  if capacity <= 0 then side.level = -1
  elseif side.level < 0 then side.level = capacity
  else side.level = math.min(capacity, side.level + elapsed * (limit(side) * before) / 60) end
end
local function charge(side, cost, watermark)
  local capacity = limit(side) * factor
  return math.min(cost, capacity - watermark * capacity)
end
local function wait_for(side, charged, watermark)
  local capacity = limit(side) * factor
  if capacity <= 0 then return 0 end
  local short = watermark * capacity + charged - side.level
  if short > 1e-6 then return short * 60 / capacity end
  return 0
end
local function draw(side, charged)
  if side.level >= 0 then side.level = math.max(0, side.level - charged) end
end
local function settle(side, back, watermark)
  local capacity = limit(side) * factor
  if capacity <= 0 then return end
  if back >= 0 then side.level = math.min(capacity, side.level + back)
  else side.level = math.max(math.min(side.level, watermark * capacity), side.level + back) end
end
local function lower(side, left)
  if side.level >= 0 and left >= 0 then side.level = math.min(side.level, left) end
end

local function refuse(side, left, watermark)
  fill(side, 0, factor, factor)
  if left < 0 then left = watermark * (limit(side) * factor) end
  lower(side, left)
end

local function claimed(watermark) return now < claim_until and claim < watermark end

local elapsed = math.max(0, now - at)
local before = factor
factor = math.min(1, before + elapsed * GROWTH)
fill(r, elapsed, before, factor)
fill(t, elapsed, before, factor)
paused_until = math.min(paused_until, now + LONGEST)
shrunk_until = math.min(shrunk_until, now + LONGEST)
claim_until = math.min(claim_until, now + CLAIM)

local granted, wait, requests, tokens = 0, 0, 0, 0
if verb == 'draw' then
  local watermark = arg(3)
  requests, tokens = charge(r, arg(1), watermark), charge(t, arg(2), watermark)
  wait = math.max(paused_until - now, wait_for(r, requests, watermark), wait_for(t, tokens, watermark))
  if claimed(watermark) then
    wait = math.max(wait, claim_until - now)
  elseif wait > 0 then
    claim, claim_until = watermark, now + CLAIM
  else
    granted, wait = 1, 0
    draw(r, requests)
    draw(t, tokens)
  end
  if granted == 0 then requests, tokens = 0, 0 end
elseif verb == 'settle' then
  requests, tokens = arg(1), arg(2)
  if claimed(arg(3)) then requests, tokens = math.max(0, requests), math.max(0, tokens) end
  settle(r, requests, arg(3))
  settle(t, tokens, arg(3))
  requests, tokens = 0, 0
elseif verb == 'refuse' then
  paused_until = math.max(paused_until, now + math.min(arg(1), LONGEST))
  if arg(2) == 1 and now >= shrunk_until then
    factor = math.max(LEAST, factor / 2)
    refuse(r, arg(3), arg(5))
    refuse(t, arg(4), arg(5))
    shrunk_until = math.max(paused_until, now + WINDOW)
  end
elseif verb == 'learn' then
  if arg(1) > 0 then r.learned = arg(1) end
  if arg(3) > 0 then t.learned = arg(3) end
  fill(r, 0, factor, factor)
  fill(t, 0, factor, factor)
  lower(r, arg(2))
  lower(t, arg(4))
end

local function text(number) return string.format('%.17g', number) end
if verb ~= 'look' then
  redis.call('HSET', KEYS[1], 'at', text(now), 'learned_requests', text(r.learned), 'requests', text(r.level),
    'learned_tokens', text(t.learned), 'tokens', text(t.level), 'factor', text(factor),
    'paused_until', text(paused_until), 'shrunk_until', text(shrunk_until), 'claim', text(claim),
    'claim_until', text(claim_until))
  redis.call('EXPIRE', KEYS[1], {kept})
end
return {{text(granted), text(wait), text(requests), text(tokens), text(r.learned), text(r.level), text(t.learned),
  text(t.level), text(factor), text(paused_until - now), text(shrunk_until - now), text(claim),
  text(claim_until - now)}}
"""


def bucket_script(clock: str = SERVER_CLOCK) -> Script:
    """The script; `clock` is a Lua expression for the seconds that it is now."""
    return Script(
        _TEXT.format(
            clock=clock,
            growth=repr(GROWTH),
            least=repr(LEAST_FACTOR),
            longest=repr(LONGEST_PAUSE),
            window=repr(SHRINK_WINDOW),
            claim=repr(CLAIM_SECONDS),
            kept=_KEPT_SECONDS,
        )
    )


def key_of(provider: str, model: str) -> str:
    """The bucket's name; the part in braces keeps it whole in a cluster."""
    return f"{{{provider}:{model}}}:limit"


def belief(bucket: Bucket, now: float) -> tuple[Argument, ...]:
    """What every question begins with."""
    return _numbers(
        bucket.requests.configured,
        bucket.tokens.configured,
        bucket.requests.learned,
        bucket.requests.level,
        bucket.tokens.learned,
        bucket.tokens.level,
        bucket.factor,
        max(0.0, bucket.paused_until - now),
    )


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to do with a bucket: what the script is told, and the same by ourselves."""

    arguments: tuple[Argument, ...]
    apply: Callable[[Bucket, float], tuple[Bucket, Grant]]


def drawing(ask: Ask) -> Question:
    """See `Bucket.draw`."""
    return Question(
        ("draw", *_numbers(ask.requests, ask.tokens, ask.watermark)), lambda bucket, now: bucket.draw(ask, now)
    )


def settling(requests: float, tokens: float, watermark: float) -> Question:
    """See `Bucket.settle`."""
    return Question(
        ("settle", *_numbers(requests, tokens, watermark)),
        lambda bucket, now: (bucket.settle(requests, tokens, watermark, now), NOTHING),
    )


def refusing(pause: float, shrinks: bool, requests_left: float, tokens_left: float, watermark: float) -> Question:
    """See `Bucket.refuse`."""
    return Question(
        ("refuse", *_numbers(pause, shrinks, requests_left, tokens_left, watermark)),
        lambda bucket, now: (bucket.refuse(pause, shrinks, requests_left, tokens_left, watermark, now), NOTHING),
    )


def learning(requests: Heard, tokens: Heard) -> Question:
    """See `Bucket.learn`."""
    return Question(
        ("learn", *_numbers(requests.limit, requests.left, tokens.limit, tokens.left)),
        lambda bucket, now: (bucket.learn(requests, tokens, now), NOTHING),
    )


LOOK = Question(("look",), lambda bucket, now: (bucket.moved(now), NOTHING))
"""Change nothing, and begin nothing."""


def read(answer: Sequence[bytes], asked: Bucket, now: float) -> tuple[Bucket, Grant]:
    """The bucket as it is in Redis, in the time of the clock that says `now`, and the grant where one was asked for."""
    granted, wait, drawn_requests, drawn_tokens, *state = (float(text) for text in answer)
    learned_requests, requests, learned_tokens, tokens, factor, paused, shrunk, claim, claimed = state
    bucket = Bucket(
        now,
        Side(asked.requests.configured, learned_requests, requests),
        Side(asked.tokens.configured, learned_tokens, tokens),
        factor,
        now + paused,
        now + shrunk,
        claim,
        now + claimed,
    )
    return bucket, Grant(granted == 1, wait, drawn_requests, drawn_tokens)


def _numbers(*values: float) -> tuple[Argument, ...]:
    return tuple(repr(float(value)) for value in values)
