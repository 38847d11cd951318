"""The limits of every model of the catalogue, and what one run asks of them: leave to call, and the account of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from time import monotonic, perf_counter
from typing import Protocol

from agent_worker.cutting import undisturbed
from agent_worker.limiter.bucket import UNKNOWN, Ask, Heard
from agent_worker.limiter.shared import Refusal, Reservation, SharedBucket
from agent_worker.limiter.waiting import Queue
from agent_worker.metrics import LIMIT_CAPACITY, LIMIT_LEVEL, LIMIT_PAUSED, LIMIT_WAIT_SECONDS
from agent_worker.providers.base import CallMeter, RateLimits
from common.catalogue import Catalogue, Model
from common.pipelining import Pipelined

_LOOK_SECONDS = 1.0
_LONG_WAIT_SECONDS = 1.0


class CallLimit(Protocol):
    """The limit that the calls of one run keep to."""

    async def reserve(self, tokens: int, on_long_wait: Callable[[], None]) -> Reservation:
        """Draw one request and so many tokens, waiting as long as it takes; told once when that is long."""

    def give_back(self, reservation: Reservation) -> None:
        """The call was not made. Doing it again changes nothing."""

    def settle(self, reservation: Reservation, meter: CallMeter) -> None:
        """The call is over: give back what it did not use, and heed a refusal."""

    def heed(self, limits: RateLimits) -> None:
        """What the provider said of its limits."""


class ModelLimit:
    """One model's bucket, and the calls of this process that wait for it."""

    def __init__(self, bucket: SharedBucket, on_change: Callable[[], None]) -> None:
        self.bucket = bucket
        self.queue = Queue()
        self.changed = False
        self._on_change = on_change

    def notice(self) -> None:
        """There is something to be sent."""
        self.changed = True
        self._on_change()

    async def send(self) -> None:
        """Send what has gathered; the first who waits may then find its turn come."""
        self.changed = False
        await self.bucket.send()
        self.queue.wake()

    def show(self) -> None:
        """Set the gauges."""
        provider, model = self.bucket.provider, self.bucket.model
        now = monotonic()
        bucket = self.bucket.bucket.moved(now)
        for unit, side in (("requests", bucket.requests), ("tokens", bucket.tokens)):
            if side.limit > 0:
                LIMIT_CAPACITY.labels(provider, model, unit).set(side.limit * bucket.factor)
                LIMIT_LEVEL.labels(provider, model, unit).set(side.level)
        LIMIT_PAUSED.labels(provider, model).set(max(0.0, bucket.paused_until - now))


