"""All lanes have more than enough to do: whether each gets its weight's share of what the worker ends."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from benchmarks.distributions import deviation, shares
from benchmarks.fairness.ground import SLOTS, Tenant, begun, body, clear, ended_between, ground, new_tenant, submit
from benchmarks.figures import Figure, Panel
from benchmarks.stand import CATALOGUE, RUNS, run
from common.catalogue import load_catalogue
from tests.acceptance.stack import TIERS, Stack
from tests.servers import Servers

QUEUED = dict(zip(TIERS, (1500, 900, 600), strict=True))
SECONDS = 12.0


def measure(servers: Servers, logs: Path) -> list[Figure]:
    """Runs that ended while every lane had a backlog, by tier."""
    weights = {tier.name: float(tier.weight) for tier in load_catalogue(CATALOGUE).tiers}
    misses: list[float] = []
    found: dict[str, list[float]] = {tier: [] for tier in TIERS}
    last: dict[str, list[float]] = {}
    with ground(servers, logs) as stack:
        for _ in range(RUNS):
            counts, last = run(_saturated(stack))
            misses.append(deviation(counts, weights) * 100)
            for tier, share in shares(counts).items():
                found[tier].append(share * 100)
    due = {tier: share * 100 for tier, share in shares(weights).items()}
    panel = Panel(
        "All lanes saturated: share of completions",
        "seconds",
        "% of the runs so far",
        _shares_over_time(last),
        levels=due,
    )
    return [
        Figure(
            "all lanes saturated: the tier furthest from its weight is off by",
            "%",
            tuple(misses),
            better="less",
            must=10,
            aim=5,
            panel=panel,
        ),
        *(Figure(f"share of {tier} (weight {due[tier]:g} %)", "%", tuple(found[tier])) for tier in TIERS),
    ]


async def _saturated(stack: Stack) -> tuple[dict[str, int], dict[str, list[float]]]:
    """How many runs of each tier ended in the time, and when."""
    tenants = {tier: new_tenant(stack, tier) for tier in TIERS}
    await submit(stack, _interleaved(tenants), body())
    counts, ends = await ended_between(stack, tenants, SECONDS)
    left = {tier: QUEUED[tier] - count for tier, count in (await begun(stack, tenants)).items()}
    assert min(left.values()) > SLOTS, f"a lane ran dry while it was measured: {left}"
    await clear(stack)
    return counts, ends


def _interleaved(tenants: dict[str, Tenant]) -> list[Tenant]:
    """All lanes fill at once."""
    placed = chain.from_iterable(((place / QUEUED[tier], tier) for place in range(QUEUED[tier])) for tier in tenants)
    return [tenants[tier] for _, tier in sorted(placed)]


def _shares_over_time(ends: dict[str, list[float]]) -> dict[str, list[tuple[float, float]]]:
    """Each tier's share of all that had ended, twice a second."""
    steps = [step / 2 for step in range(1, int(SECONDS * 2) + 1)]
    counted = [shares({tier: sum(end <= at for end in ends[tier]) for tier in ends}) for at in steps]
    return {tier: [(at, parts[tier] * 100) for at, parts in zip(steps, counted, strict=True)] for tier in ends}
