"""How a worker's slots are shared among the tiers: a part is guaranteed to each, the rest is lent where there is work.

Pure: what is decided here is carried out by the consumers of the lanes (their guarantees) and by `lending` (the rest).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from common.catalogue import Tier
from common.errors import ConfigurationError


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


class Slots:
    """The slots of one worker, and how many runs of each tier are in them.

    A guarantee is never lent for good: work of its tier begins in it at once, though all other slots be taken. So there
    are at most `total` runs, and for as long as borrowers still run as many more as guarantees were lent.
    """

    def __init__(self, total: int, tiers: Sequence[Tier]) -> None:
        self.total = total
        self.guaranteed = guaranteed_slots(total, tiers)
        self.held = dict.fromkeys(self.guaranteed, 0)
        self._weights = {tier.name: tier.weight for tier in tiers}

    @property
    def taken(self) -> int:
        """Runs of all tiers."""
        return sum(self.held.values())

    def is_full(self, tier: str) -> bool:
        """Whether the tier's guarantee is used up: only then can more of its work be waiting."""
        return self.held[tier] >= self.guaranteed[tier]

    def borrower(self, hungry: Collection[str]) -> str | None:
        """The tier that the next free slot is lent to, of those that may have work beyond their guarantee: the one
        furthest below its share by weight, best tier first. None where no slot is free, or nobody needs one.
        """
        if self.taken >= self.total:
            return None
        needy = [tier for tier in self.held if tier in hungry and self.is_full(tier)]
        # As seats are shared after an election (Sainte-Laguë): no bias to the large or to the small.
        return min(needy, key=lambda tier: (2 * self.held[tier] + 1) / self._weights[tier], default=None)