class TierLimit:
    """See `CallLimit`: one model's limit, for one tier."""

    def __init__(self, model: ModelLimit, tier: str, rank: int, watermark: float) -> None:
        self._model = model
        self._rank = rank
        self._watermark = watermark
        self._unlimited = Reservation(watermark)
        self._waited = LIMIT_WAIT_SECONDS.labels(tier, model.bucket.provider, model.bucket.model)

    async def reserve(self, tokens: int, on_long_wait: Callable[[], None]) -> Reservation:
        """See `CallLimit.reserve`. Where no limit is known nothing is asked, and nobody waits."""
        bucket = self._model.bucket
        if not bucket.known:
            return self._unlimited
        ask, reservation = Ask(float(tokens), self._watermark), Reservation(self._watermark)
        alarm = asyncio.get_running_loop().call_later(_LONG_WAIT_SECONDS, on_long_wait)
        began = perf_counter()
        try:
            await self._model.queue.through(self._rank, lambda: undisturbed(bucket.draw(ask, reservation)))
        except asyncio.CancelledError:
            self.give_back(reservation)  # it may have been drawn in the moment in which the run was cut
            raise
        finally:
            alarm.cancel()
            self._waited.observe(perf_counter() - began)
        return reservation

    def give_back(self, reservation: Reservation) -> None:
        """See `CallLimit.give_back`."""
        if self._model.bucket.settle(reservation, 0.0, 0.0):
            self._model.notice()

    def settle(self, reservation: Reservation, meter: CallMeter) -> None:
        """See `CallLimit.settle`. A request that was sent counts, though it was refused."""
        used = meter.usage.total_input_tokens + meter.usage.output_tokens
        if self._model.bucket.settle(reservation, 1.0, float(used)):
            self._model.notice()
        if meter.failure is not None:
            limits = meter.failure.rate_limits
            if limits is not None:
                self.heed(limits)
            self._refused(meter)

    def _refused(self, meter: CallMeter) -> None:
        """A rate limit shrinks the bucket. An overloaded provider only pauses it, if it says for how long."""
        failure = meter.failure
        if failure is None or (failure.reason != "rate_limited" and failure.retry_after is None):
            return
        said = failure.rate_limits or RateLimits()
        self._model.bucket.refuse(
            Refusal(
                failure.retry_after or 0.0,
                failure.reason == "rate_limited",
                self._watermark,
                _or(said.requests_left, UNKNOWN),
                _or(said.tokens_left, UNKNOWN),
            )
        )
        self._model.notice()

    def heed(self, limits: RateLimits) -> None:
        """See `CallLimit.heed`."""
        requests = Heard(_or(limits.requests, 0.0), _or(limits.requests_left, UNKNOWN))
        tokens = Heard(_or(limits.tokens, 0.0), _or(limits.tokens_left, UNKNOWN))
        if self._model.bucket.hear(requests, tokens):
            self._model.notice()


class Unlimited:
    """See `CallLimit`: none at all."""

    @classmethod
    def of(cls, model: Model) -> CallLimit:  # noqa: ARG003
        """For any model."""
        return cls()

    async def reserve(self, tokens: int, on_long_wait: Callable[[], None]) -> Reservation:  # noqa: ARG002
        """See `CallLimit.reserve`."""
        return Reservation(0.0)

    def give_back(self, reservation: Reservation) -> None:
        """See `CallLimit.give_back`."""

    def settle(self, reservation: Reservation, meter: CallMeter) -> None:
        """See `CallLimit.settle`."""

    def heed(self, limits: RateLimits) -> None:
        """See `CallLimit.heed`."""


class ProviderLimits:
    """All models' limits. `run` is their background task."""

    def __init__(self, redis: Pipelined, catalogue: Catalogue, workers: int) -> None:
        """`workers` processes share the limits when Redis is away."""
        self._redis = redis
        self._workers = workers
        self._watermarks = catalogue.watermarks
        self._ranks = {name: rank for rank, name in enumerate(catalogue.tier_names)}
        self._wake = asyncio.Event()
        self._models = {model.name: self._limited(model) for model in catalogue.models}
        self._tiers: dict[tuple[str, str], TierLimit] = {}

    def of(self, tier: str, model: Model) -> CallLimit:
        """What a run of that tier keeps to when it calls that model."""
        found = self._tiers.get((tier, model.name))
        if found is None:
            worst = len(self._ranks)  # a tier that is no longer declared
            watermark = self._watermarks.get(tier, max(self._watermarks.values()))
            found = TierLimit(self._models[model.name], tier, self._ranks.get(tier, worst), watermark)
            self._tiers[tier, model.name] = found
        return found

    async def run(self) -> None:
        """Send what gathers, and look once a second what others have learned, until cancelled."""
        looked = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            await asyncio.gather(*(model.send() for model in self._models.values() if model.changed))
            if monotonic() - looked >= _LOOK_SECONDS:
                await asyncio.gather(*(model.bucket.look() for model in self._models.values()))
                for model in self._models.values():
                    model.show()
                looked = monotonic()

    def _limited(self, model: Model) -> ModelLimit:
        configured = (float(model.requests_per_minute or 0), float(model.tokens_per_minute or 0))
        return ModelLimit(
            SharedBucket(self._redis, model.provider, model.name, configured, self._workers), self._wake.set
        )


def _or(value: int | None, otherwise: float) -> float:
    return otherwise if value is None else float(value)
