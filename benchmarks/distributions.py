"""What many waits say together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import median, quantiles

CURVE_POINTS = 60


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that so many percent of all do not exceed, interpolated; a whole percent from 1 to 99."""
    if len(values) == 1:
        return values[0]
    return quantiles(values, n=100, method="inclusive")[percent - 1]


def cumulated(values: Collection[float]) -> list[tuple[float, float]]:
    """The curve (value, percent of all that are not above it), thinned to what an eye can tell apart."""
    ordered = sorted(values)
    last = len(ordered) - 1
    kept = sorted({round(last * step / (CURVE_POINTS - 1)) for step in range(CURVE_POINTS)}) if ordered else []
    return [(ordered[place], 100 * (place + 1) / len(ordered)) for place in kept]


def shares(counts: Mapping[str, float]) -> dict[str, float]:
    """Each one's part of the sum."""
    total = sum(counts.values())
    return {name: count / total if total else 0.0 for name, count in counts.items()}


def deviation(counts: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """By how much the share that is furthest from its weight misses it, as a part of what it should be."""
    due = shares(weights)
    return max(abs(share / due[name] - 1) for name, share in shares(counts).items())


def unfairness(waits: Iterable[Sequence[float]]) -> float:
    """How many times as long as the median tenant the tenant waits that waits longest, by their median waits."""
    typical = [median(each) for each in waits if each]
    return max(typical) / median(typical)
