"""What workers tell each other of a model's circuit, in Redis: that it has opened or closed, and whose probe it is.

It is advice: each worker decides by its own circuit, which believes the others within bounds. What Redis forgets is
learned again, and without Redis each worker goes by its own calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.pipelining import Argument, Script

# A probe whose worker died is given up after so long; until then another worker makes none.
PROBE_SECONDS = 30
_KEPT_SECONDS = 600

# KEYS: the circuit. ARGV: the verb and its arguments:
#   open opened rest      it has opened so many times in a row, and rests for so many seconds
#   close
#   claim opened age      the right to probe, where nobody has it. The claimant's circuit opened so many seconds ago: a
#                         circuit that is not there, or was closed before that, as a word was lost, is put right
#   release               the probe is over
#   look
# Answers texts: granted, opened, seconds until it may be probed, seconds since it last changed, seconds until the
# probe under way is given up. Nothing, where nothing is known.
ADVICE = Script(f"""
local t = redis.call('TIME')
local now = t[1] + t[2] / 1000000
local kept = redis.call('HMGET', KEYS[1], 'opened', 'until', 'at', 'claim')
local known = kept[1]
local opened, till, at, claim = tonumber(kept[1] or 0), tonumber(kept[2] or 0), tonumber(kept[3] or now),
  tonumber(kept[4] or 0)
local verb, granted = ARGV[1], 0
if verb == 'open' then
  opened, till, at, claim = tonumber(ARGV[2]), now + tonumber(ARGV[3]), now, 0
elseif verb == 'close' then
  opened, till, at, claim = 0, 0, now, 0
elseif verb == 'claim' then
  if not known or opened == 0 and at < now - tonumber(ARGV[3]) then
    opened, till, at, claim = tonumber(ARGV[2]), now, now, 0
  end
  if opened > 0 and now >= till and now >= claim then claim, granted = now + {PROBE_SECONDS}, 1 end
elseif verb == 'release' then
  claim = 0
end
if verb ~= 'look' and (known or verb ~= 'release') then
  local function text(number) return string.format('%.17g', number) end
  redis.call('HSET', KEYS[1], 'opened', opened, 'until', text(till), 'at', text(at), 'claim', text(claim))
  redis.call('EXPIRE', KEYS[1], {_KEPT_SECONDS})
  known = true
end
if not known then return {{}} end
return {{tostring(granted), tostring(opened), tostring(till - now), tostring(now - at), tostring(claim - now)}}
""")


def key_of(provider: str, model: str) -> str:
    """The circuit's name; the part in braces is that of the model's limit."""
    return f"{{{provider}:{model}}}:circuit"


@dataclass(frozen=True, slots=True)
class Advice:
    """What Redis knows of a circuit."""

    granted: bool
    opened: int
    """How often in a row; 0: it was closed."""
    rest: float
    """Seconds until it may be probed."""
    age: float
    """Seconds since it opened or closed."""
    taken: float
    """Seconds until the probe under way, if there is one, is given up."""


def read(answer: Sequence[bytes]) -> Advice | None:
    """The script's answer; None: nothing is known."""
    if not answer:
        return None
    granted, opened, rest, age, taken = (float(text) for text in answer)
    return Advice(granted == 1, int(opened), rest, age, taken)


def opening(opened: int, rest: float) -> tuple[Argument, ...]:
    """It has opened."""
    return ("open", opened, repr(rest))


def claiming(opened: int, age: float) -> tuple[Argument, ...]:
    """May this worker probe what it opened, or heard to be open, so many seconds ago?"""
    return ("claim", opened, repr(age))


CLOSING: tuple[Argument, ...] = ("close",)
RELEASING: tuple[Argument, ...] = ("release",)
LOOKING: tuple[Argument, ...] = ("look",)
