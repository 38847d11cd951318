"""A bucket of requests and tokens with watermarks, as a value; time is passed in, in seconds.

A limit is so many a minute: the bucket holds a minute's worth and fills evenly. A tier draws only what leaves its
watermark in the bucket, so what is below is kept for the better ones. Whatever a tier does, being refused by the
provider included, it never lowers the level below its own watermark; from that everything follows that a better tier is
promised. Another thing that could make a better tier wait is a worse one that takes each drop as it comes: a call that
has to wait keeps a claim for a moment, and no worse tier draws while there is one.

What remains is that all tiers have one limit. A refusal halves it, whosever call it was, and with it the part that a
watermark keeps; a better tier's call that needs more than that part waits for its own refill at the lower rate. And
what the provider itself says is left counts for everybody, as it would refuse everybody.

`script.py` says the same in Lua, in the same order, so that the numbers are the same to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

GROWTH = 1 / 120
"""Of the limit, a second: a bucket that was halved is whole again after a minute."""
LEAST_FACTOR = 1 / 16
LONGEST_PAUSE = 60.0
"""Seconds: a provider that wishes for more is asked again after so long."""
SHRINK_WINDOW = 2.0
"""Refusals within so many seconds, or within the pause, are of one burst: they shrink the bucket once."""
CLAIM_SECONDS = 2.0
"""A waiting call asks at least each second: so long its claim outlives its last question."""
UNKNOWN = -1.0
"""The level of a bucket that nobody has drawn from: full, as soon as there is a limit."""
_SLACK = 1e-6
_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Ask:
    """What a call of a tier would use at most."""

    tokens: float
    watermark: float
    requests: float = 1.0


@dataclass(frozen=True, slots=True)
class Grant:
    """What the call was given, or how many seconds it has to wait at least."""

    granted: bool
    wait: float = 0.0
    requests: float = 0.0
    tokens: float = 0.0


@dataclass(frozen=True, slots=True)
class Heard:
    """What a provider's answer said of a limit and what is left of it; 0 and `UNKNOWN` where it said nothing."""

    limit: float = 0.0
    left: float = UNKNOWN


@dataclass(frozen=True, slots=True)
class Side:
    """The requests, or the tokens, of a bucket. A limit of 0 is none: nothing is counted, nobody waits."""

    configured: float = 0.0
    learned: float = 0.0
    level: float = UNKNOWN

    @property
    def limit(self) -> float:
        """A minute: the lower of the operator's and the provider's."""
        if self.configured > 0 and self.learned > 0:
            return min(self.configured, self.learned)
        return max(self.configured, self.learned)

    def filled(self, elapsed: float, before: float, after: float) -> Side:
        """After so many seconds, in which the factor grew: counted with the lower one, never too much."""
        capacity = self.limit * after
        if capacity <= 0:
            return replace(self, level=UNKNOWN)
        if self.level < 0:
            return replace(self, level=capacity)
        return replace(self, level=min(capacity, self.level + elapsed * (self.limit * before) / _MINUTE))

    def charge(self, cost: float, watermark: float, factor: float) -> float:
        """What the call is charged: no more than its tier may ever have, or it would wait for good."""
        capacity = self.limit * factor
        return min(cost, capacity - watermark * capacity)

    def wait(self, charge: float, watermark: float, factor: float) -> float:
        """Seconds until the charge can be drawn, if nobody else draws; 0 where it can be now."""
        capacity = self.limit * factor
        if capacity <= 0:
            return 0.0
        short = watermark * capacity + charge - self.level
        return short * _MINUTE / capacity if short > _SLACK else 0.0

    def drawn(self, charge: float) -> Side:
        """Without the charge."""
        return self if self.level < 0 else replace(self, level=max(0.0, self.level - charge))

    def settled(self, back: float, watermark: float, factor: float) -> Side:
        """With what a call did not use; less, where it used more, but not below its tier's watermark."""
        capacity = self.limit * factor
        if capacity <= 0:
            return self
        if back >= 0:
            return replace(self, level=min(capacity, self.level + back))
        return replace(self, level=max(min(self.level, watermark * capacity), self.level + back))

    def refused(self, left: float, watermark: float, factor: float) -> Side:
        """With what the provider says is left; where it says nothing, with what the refused call could not have."""
        side = self.filled(0.0, factor, factor)
        return side.lowered(left if left >= 0 else watermark * (side.limit * factor))

    def lowered(self, left: float) -> Side:
        """To what the provider says is left."""
        return self if self.level < 0 or left < 0 else replace(self, level=min(self.level, left))


