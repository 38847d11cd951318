"""Who sends what: tenants of three tiers, of whom few send much and many send little."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.replay.trace import Request

TENANTS = 200
TIER_PARTS = {"enterprise": 0.1, "pro": 0.3, "free": 0.6}
"""Of the tenants; what they send is another matter."""
EXPONENT = 1.0


@dataclass(frozen=True)
class Sending:
    """A request of the trace: when it is sent in the replay, and the tenant, by number, that sends it."""

    at: float
    tenant: int
    request: Request


def zipf_weights(count: int, exponent: float = EXPONENT) -> list[float]:
    """How much each sends: the n-th as much as the first divided by n to the exponent; together 1."""
    raw = [1 / rank**exponent for rank in range(1, count + 1)]
    total = sum(raw)
    return [weight / total for weight in raw]


def tiers_of(count: int, parts: Mapping[str, float], source: random.Random) -> list[str]:
    """The tier of each tenant: as many of each as its part says, in random order, so that any may be a large one."""
    tiers = [tier for tier, part in parts.items() for _ in range(round(count * part))]
    last = list(parts)[-1]
    tiers = (tiers + [last] * count)[:count]
    source.shuffle(tiers)
    return tiers


@dataclass(frozen=True)
class Schedule:
    """What is sent in a replay, and how many times as fast as in the trace."""

    sendings: tuple[Sending, ...]
    factor: float


def sped_up(requests: Sequence[Request], senders: Sequence[int], rate: float, seconds: float) -> Schedule:
    """The first requests of a trace, so close together that there are so many a second, for so many seconds.

    The rate is that of the whole; the trace's own bursts and lulls remain. A short trace gives a short replay.
    """
    taken = requests[: max(2, round(rate * seconds))]
    first = taken[0].at
    factor = (taken[-1].at - first) * rate / len(taken)
    sendings = (
        Sending((request.at - first) / factor, sender, request) for request, sender in zip(taken, senders, strict=False)
    )
    return Schedule(tuple(sendings), factor)


def draw(count: int, weights: Sequence[float], source: random.Random) -> list[int]:
    """So many senders, by number, each drawn by its weight."""
    return source.choices(range(len(weights)), weights, k=count)
