"""Rate limits: what the headers claim, and a limit of requests per minute that is really enforced."""

import functools
import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from simulator.errors import CallRefused
from simulator.script import Script, Seconds, Tokens


class Defaults(BaseModel):
    """What holds for calls that say nothing else; `rpm` enforces that many requests per minute for each model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ttft: Seconds = 0.0
    tps: float | None = Field(default=None, gt=0, le=1_000_000, allow_inf_nan=False)
    tokens: Tokens | None = None
    requests_limit: int = Field(default=4_000, ge=1)
    tokens_limit: int = Field(default=4_000_000, ge=1)
    rpm: int | None = Field(default=None, ge=1)

    @property
    def script(self) -> Script:
        """The part of the defaults that scripts an answer."""
        return Script.model_validate(self.model_dump(include={"ttft", "tps", "tokens"}, exclude_defaults=True))


class Standing(NamedTuple):
    """How a client stands with its limits after a call, for the headers; `reset` in seconds from now."""

    requests_limit: int
    requests_remaining: int
    tokens_limit: int
    tokens_remaining: int
    reset: float


@dataclass(slots=True)
class _Bucket:
    level: float
    filled_at: float


class Limiter:
    """A token bucket for each model: `rpm` calls at once, refilled evenly over the minute."""

    def __init__(self, defaults: Defaults) -> None:
        self._buckets: dict[str, _Bucket] = {}
        self.defaults = defaults

    def replace(self, defaults: Defaults) -> None:
        """Set other limits and start with full buckets."""
        self.defaults = defaults
        self._buckets.clear()

    def admit(self, model: str) -> Standing:
        """Take one call from the model's bucket.

        :raises CallRefused: rate limited, with the seconds until the next call is possible.
        """
        defaults = self.defaults
        if defaults.rpm is None:
            limit, tokens = defaults.requests_limit, defaults.tokens_limit
            return Standing(limit, limit - 1, tokens, tokens, 0.0)
        bucket = self._refilled(model, defaults.rpm)
        if bucket.level < 1:
            wait = (1 - bucket.level) * 60 / defaults.rpm
            raise CallRefused(
                "rate_limited",
                f"Rate limit of {defaults.rpm} requests per minute reached.",
                retry_after=math.ceil(wait),
            )
        bucket.level -= 1
        reset = (defaults.rpm - bucket.level) * 60 / defaults.rpm
        return Standing(defaults.rpm, int(bucket.level), defaults.tokens_limit, defaults.tokens_limit, reset)

    def exhausted(self, reset: float) -> Standing:
        """The standing of a call that came too early, for so many seconds."""
        limit = self.defaults.rpm or self.defaults.requests_limit
        return Standing(limit, 0, self.defaults.tokens_limit, self.defaults.tokens_limit, reset)

    def _refilled(self, model: str, rpm: int) -> _Bucket:
        now = time.monotonic()
        bucket = self._buckets.setdefault(model, _Bucket(rpm, now))
        bucket.level = min(rpm, bucket.level + (now - bucket.filled_at) * rpm / 60)
        bucket.filled_at = now
        return bucket


def timestamp(seconds_from_now: float) -> str:
    """An RFC 3339 time to the second, as Anthropic's reset headers have it."""
    return _formatted(int(time.time() + seconds_from_now))


@functools.lru_cache(maxsize=64)
def _formatted(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
