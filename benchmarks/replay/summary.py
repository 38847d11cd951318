"""What a replay did to each tier."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from uuid import UUID

from benchmarks.distributions import percentile, shares, unfairness

PERCENTS = (50, 95, 99)


@dataclass(frozen=True)
class Ended:
    """A task that was accepted and has ended; times in seconds."""

    tenant: UUID
    tier: str
    wait: float
    """From its submission to the beginning of its run."""
    first_token: float | None
    """From its submission; None where it said nothing."""
    ran: float
    """How long it had its slot."""
    ended_in_time: bool
    """While requests still came."""


@dataclass(frozen=True)
class TierSummary:
    """One tier in one replay; times in seconds, percentiles as in `PERCENTS`."""

    tasks: int
    refused: int
    waits: tuple[float, ...]
    first_tokens: tuple[float, ...]
    share: float
    """Of all the time that runs had slots."""
    unfairness: float
    ended_in_time: int


def summary(ended: Collection[Ended], refused: Mapping[str, int], tiers: Sequence[str]) -> dict[str, TierSummary]:
    """By tier; those that ended nothing are left out."""
    parts = shares({tier: sum(each.ran for each in ended if each.tier == tier) for tier in tiers})
    found = {}
    for tier in tiers:
        own = [each for each in ended if each.tier == tier]
        if own:
            found[tier] = _summary(own, refused.get(tier, 0), parts[tier])
    return found


def _summary(own: Sequence[Ended], refused: int, share: float) -> TierSummary:
    by_tenant = defaultdict(list)
    for each in own:
        by_tenant[each.tenant].append(each.wait)
    spoken = [each.first_token for each in own if each.first_token is not None]
    return TierSummary(
        tasks=len(own),
        refused=refused,
        waits=tuple(percentile([each.wait for each in own], percent) for percent in PERCENTS),
        first_tokens=tuple(percentile(spoken, percent) for percent in PERCENTS) if spoken else (),
        share=share,
        unfairness=unfairness(by_tenant.values()),
        ended_in_time=sum(each.ended_in_time for each in own),
    )


def middle(runs: Sequence[TierSummary]) -> TierSummary:
    """The median of every number, over several replays of the same."""
    return TierSummary(
        tasks=round(median(each.tasks for each in runs)),
        refused=round(median(each.refused for each in runs)),
        waits=tuple(median(each) for each in zip(*(each.waits for each in runs), strict=True)),
        first_tokens=tuple(median(each) for each in zip(*(each.first_tokens for each in runs), strict=True)),
        share=median(each.share for each in runs),
        unfairness=median(each.unfairness for each in runs),
        ended_in_time=round(median(each.ended_in_time for each in runs)),
    )
