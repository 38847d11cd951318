"""Which tiers a worker serves, and how many of its slots are guaranteed to each. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from common.catalogue import Tier
from common.errors import ConfigurationError


def served_tiers(names: Collection[str] | None, tiers: Sequence[Tier]) -> list[Tier]:
    """The tiers that a worker serves, best first: those that are named, or all.

    Raises `ConfigurationError` where one is named that there is not.
    """
    known = {tier.name: tier for tier in tiers}
    for name in names or ():
        if name not in known:
            raise ConfigurationError(f"LANEWAY_LANES names {name!r}; the tiers are {', '.join(known)}.")
    return [tier for tier in tiers if names is None or tier.name in names]


def guaranteed_slots(slots: int, tiers: Sequence[Tier]) -> dict[str, int]:
    """Half of the slots, by tier: by weight, remainders to the largest fractions, best tier first, at least one each.

    Raises `ConfigurationError` where there are fewer slots than tiers.
    """
    if slots < len(tiers):
        raise ConfigurationError(f"LANEWAY_SLOTS is {slots}, but each of the {len(tiers)} tiers needs one slot.")
    given = max(len(tiers), slots // 2)
    total = sum(tier.weight for tier in tiers)
    shares = {tier.name: max(1, given * tier.weight // total) for tier in tiers}
    # One that was raised to a slot has its fraction already, and more.
    unraised = [tier for tier in tiers if given * tier.weight >= total]
    by_fraction = sorted(unraised, key=lambda tier: given * tier.weight % total, reverse=True)
    for tier in by_fraction[: max(0, given - sum(shares.values()))]:
        shares[tier.name] += 1
    while sum(shares.values()) > given:  # the ones that were raised to one slot are paid for by the largest
        shares[max(shares, key=lambda name: shares[name])] -= 1
    return shares
