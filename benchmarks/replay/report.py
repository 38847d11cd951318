"""The tables of a replay: every tier at every load, and what was asked of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.figures import Figure, aligned
from benchmarks.replay.summary import PERCENTS, TierSummary, middle

REST, BUSY, FULL = 40, 80, 120
LOADS = (REST, BUSY, FULL)
"""Percent of what the stack can do."""


@dataclass(frozen=True)
class Replayed:
    """One replay, by tier, and what was lost or failed in it."""

    tiers: Mapping[str, TierSummary]
    lost: int
    failed: int


def tiers_table(replays: Mapping[int, Sequence[Replayed]], tiers: Sequence[str]) -> str:
    """As Markdown; medians over the replays of a load, times in milliseconds."""
    percents = "/".join(f"p{percent}" for percent in PERCENTS)
    header = (
        "load",
        "tier",
        "tasks",
        "refused",
        f"wait {percents} (ms)",
        f"first token {percents} (ms)",
        "slots",
        "unfairness",
    )
    rows = [
        (f"{load} %", tier, *_cells(middle([each.tiers[tier] for each in runs if tier in each.tiers])))
        for load, runs in replays.items()
        for tier in tiers
        if any(tier in each.tiers for each in runs)
    ]
    return aligned([header, *rows])


def _cells(tier: TierSummary) -> tuple[str, ...]:
    return (
        str(tier.tasks),
        str(tier.refused),
        _milliseconds(tier.waits),
        _milliseconds(tier.first_tokens),
        f"{tier.share * 100:.1f} %",
        f"{tier.unfairness:.3g} ×",
    )


def _milliseconds(seconds: Sequence[float]) -> str:
    return " / ".join(f"{each * 1000:,.0f}" for each in seconds)


def figures(replays: Mapping[int, Sequence[Replayed]]) -> list[Figure]:
    """What is asked of an overload: the best tier hardly notices, the last one goes on, and nothing is lost."""
    rest, full = replays[REST], replays[FULL]
    return [
        *(
            Figure(
                f"enterprise wait p{percent} at {FULL} %, against {REST} %",
                "×",
                tuple(
                    b.tiers["enterprise"].waits[place] / a.tiers["enterprise"].waits[place]
                    for a, b in zip(rest, full, strict=True)
                ),
                better="less",
                must=2,
            )
            for place, percent in enumerate(PERCENTS)
        ),
        Figure(
            f"free runs that ended at {FULL} % while requests came",
            "",
            tuple(float(each.tiers["free"].ended_in_time) if "free" in each.tiers else 0.0 for each in full),
            must=1,
        ),
        *(
            Figure(
                f"accepted and {name}, all loads",
                "",
                tuple(
                    float(sum(getattr(replays[load][number], name) for load in replays)) for number in range(len(full))
                ),
                better="less",
                must=0,
            )
            for name in ("lost", "failed")
        ),
    ]
