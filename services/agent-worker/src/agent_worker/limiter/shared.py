"""One model's bucket as this process sees it: Redis decides, and while it is away this process alone.

What is no question that somebody waits for, such as what a call did not use, is added up and sent in one round trip by
whoever owns the bucket (`ProviderLimits.run`): a model has at most one such message under way, however many calls end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from time import monotonic

import structlog

from agent_worker.limiter.bucket import UNKNOWN, Ask, Bucket, Grant, Heard, Side
from agent_worker.limiter.script import (
    LOOK,
    Question,
    belief,
    bucket_script,
    drawing,
    key_of,
    learning,
    read,
    refusing,
    settling,
)
from common.errors import CacheRefused, CacheUnavailable
from common.pipelining import Pipelined

_log = structlog.get_logger(__name__)
_SCRIPT = bucket_script()
# What others draw between two answers lowers the level without anything being wrong.
_NEWS = 0.05


@dataclass(slots=True)
class Reservation:
    """What one call was given. It can be settled once."""

    watermark: float
    requests: float = 0.0
    tokens: float = 0.0
    alone: bool = False
    """Redis did not take part: what was drawn from this process's share goes back there, or nowhere."""
    open: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """How long the provider wishes to be left alone, whether a limit was the reason, and what it says is left.

    The watermark is that of the tier whose call it was.
    """

    pause: float
    shrinks: bool
    watermark: float
    requests_left: float = UNKNOWN
    tokens_left: float = UNKNOWN

    def joined(self, other: Refusal) -> Refusal:
        """Both as one: the strictest of each counts, and the watermark of one that shrinks."""
        strict = [refusal for refusal in (self, other) if refusal.shrinks] or [self]
        return Refusal(
            max(self.pause, other.pause),
            self.shrinks or other.shrinks,
            min(refusal.watermark for refusal in strict),
            _least(refusal.requests_left for refusal in strict),
            _least(refusal.tokens_left for refusal in strict),
        )


class SharedBucket:
    """The bucket of one model of one provider."""

    def __init__(
        self, redis: Pipelined, provider: str, model: str, configured: tuple[float, float], workers: int
    ) -> None:
        """`configured` is the operator's limit of requests and of tokens a minute, 0 for none.

        Without Redis every draw counts `workers` times: that is this process's share of the bucket.
        """
        self.provider = provider
        self.model = model
        self.key = key_of(provider, model)
        self._redis = redis
        self._workers = workers
        self._alone = False
        self._returned: dict[float, tuple[float, float]] = {}  # by watermark: bounded by the tiers
        self._refusal: Refusal | None = None
        self._taught: tuple[Heard, Heard] | None = None
        requests, tokens = configured
        self.bucket = Bucket(monotonic(), Side(requests), Side(tokens))
        """As it was when it was last heard of."""

    @property
    def known(self) -> bool:
        """Whether calls have to ask at all."""
        return self.bucket.known(monotonic())

    async def draw(self, ask: Ask, reservation: Reservation) -> float:
        """Fill the reservation, answering 0, or answer the seconds to wait at least."""
        try:
            (grant,) = await self._ask([drawing(ask)])
        except CacheUnavailable as error:
            self._is_alone(error)
            parts = self._workers
            ask = Ask(ask.tokens * parts, ask.watermark, ask.requests * parts)
            self.bucket, grant = self.bucket.draw(ask, monotonic())
        if grant.granted:
            reservation.requests, reservation.tokens = grant.requests, grant.tokens
            reservation.alone, reservation.open = self._alone, True
        return grant.wait

    def settle(self, reservation: Reservation, requests: float, tokens: float) -> bool:
        """The call used so much in the end; whether there is anything to be sent."""
        if not reservation.open:
            return False
        reservation.open = False
        if reservation.alone != self._alone:
            return False
        parts = self._workers if self._alone else 1
        back = [
            drawn - used * parts if drawn > 0 else 0.0
            for drawn, used in ((reservation.requests, requests), (reservation.tokens, tokens))
        ]
        before = self._returned.get(reservation.watermark, (0.0, 0.0))
        self._returned[reservation.watermark] = (before[0] + back[0], before[1] + back[1])
        return any(back)

    def refuse(self, refusal: Refusal) -> None:
        """A call was refused. Of several that come together the strictest counts."""
        self._refusal = refusal if self._refusal is None else self._refusal.joined(refusal)

    def hear(self, requests: Heard, tokens: Heard) -> bool:
        """What an answer said of the limits; whether it is news."""
        bucket = self.bucket.moved(monotonic())
        if not (_is_news(bucket.requests, requests, bucket.factor) or _is_news(bucket.tokens, tokens, bucket.factor)):
            return False
        self._taught = (requests, tokens)
        return True

    async def send(self) -> None:
        """Tell Redis what has gathered. What it may or may not have heard is not said twice."""
        questions = self._gathered()
        if not questions:
            return
        try:
            await self._ask(questions)
        except CacheUnavailable as error:
            self._is_alone(error)
            for question in questions:
                self.bucket, _ = question.apply(self.bucket, monotonic())

    async def look(self) -> None:
        """See what other workers have learned, and whether Redis is there again."""
        try:
            await self._ask([LOOK])
        except CacheUnavailable as error:
            self._is_alone(error)

    def _gathered(self) -> list[Question]:
        questions = []
        if self._refusal is not None:
            r = self._refusal
            questions.append(refusing(r.pause, r.shrinks, r.requests_left, r.tokens_left, r.watermark))
        if self._taught is not None:
            questions.append(learning(*self._taught))
        questions += [settling(*back, watermark) for watermark, back in self._returned.items() if any(back)]
        self._refusal = self._taught = None
        self._returned.clear()
        return questions

    async def _ask(self, questions: Sequence[Question]) -> list[Grant]:
        believed = belief(self.bucket.moved(monotonic()), monotonic())
        answers = await self._redis.run_each(
            _SCRIPT, [([self.key], [*believed, *question.arguments]) for question in questions]
        )
        grants = []
        for answer in answers:
            if isinstance(answer, CacheRefused):
                raise answer
            if answer:  # nothing is the answer to a look at a bucket that nobody has begun
                self.bucket, grant = read(answer, self.bucket, monotonic())
                grants.append(grant)
        if self._alone:
            self._alone = False
            _log.info("limit.shared_again", provider=self.provider, model=self.model)
        return grants

    def _is_alone(self, error: CacheUnavailable) -> None:
        if not self._alone:
            self._alone = True
            _log.warning("limit.alone", provider=self.provider, model=self.model, error=str(error))


def _least(left: Iterable[float]) -> float:
    return min((known for known in left if known >= 0), default=UNKNOWN)


def _is_news(side: Side, heard: Heard, factor: float) -> bool:
    if heard.limit > 0 and heard.limit != side.learned:
        return True
    return 0 <= heard.left < side.level - _NEWS * side.limit * factor
