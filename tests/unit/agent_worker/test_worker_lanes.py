from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_worker.lanes import Slots, guaranteed_slots
from common.catalogue import Tier
from common.errors import ConfigurationError

TIERS = st.lists(st.integers(1, 1000), min_size=1, max_size=8).map(
    lambda weights: [Tier(name=f"t{number}", weight=weight) for number, weight in enumerate(weights)]
)


DEFAULT = [Tier(name="enterprise", weight=6), Tier(name="pro", weight=3), Tier(name="free", weight=1)]


def test_half_of_the_slots_are_guaranteed_by_weight() -> None:
    assert guaranteed_slots(20, DEFAULT) == {"enterprise": 6, "pro": 3, "free": 1}
    assert guaranteed_slots(3, DEFAULT) == {"enterprise": 1, "pro": 1, "free": 1}


@given(TIERS, st.integers(0, 500))
def test_half_of_the_slots_are_given_and_each_tier_has_one(tiers: list[Tier], extra: int) -> None:
    slots = len(tiers) + extra
    shares = guaranteed_slots(slots, tiers)
    assert sum(shares.values()) == max(len(tiers), slots // 2)
    assert min(shares.values()) >= 1


@given(TIERS, st.integers(0, 500))
def test_shares_follow_the_weights(tiers: list[Tier], extra: int) -> None:
    slots = 2 * len(tiers) + extra
    shares = guaranteed_slots(slots, tiers)
    slots //= 2
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


def fill(slots: Slots, waiting: dict[str, int]) -> None:
    """Begin all that may begin: guarantees by themselves, then one loan after the other."""
    for tier, guarantee in slots.guaranteed.items():
        take(slots, waiting, tier, guarantee - slots.held[tier])
    while (borrower := slots.borrower([name for name, left in waiting.items() if left])) is not None:
        take(slots, waiting, borrower, 1)


def take(slots: Slots, waiting: dict[str, int], tier: str, most: int) -> None:
    begun = max(0, min(most, waiting[tier]))
    slots.held[tier] += begun
    waiting[tier] -= begun


def test_what_only_one_tier_needs_it_has_and_another_still_begins_at_once() -> None:
    slots = Slots(20, DEFAULT)
    waiting = {"enterprise": 0, "pro": 0, "free": 100}
    fill(slots, waiting)
    assert slots.held == {"enterprise": 0, "pro": 0, "free": 20}
    waiting["enterprise"] = 100
    fill(slots, waiting)
    assert slots.held == {"enterprise": 6, "pro": 0, "free": 20}


def test_under_saturation_slots_go_by_weight() -> None:
    slots = Slots(100, DEFAULT)
    fill(slots, {"enterprise": 1000, "pro": 1000, "free": 1000})
    assert slots.held == {"enterprise": 60, "pro": 30, "free": 10}


WAITING = st.lists(st.integers(0, 300), min_size=8, max_size=8)


@given(TIERS, st.integers(0, 200), WAITING)
def test_no_slot_stays_free_while_work_waits_and_no_more_are_taken_than_there_are(
    tiers: list[Tier], extra: int, amounts: list[int]
) -> None:
    slots = Slots(len(tiers) + extra, tiers)
    waiting = dict(zip(slots.held, amounts, strict=False))
    fill(slots, waiting)
    assert slots.taken == min(slots.total, sum(amounts[: len(tiers)]))


@given(TIERS, st.integers(0, 200), WAITING, st.integers(0, 2**32))
@settings(deadline=None)
def test_each_tier_has_its_guarantee_while_it_has_work_whatever_came_before(
    tiers: list[Tier], extra: int, amounts: list[int], seed: int
) -> None:
    slots, chance = Slots(len(tiers) + extra, tiers), random.Random(seed)
    waiting = dict.fromkeys(slots.held, 0)
    guarantees = sum(slots.guaranteed.values())
    for tier, amount in zip(chance.choices(list(slots.held), k=8), amounts, strict=True):
        waiting[tier] += amount
        fill(slots, waiting)
        for name, guarantee in slots.guaranteed.items():
            assert slots.held[name] >= guarantee or not waiting[name]
        assert slots.taken <= slots.total + guarantees
        for name in slots.held:
            slots.held[name] -= chance.randint(0, slots.held[name])


@given(TIERS, st.integers(0, 200), st.integers(0, 7))
def test_from_any_start_saturation_converges_to_the_weights(tiers: list[Tier], extra: int, first: int) -> None:
    slots = Slots(2 * len(tiers) + extra, tiers)
    greedy = list(slots.held)[first % len(tiers)]
    fill(slots, {**dict.fromkeys(slots.held, 0), greedy: 10_000})
    waiting = dict.fromkeys(slots.held, 10_000)
    for _ in range(2):  # every run ends, one at a time, and what may begin begins
        for name in [name for name, held in slots.held.items() for _ in range(held)]:
            if slots.held[name]:
                slots.held[name] -= 1
                fill(slots, waiting)
    total = sum(tier.weight for tier in tiers)
    assert slots.taken == slots.total
    spare = sum(max(0.0, slots.guaranteed[tier.name] - slots.total * tier.weight / total) for tier in tiers)
    for tier in tiers:
        fair = slots.total * tier.weight / total
        assert slots.held[tier.name] <= max(fair + 2, slots.guaranteed[tier.name])
        assert slots.held[tier.name] >= fair - spare - 2