@dataclass(frozen=True, slots=True)
class Bucket:
    """The state at one moment. `factor` is what refusals have left of the limits."""

    at: float
    requests: Side = Side()
    tokens: Side = Side()
    factor: float = 1.0
    paused_until: float = 0.0
    shrunk_until: float = 0.0
    claim: float = 1.0
    """The watermark of the best tier that was refused of late."""
    claim_until: float = 0.0

    def known(self, now: float) -> bool:
        """Whether there is anything to keep to."""
        return self.requests.limit > 0 or self.tokens.limit > 0 or now < self.paused_until

    def moved(self, now: float) -> Bucket:
        """The same bucket at another time. A clock that was put back costs no more than the longest pause."""
        elapsed = max(0.0, now - self.at)
        factor = min(1.0, self.factor + elapsed * GROWTH)
        return Bucket(
            now,
            self.requests.filled(elapsed, self.factor, factor),
            self.tokens.filled(elapsed, self.factor, factor),
            factor,
            min(self.paused_until, now + LONGEST_PAUSE),
            min(self.shrunk_until, now + LONGEST_PAUSE),
            self.claim,
            min(self.claim_until, now + CLAIM_SECONDS),
        )

    def is_claimed(self, watermark: float, now: float) -> bool:
        """Whether a better tier than that of the watermark waits."""
        return now < self.claim_until and self.claim < watermark

    def draw(self, ask: Ask, now: float) -> tuple[Bucket, Grant]:
        """Give the call what it asks for, or say how long it has to wait and keep its claim."""
        bucket = self.moved(now)
        requests = bucket.requests.charge(ask.requests, ask.watermark, bucket.factor)
        tokens = bucket.tokens.charge(ask.tokens, ask.watermark, bucket.factor)
        wait = max(
            bucket.paused_until - now,
            bucket.requests.wait(requests, ask.watermark, bucket.factor),
            bucket.tokens.wait(tokens, ask.watermark, bucket.factor),
        )
        if bucket.is_claimed(ask.watermark, now):
            return bucket, Grant(False, max(wait, bucket.claim_until - now))
        if wait > 0:
            return replace(bucket, claim=ask.watermark, claim_until=now + CLAIM_SECONDS), Grant(False, wait)
        return (
            replace(bucket, requests=bucket.requests.drawn(requests), tokens=bucket.tokens.drawn(tokens)),
            Grant(True, 0.0, requests, tokens),
        )

    def settle(self, requests: float, tokens: float, watermark: float, now: float) -> Bucket:
        """Take back what calls of a tier did not use; negative is what they used beyond their grants.

        The latter is not taken from a better tier that waits: then it is the provider's to refuse.
        """
        bucket = self.moved(now)
        if bucket.is_claimed(watermark, now):
            requests, tokens = max(0.0, requests), max(0.0, tokens)
        return replace(
            bucket,
            requests=bucket.requests.settled(requests, watermark, bucket.factor),
            tokens=bucket.tokens.settled(tokens, watermark, bucket.factor),
        )

    def refuse(
        self, pause: float, shrinks: bool, requests_left: float, tokens_left: float, watermark: float, now: float
    ) -> Bucket:
        """The provider refused a call of a tier, and wishes to be left alone for so many seconds.

        Where it `shrinks` the bucket, it was emptier than was thought: what is not known to be left is gone, down to
        the tier's watermark. Whether anything is below that only a call of a better tier can tell.
        """
        bucket = self.moved(now)
        paused = max(bucket.paused_until, now + min(pause, LONGEST_PAUSE))
        bucket = replace(bucket, paused_until=paused)
        if not shrinks or now < bucket.shrunk_until:
            return bucket
        factor = max(LEAST_FACTOR, bucket.factor / 2)
        return replace(
            bucket,
            requests=bucket.requests.refused(requests_left, watermark, factor),
            tokens=bucket.tokens.refused(tokens_left, watermark, factor),
            factor=factor,
            shrunk_until=max(paused, now + SHRINK_WINDOW),
        )

    def learn(self, requests: Heard, tokens: Heard, now: float) -> Bucket:
        """Keep to the limits that the provider names, and to what it says is left of them."""
        bucket = self.moved(now)
        return replace(
            bucket,
            requests=_taught(bucket.requests, requests, bucket.factor),
            tokens=_taught(bucket.tokens, tokens, bucket.factor),
        )


def _taught(side: Side, heard: Heard, factor: float) -> Side:
    limit = heard.limit if heard.limit > 0 else side.learned
    return replace(side, learned=limit).filled(0.0, factor, factor).lowered(heard.left)
