"""Rate limits: what the headers claim, and limits per minute that are really enforced."""

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
    """What holds for calls that say nothing else.

    `rpm` and `tpm` enforce so many requests and tokens per minute for each model; `requests_limit` and `tokens_limit`
    are only claimed in the headers. Without either the headers say nothing of limits, as nothing is limited.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ttft: Seconds = 0.0
    tps: float | None = Field(default=None, gt=0, le=1_000_000, allow_inf_nan=False)
    tokens: Tokens | None = None
    requests_limit: int | None = Field(default=None, ge=1)
    tokens_limit: int | None = Field(default=None, ge=1)
    rpm: int | None = Field(default=None, ge=1)
    tpm: int | None = Field(default=None, ge=1)

    @property
    def script(self) -> Script:
        """The part of the defaults that scripts an answer."""
        return Script.model_validate(self.model_dump(include={"ttft", "tps", "tokens"}, exclude_defaults=True))


class Allowance(NamedTuple):
    """What the headers say of one limit; `reset` in seconds from now. Where the limit is None it is not named."""

    limit: int | None
    remaining: int
    reset: float = 0.0


class Standing(NamedTuple):
    """How a client stands with its limits after a call; None where the headers say nothing of one."""

    requests: Allowance | None
    tokens: Allowance | None


@dataclass(slots=True)
class _Bucket:
    """So many a minute: full at first, refilled evenly."""

    limit: int
    level: float
    filled_at: float

    def refill(self, now: float) -> None:
        self.level = min(self.limit, self.level + (now - self.filled_at) * self.limit / 60)
        self.filled_at = now

    def wait(self, cost: float) -> float:
        """Seconds until it holds that much, or is full."""
        return max(0.0, min(cost, self.limit) - self.level) * 60 / self.limit

    @property
    def allowance(self) -> Allowance:
        return Allowance(self.limit, max(0, int(self.level)), (self.limit - self.level) * 60 / self.limit)


class Limiter:
    """Token buckets for each model. Output is counted when it is known, so that the next call pays for it."""

    def __init__(self, defaults: Defaults) -> None:
        self._requests: dict[str, _Bucket] = {}
        self._tokens: dict[str, _Bucket] = {}
        self.defaults = defaults

    def replace(self, defaults: Defaults) -> None:
        """Set other limits and start with full buckets."""
        self.defaults = defaults
        self._requests.clear()
        self._tokens.clear()

    def admit(self, model: str, prompt_tokens: int) -> Standing:
        """Take one call and its prompt from the model's buckets.

        :raises CallRefused: rate limited, with the seconds until the next call is possible.
        """
        defaults = self.defaults
        requests = _refilled(self._requests, model, defaults.rpm)
        tokens = _refilled(self._tokens, model, defaults.tpm)
        for bucket, cost, what in ((requests, 1, "requests"), (tokens, prompt_tokens, "tokens")):
            if bucket is not None and (wait := bucket.wait(cost)) > 0:
                text = f"Rate limit of {bucket.limit} {what} per minute reached."
                raise CallRefused("rate_limited", text, retry_after=math.ceil(wait))
        for bucket, cost in ((requests, 1), (tokens, prompt_tokens)):
            if bucket is not None:
                bucket.level -= cost
        return Standing(
            requests.allowance if requests else _claimed(defaults.requests_limit, 1),
            tokens.allowance if tokens else _claimed(defaults.tokens_limit, prompt_tokens),
        )

    def spend(self, model: str, output_tokens: int) -> None:
        """Count an admitted call's answer."""
        bucket = self._tokens.get(model)
        if bucket is not None:
            bucket.level -= output_tokens

    def exhausted(self, model: str, reset: float) -> Standing:
        """The standing of a call that came too early, or was refused as if it had, for so many seconds."""
        defaults = self.defaults
        if defaults.rpm is None and defaults.tpm is None:
            return Standing(Allowance(defaults.requests_limit, 0, reset), None)
        requests = _refilled(self._requests, model, defaults.rpm)
        tokens = _refilled(self._tokens, model, defaults.tpm)
        return Standing(requests.allowance if requests else None, tokens.allowance if tokens else None)


def _refilled(buckets: dict[str, _Bucket], model: str, limit: int | None) -> _Bucket | None:
    if limit is None:
        return None
    now = time.monotonic()
    bucket = buckets.setdefault(model, _Bucket(limit, limit, now))
    bucket.refill(now)
    return bucket


def _claimed(limit: int | None, used: int) -> Allowance | None:
    return None if limit is None else Allowance(limit, max(0, limit - used))


def timestamp(seconds_from_now: float) -> str:
    """An RFC 3339 time to the second, as Anthropic's reset headers have it."""
    return _formatted(int(time.time() + seconds_from_now))


@functools.lru_cache(maxsize=64)
def _formatted(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
