"""How a worker's slots are shared among the tiers: each has its guarantee, by weight, and at least one."""

from __future__ import annotations

from collections.abc import Sequence

from common.catalogue import Tier
from common.errors import ConfigurationError


def guaranteed_slots(slots: int, tiers: Sequence[Tier]) -> dict[str, int]:
    """Slots by tier, together exactly `slots`: by weight, the remainders to the largest fractions, best tier first.

    Raises `ConfigurationError` where there are fewer slots than tiers.
    """
    if slots < len(tiers):
        raise ConfigurationError(f"LANEWAY_SLOTS is {slots}, but each of the {len(tiers)} tiers needs one slot.")
    total = sum(tier.weight for tier in tiers)
    shares = {tier.name: max(1, slots * tier.weight // total) for tier in tiers}
    # One that was raised to a slot has its fraction already, and more.
    unraised = [tier for tier in tiers if slots * tier.weight >= total]
    by_fraction = sorted(unraised, key=lambda tier: slots * tier.weight % total, reverse=True)
    for tier in by_fraction[: max(0, slots - sum(shares.values()))]:
        shares[tier.name] += 1
    while sum(shares.values()) > slots:  # the ones that were raised to one slot are paid for by the largest
        shares[max(shares, key=lambda name: shares[name])] -= 1
    return shares
