from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_worker.lanes import guaranteed_slots
from common.catalogue import Tier
from common.errors import ConfigurationError

TIERS = st.lists(st.integers(1, 1000), min_size=1, max_size=8).map(
    lambda weights: [Tier(name=f"t{number}", weight=weight) for number, weight in enumerate(weights)]
)


def test_default_tiers_get_six_three_one() -> None:
    tiers = [Tier(name="enterprise", weight=6), Tier(name="pro", weight=3), Tier(name="free", weight=1)]
    assert guaranteed_slots(20, tiers) == {"enterprise": 12, "pro": 6, "free": 2}
    assert guaranteed_slots(3, tiers) == {"enterprise": 1, "pro": 1, "free": 1}


@given(TIERS, st.integers(0, 500))
def test_all_slots_are_given_and_each_tier_has_one(tiers: list[Tier], extra: int) -> None:
    slots = len(tiers) + extra
    shares = guaranteed_slots(slots, tiers)
    assert sum(shares.values()) == slots
    assert min(shares.values()) >= 1


@given(TIERS, st.integers(0, 500))
def test_shares_follow_the_weights(tiers: list[Tier], extra: int) -> None:
    slots = len(tiers) + extra
    shares = guaranteed_slots(slots, tiers)
    total = sum(tier.weight for tier in tiers)
    raised = any(slots * tier.weight < total for tier in tiers)
    for tier in tiers:
        fair = slots * tier.weight / total
        assert shares[tier.name] <= max(1, fair + 1)
        if not raised:
            assert shares[tier.name] > fair - 1


def test_fewer_slots_than_tiers_is_a_contradiction() -> None:
    with pytest.raises(ConfigurationError, match="LANEWAY_SLOTS is 1"):
        guaranteed_slots(1, [Tier(name="a", weight=1), Tier(name="b", weight=1)])
