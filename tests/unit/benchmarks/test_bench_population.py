"""Who sends what is drawn, and drawn the same way each time."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from benchmarks.fairness.ground import poisson
from benchmarks.replay.population import TENANTS, TIER_PARTS, draw, sped_up, tiers_of, zipf_weights
from benchmarks.replay.trace import Request

REQUESTS = tuple(Request(at=float(place * 2), context=1, generated=1) for place in range(100))


def test_the_second_sends_half_of_what_the_first_does_and_the_tenth_a_tenth() -> None:
    weights = zipf_weights(TENANTS)

    assert sum(weights) == pytest.approx(1)
    assert weights[0] == pytest.approx(2 * weights[1])
    assert weights[0] == pytest.approx(10 * weights[9])


def test_the_same_seed_draws_the_same_senders_and_often_those_that_weigh_much() -> None:
    weights = zipf_weights(TENANTS)
    drawn = draw(20_000, weights, random.Random(7))

    assert drawn == draw(20_000, weights, random.Random(7))
    assert drawn != draw(20_000, weights, random.Random(8))
    counts = Counter(drawn)
    assert counts[0] / len(drawn) == pytest.approx(weights[0], rel=0.1)
    assert counts[0] > counts[1] > counts[5] > counts[50]


def test_every_tenant_has_a_tier_as_many_of_each_as_its_part_says() -> None:
    tiers = tiers_of(TENANTS, TIER_PARTS, random.Random(7))

    assert Counter(tiers) == {"enterprise": 20, "pro": 60, "free": 120}
    assert tiers == tiers_of(TENANTS, TIER_PARTS, random.Random(7))
    assert len(tiers_of(7, TIER_PARTS, random.Random(7))) == 7


def test_a_trace_is_sped_up_to_the_rate_and_keeps_its_rhythm() -> None:
    bursty = (*REQUESTS[:10], *(Request(100.0, 1, 1),) * 10, *(Request(200.0 + n, 1, 1) for n in range(80)))

    schedule = sped_up(bursty, range(100), rate=2.0, seconds=10)

    assert len(schedule.sendings) == 20
    assert schedule.factor == pytest.approx(10)  # 100 s of the trace in 10
    assert [each.at for each in schedule.sendings[8:12]] == pytest.approx([1.6, 1.8, 10, 10])
    assert [each.tenant for each in schedule.sendings] == list(range(20))


def test_a_short_trace_gives_a_short_replay_at_the_same_rate() -> None:
    schedule = sped_up(REQUESTS, range(100), rate=10.0, seconds=60)

    assert len(schedule.sendings) == 100
    assert schedule.sendings[-1].at == pytest.approx(100 / 10)


def test_arrivals_come_at_their_rate_in_their_time_and_the_same_for_a_seed() -> None:
    times = poisson(50, 100, seed=3)

    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 100
    assert len(times) == pytest.approx(5000, rel=0.05)
    assert times == poisson(50, 100, seed=3)
    assert times != poisson(50, 100, seed=4)
